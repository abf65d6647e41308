"""The steps of a run, in order.

    read data and base -> plan -> references and what the user has -> zero_shot -> rehearsals -> the other techniques
    -> recommend and seal on Validation -> open Test once -> comparison.json, suspects.csv, report.html

A run that was killed, or stopped, goes on with the same command: every unit of work is a store step.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tailorbird import store, techniques
from tailorbird.data.text import printable
from tailorbird.errors import Interrupted, SpecError, TailorbirdError
from tailorbird.events import Events
from tailorbird.plan import Facts, Plan, chains, make_plan, refuse_too_long
from tailorbird.plan.making import need_a_contestant
from tailorbird.running import curves, repeats, sealing, steps, writing
from tailorbird.running.folder import RunFolder, choose
from tailorbird.running.inputs import Inputs, brought_path, inputs_of, parent_folder
from tailorbird.running.material import Material, read_material
from tailorbird.running.uncalibrated import Uncalibrated
from tailorbird.running.workshop import Work, Workshop
from tailorbird.spec import Spec
from tailorbird.types import JSON

SPLITS = ("validation", "test")
NAMED_STRAYS = 3  # answers that are no label, named in a note


@dataclass(frozen=True)
class Finished:
    """How a run ended. `exit_code` as in interfaces: 0 whatever the verdict, else the failures' own, or 8."""

    folder: Path
    comparison: JSON
    exit_code: int
    failures: dict[str, int]
    again: bool = False


def run_spec(
    spec: Spec,
    *,
    runs: Path = Path("runs"),
    fork: bool = False,
    events: Events | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Finished:
    """Does what the spec says, or goes on where it stopped, or returns at once what is finished already."""
    events = events or Events()
    begun = time.perf_counter()
    inputs = inputs_of(spec)
    folder = choose(runs, spec.run_name, inputs, fork=fork)
    if finished := folder.finished(inputs):
        comparison = store.read_json(folder.comparison)
        return Finished(folder.path, comparison, finished["exit_code"], finished["exit_codes"], again=True)
    refuse_itself(spec, folder.path)
    with store.RunLock(folder.path):
        try:
            events.emit("stage_started", label=None, stage="read data", total=0)
            material = read_material(spec, lambda text: events.emit("note", text=text))
            events.emit("stage_finished", label=None, stage="read data", seconds=time.perf_counter() - begun)
            plan = decide(spec, material, folder, inputs)
        except BaseException:
            folder.leave()
            raise
        shop = Workshop(plan, material, inputs, folder, events, stop)
        announce(shop)
        try:
            finished_run = work_through(shop)
        except Interrupted as error:
            raise Interrupted("stopped; nothing is lost", where=str(folder.path), remedy=error.remedy) from error
    verdict = finished_run.comparison.get("recommendation") or {}
    events.emit(
        "run_finished",
        verdict=verdict.get("verdict"),
        reason=verdict.get("reason"),
        folder=str(folder.path),
        seconds=time.perf_counter() - begun,
    )
    return finished_run


def refuse_itself(spec: Spec, folder: Path) -> None:
    """SpecError for a contestant that is, or starts from, what this very run has made: with each run it would be
    another one, which has learned from more of the rows."""
    for contestant in spec.contestants or ():
        for path in (parent_folder(spec, contestant.label, contestant.after), brought_path(spec, contestant)):
            if path is not None and path.resolve().is_relative_to(folder.resolve()):
                raise SpecError(
                    f"{contestant.label} starts from what this very run has made",
                    where=str(path),
                    remedy="name the contestant itself (`after: LABEL`), or give the spec another `name`",
                )


def decide(spec: Spec, material: Material, folder: RunFolder, inputs: Inputs) -> Plan:
    """The plan: the one that is kept when nothing changed, else a new one that keeps what the probe once said. Another
    card is a change: it rounds otherwise, and a run is made on one."""
    path = folder.path / "plan.json"
    kept = Plan.from_dict(store.read_json(path)) if path.is_file() else None
    if kept is not None and folder.inputs() == inputs and _techniques_are_the_same(kept) and _card_is_the_same(kept):
        plan = kept
    else:
        facts = material.facts(torch=True)
        plan = make_plan(spec, facts if kept is None else _kept_probe(facts, kept))
    refuse_too_long(plan)
    need_a_contestant(plan)
    notes = check_answers(plan, material)
    plan = replace(plan, entrants=tuple(replace(e, note=notes.get(e.label, e.note)) for e in plan.entrants))
    folder.begin(inputs, spec.text)
    store.write_json(path, plan.as_dict())
    writing.write_data(folder, material)
    return plan


def _techniques_are_the_same(kept: Plan) -> bool:
    """Whether every technique still makes what it made when the plan was written."""
    made = [(e.technique, e.revision) for e in kept.entrants if e.kind == "technique" and e.technique]
    return all(techniques.get(name).revision == revision for name, revision in made)


def _card_is_the_same(kept: Plan) -> bool:
    """Or there is none here: what is made already needs none, and for the rest its absence is told."""
    from tailorbird.bases.machine import card

    return kept.device == "cpu" or card(kept.device) in (kept.device_name, None)


def _kept_probe(facts: Facts, before: Plan) -> Facts:
    """The speeds that an earlier plan of this run was made with: a clock is asked once."""
    machine = facts.machine
    card = "" if machine.device == "cpu" else machine.device_name
    same = (machine.device, card, machine.threads) == (before.device, before.device_name, before.threads)
    return replace(facts, machine=replace(facts.machine, gflops=before.gflops)) if same else facts


def check_answers(plan: Plan, material: Material) -> dict[str, str]:
    """DataError before anything is computed when a file of answers lacks a Validation or Test row; what else its owner
    should know of it, by contestant: an answer that is none of the labels counts as wrong, and may be one misspelt."""
    from tailorbird.answerers.answers_file import AnswersFile

    notes: dict[str, str] = {}
    task = material.task
    for entrant in plan.planned:
        if "answers" in entrant.source:
            requests = [task.request(row) for row in (*material.splits.validation, *material.splits.test)]
            answers = AnswersFile(material.spec.path(entrant.source["answers"]))
            answers.check(requests)
            strays = answers.strays(requests, task.given)
            if strays:
                named = ", ".join(f"{printable(said)!r} ({count})" for said, count in strays.most_common(NAMED_STRAYS))
                more = ", …" if len(strays) > NAMED_STRAYS else ""
                notes[entrant.label] = (
                    f"{strays.total():,} of {len(requests):,} answers are none of the labels and count as wrong: "
                    f"{named}{more}"
                )
    return notes


def announce(shop: Workshop) -> None:
    plan = shop.plan
    shop.events.emit(
        "run_started",
        name=plan.name,
        contestants=[e.label for e in plan.entrants],
        folder=str(shop.folder.path),
        metric=plan.task["metric"],
        expected={e.label: e.seconds for e in plan.planned},
        local=[e.label for e in plan.planned if e.kind == "technique" or "adapter" in e.source],
    )
    for note in (*plan.notes, *shop.material.split_facts["warnings"], *shop.material.renderer.notes):
        shop.events.emit("note", text=note)


def work_through(shop: Workshop) -> Finished:
    works = [Work(entrant, state=entrant.state, note=entrant.note) for entrant in shop.plan.entrants]
    by_label = {work.label: work for work in works}
    for work in works:
        work.parent = by_label.get(work.entrant.after or "")
    for work in works:
        if work.state == "skipped":
            shop.events.emit("contestant", label=work.label, state="skipped", note=work.note)
    outside = [w for w in works if w.entrant.kind != "technique"]
    bare = [w for w in works if w.entrant.technique == "zero_shot"]
    others = [w for w in works if w not in outside and w not in bare]
    others.sort(key=lambda w: w.entrant.trained)  # prompts first, then what is trained; each in spec order
    others = chains.parents_first(others, lambda w: (w.label, w.entrant.after))

    for work in (*outside, *bare):
        attempt(shop, work, validate)
    for work in others:
        if work.parent is None:
            attempt(shop, work, steps.rehearse)
    for work in others:
        if work.parent is not None:  # what it starts from is there only now
            skip_orphan(shop, work)
            take_from_parent(shop, work, by_label)
            attempt(shop, work, steps.rehearse)
        attempt(shop, work, validate)
    for work in works:
        if work.alive:
            work.state = "done"
    seal = sealing.seal(shop, works)
    if seal.opens_test:
        sealing.open_test(shop, works, seal)
        for work in works:
            attempt(shop, work, test)
    return conclude(shop, works, seal)


def take_from_parent(shop: Workshop, work: Work, by_label: Mapping[str, Work]) -> None:
    """The settings that a parent's search has chosen and that its child goes on with: known only now."""
    technique = techniques.get(str(work.entrant.technique))
    planned = {label: other.entrant for label, other in by_label.items()}
    before = chains.in_place(technique, work.entrant, planned, shop.material.made_before)
    if before is not None and before.searched:
        effective = {**work.entrant.effective, **chains.of_parent(technique, before)}
        work.entrant = replace(work.entrant, effective=effective)


def skip_orphan(shop: Workshop, work: Work) -> None:
    """A contestant whose parent came to nothing is skipped, with the reason."""
    if work.alive and work.parent is not None and not work.parent.alive:
        work.state = "skipped"
        came = "failed" if work.parent.state == "failed" else "is skipped"
        work.note = f"it starts from {work.parent.label}, which {came}"
        shop.events.emit("contestant", label=work.label, state="skipped", note=work.note)


def validate(shop: Workshop, work: Work) -> None:
    """Makes a contestant and measures it on Validation: score, latency, forgetting."""
    if work.entrant.kind == "technique":
        repeats.make(shop, work)
    for number, one in enumerate(work.ones):
        with shop.opened(one) as get:
            one.measurements["validation"] = steps.measured(shop, one, "validation", get)
            if number == work.exported:
                steps.latency(shop, one, get)
                steps.forgetting(shop, one, get)
    repeats.pool(shop, work, "validation")
    _uncalibrated(shop, work, "validation")
    curves.draw(shop, work)
    shop.events.emit("contestant", label=work.label, state="done", note=None)


def test(shop: Workshop, work: Work) -> None:
    """Measures on Test, which `sealing.open_test` has opened."""
    for one in work.ones:
        with shop.opened(one) as get:
            one.measurements["test"] = steps.measured(shop, one, "test", get)
    repeats.pool(shop, work, "test")
    _uncalibrated(shop, work, "test")


def _uncalibrated(shop: Workshop, work: Work, split: str) -> None:
    """zero_shot once more without its calibration: the base as it is, which `versus_base` is against."""
    if work.entrant.technique == "zero_shot" and work.made.get("calibrated") and work.artifact is not None:
        measured, made = shop.folder.path / "steps" / work.keys[split], work.artifact
        work.uncalibrated[split] = steps.measured(
            shop, work, split, lambda: Uncalibrated(measured, made), calibrated=False
        )


def attempt(shop: Workshop, work: Work, step: Callable[[Workshop, Work], None]) -> None:
    """One contestant's step. A failure makes its row `failed`, its traceback is kept in error.txt; others go on."""
    if not work.alive:
        return
    try:
        step(shop, work)
    except (Interrupted, store.DiskError):
        raise
    except Exception as error:
        if store.disk_full(error):
            remedy = "free some space, then give the same command again: it goes on from the last finished step"
            raise store.DiskError("the disk is full", where=str(shop.folder.path), remedy=remedy) from error
        work.state, work.exit_code = "failed", getattr(error, "exit_code", 1)
        place = shop.folder.path / "steps" / (work.keys.get("customize") or f"failed-{work.label}") / "error.txt"
        store.write_text(place, "".join(traceback.format_exception(error)))
        shown = str(error) if isinstance(error, TailorbirdError) else f"{type(error).__name__}: {error}"
        work.note = f"{' '.join(shown.split())} ({place.relative_to(shop.folder.path).as_posix()})"
        shop.events.emit("contestant", label=work.label, state="failed", note=work.note)


def conclude(shop: Workshop, works: Sequence[Work], seal: sealing.Seal) -> Finished:
    """Writes what is handed out and marks the run finished."""
    with shop.stage(None, "report"):
        comparison = writing.write_all(shop, works, seal)
    failures = {w.label: w.exit_code for w in works if w.state == "failed"}
    exit_code = int(seal.recommendation.exit_code)
    shop.folder.finish(shop.inputs, failures, exit_code)
    return Finished(shop.folder.path, comparison, exit_code, failures)


def effective(plan: Plan) -> dict[str, Any]:
    """Label -> settings as they will be used, for showing."""
    return {e.label: dict(e.effective) for e in plan.entrants}
