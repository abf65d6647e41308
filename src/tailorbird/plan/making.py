"""The plan itself, decision by decision. Pure: no file is read, no clock is asked, nothing is computed with torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

from pydantic import ValidationError

from tailorbird.errors import ResourceError, SpecError
from tailorbird.plan import chains, repeating
from tailorbird.plan.claims import Claims
from tailorbird.plan.document import Entrant, Plan, Reading
from tailorbird.plan.estimate import Estimate, estimate
from tailorbird.plan.facts import Facts
from tailorbird.spec import Contestant, Spec, did_you_mean
from tailorbird.techniques.base import Technique
from tailorbird.types import SplitName

DEFAULT_CONTESTANTS = ("majority", "tfidf", "zero_shot", "few_shot", "lora", "sft")
MICRO_BATCH_TOKENS = {"cpu": 4096, "cuda": 16384, "mps": 4096}
SPLITS: tuple[SplitName, ...] = ("train", "tuning", "validation", "test")
BF16_GAIN = 1.3
CHECKPOINT_SECONDS = 60.0
REFERENCE_SECONDS = 3.0
IMPORTED_SECONDS = 2.0
START_SECONDS = 15.0  # hashing, probe, imports, the page
REHEARSAL_SECONDS = 6.0
DEFAULT_TIMEOUT = 60.0


def reading(spec: Spec, claims: Claims | None = None) -> Reading:
    """How the rows are to be read and split."""
    take = (claims or Claims(spec)).take
    take("data", "examples")
    replay = spec.data.replay
    if replay is not None:
        for name in type(replay).model_fields:
            take("data", "replay", name)
    return Reading(
        examples=tuple(spec.data.paths),
        test=take("data", "test"),
        validation=take("data", "validation"),
        shape=take("data", "shape"),
        columns=dict(take("data", "columns")),
        group=take("data", "group"),
        slices=tuple(take("data", "slices")),
        max_bad_share=take("data", "max_bad_share"),
        overlap=take("data", "overlap"),
        sizes={name: take("split", name) for name in SPLITS},
        seed=take("seed"),
        sheet=take("data", "sheet"),
        supervise=take("data", "supervise"),
        sources=tuple(source.model_dump(mode="json") for source in spec.data.sources),
        replay=None if replay is None else replay.model_dump(mode="json"),
    )


def make_plan(spec: Spec, facts: Facts) -> Plan:
    """Every decision of a run; SpecError with all problems when the spec asks for what cannot be."""
    claims = Claims(spec)
    claims.take("version")
    read = _reading(spec, claims)
    _task(claims, facts)
    dtype, reason = _dtype(claims, facts)
    tokens = max(MICRO_BATCH_TOKENS[facts.machine.device], facts.lengths.longest)
    limit = claims.take("limits", "memory_gb")
    memory_bytes = int(limit * 1e9) if limit else _available(facts)
    retention = claims.take("data", "retention")
    entrants, notes = _entrants(claims, facts, dtype, tokens, retention, memory_bytes)
    if read.replay is not None and not any(e.replay for e in entrants):
        claims.taken.discard(("data", "replay", "path"))
        claims.has_no_effect("data", "replay", "path", because="no contestant is trained on it")
    requirements = {
        name: value
        for name in type(spec.requirements).model_fields
        if (value := claims.take("requirements", name)) is not None
    }
    notes += _validation_note(facts.sizes["validation"], requirements["margin"])
    claims.take("device"), claims.take("limits", "threads"), claims.take("base", "name")
    if spec.base.revision:
        claims.has_no_effect("base", "revision", because="the base is a folder on this machine already")
    plan = Plan(
        name=claims.take("name") or spec.run_name,
        base=asdict(facts.base),
        task={
            "kind": facts.task.kind,
            "instruction": facts.task.instruction,
            "labels": dict(facts.task.labels),
            "max_new_tokens": facts.task.max_new_tokens,
            "metric": facts.task.metric,
        },
        reading=read,
        retention=retention,
        splits=dict(facts.sizes),
        entrants=entrants,
        requirements=requirements,
        device=facts.machine.device,
        device_name="" if facts.machine.device == "cpu" else facts.machine.device_name,
        dtype=dtype,
        dtype_reason=reason,
        threads=facts.machine.threads,
        micro_batch_tokens=tokens,
        memory_bytes=memory_bytes,
        gflops=dict(facts.machine.gflops),
        lengths=facts.lengths.as_dict(),
        seed=spec.seed,
        report_rows=claims.take("report", "rows"),
        minutes=_minutes(entrants),
        minutes_limit=claims.take("limits", "minutes"),
        notes=tuple(notes),
    )
    claims.finish()
    return plan


def wrong_settings(document: Mapping[str, Any]) -> list[tuple[tuple[str, ...], str]]:
    """Unknown techniques and settings in an expanded document, before data and base are looked at: so that a spec's
    mistakes are all said at once (`spec.build` takes this function). What depends on the base, `make_plan` finds."""
    from tailorbird import techniques
    from tailorbird.spec import REFERENCES

    given = document.get("contestants")
    contestants = [c for c in given if isinstance(c, Mapping)] if isinstance(given, list) else []
    found: list[tuple[tuple[str, ...], str]] = [
        (("contestants", label, "after"), what) for label, what in chains.problems(_links(contestants))
    ]
    for contestant in contestants:
        name = contestant.get("technique")
        if not isinstance(name, str) or name in REFERENCES or ":" in name:
            continue
        path = ("contestants", str(contestant.get("label")))
        if name not in techniques.NAMES:
            found.append(((*path, "technique"), _no_technique(name)))
            continue
        technique, settings = techniques.get(name), contestant.get("settings")
        try:
            technique.Settings.model_validate(settings if isinstance(settings, Mapping) else {})
        except ValidationError as error:
            missing = (e for e in error.errors() if e["type"] != "missing")  # a default of the base may fill it in
            found += [((*path, *named), what) for named, what in _setting_problems(missing, technique)]
    return found


def _links(contestants: Iterable[Mapping[str, Any]]) -> Iterator[chains.Link]:
    """As far as the fields are texts; others are the spec's own mistakes."""
    for contestant in contestants:
        label, technique, after = (contestant.get(name) for name in ("label", "technique", "after"))
        if isinstance(label, str) and isinstance(technique, str | None) and isinstance(after, str | None):
            yield chains.Link(label, technique, after)


def refuse_too_long(plan: Plan) -> None:
    """ResourceError when the estimate is above `limits.minutes`, naming what to drop to be within it."""
    limit = plan.minutes_limit
    if limit is None or plan.minutes <= limit:
        return
    dropped: list[str] = []
    left = plan.minutes
    for entrant in sorted(plan.planned, key=lambda e: -e.seconds):
        if left <= limit or entrant.technique == "zero_shot":
            continue
        dropped.append(entrant.label)
        left -= entrant.seconds / 60
    way = f"drop {', '.join(dropped)} (about {left:.0f} minutes then)" if left <= limit else "give it fewer rows"
    raise ResourceError(
        f"this run would take about {plan.minutes:.0f} minutes, and limits.minutes is {limit:g}",
        remedy=f"{way}, or raise limits.minutes",
    )


def _reading(spec: Spec, claims: Claims) -> Reading:
    read = reading(spec, claims)
    if not (read.test or read.validation) and "overlap" in spec.data.model_fields_set:
        claims.taken.discard(("data", "overlap"))
        claims.has_no_effect(
            "data", "overlap", because="it is about your own `test` or `validation` file, and none is named"
        )
    for name in ("test", "validation"):
        if getattr(read, name) and read.sizes[name] is not None:
            claims.taken.discard(("split", name))
            claims.has_no_effect("split", name, because=f"all rows of data.{name} are used")
    return read


def _task(claims: Claims, facts: Facts) -> None:
    """The task was built from these fields (see `tasks.build`); here they are claimed where they matter."""
    for name in ("kind", "instruction", "metric"):
        claims.take("task", name)
    classify = facts.task.kind == "classify"
    claims.take("task", "labels" if classify else "max_new_tokens")
    other = "max_new_tokens" if classify else "labels"
    claims.has_no_effect("task", other, because=f"the task is {facts.task.kind}")


def _dtype(claims: Claims, facts: Facts) -> tuple[str, str]:
    asked = claims.take("dtype")
    if asked != "auto":
        return asked, "asked for"
    gflops = facts.machine.gflops
    if not gflops:
        return "float32", "not probed yet: the run decides between float32 and bfloat16"
    gain = gflops["bfloat16"] / gflops["float32"]
    dtype = "bfloat16" if gain >= BF16_GAIN else "float32"
    return dtype, f"bfloat16 is {gain:.2f} times as fast as float32 here (taken from {BF16_GAIN})"


def _available(facts: Facts) -> int:
    """0 where nobody has looked: then nothing is cut to fit."""
    machine = facts.machine
    return machine.device_memory_bytes if machine.device == "cuda" else machine.memory_bytes


def _entrants(
    claims: Claims, facts: Facts, dtype: str, tokens: int, retention: str, memory_bytes: int
) -> tuple[tuple[Entrant, ...], list[str]]:
    asked: list[Contestant] | None = claims.take("contestants")
    notes: list[str] = []
    if asked is None:
        names = [n for n in DEFAULT_CONTESTANTS if facts.task.kind == "classify" or n not in ("majority", "tfidf")]
        contestants = [Contestant(label=n, technique=n) for n in names]
    else:
        contestants = list(asked)
        if not any(c.technique == "zero_shot" for c in contestants):
            label = "zero_shot" if all(c.label != "zero_shot" for c in contestants) else "zero_shot-base"
            contestants.append(Contestant(label=label, technique="zero_shot"))
            notes.append("zero_shot was added: every other contestant is also compared with the base as it is")
    for label, what in chains.problems([chains.Link(c.label, c.technique, c.after) for c in contestants]):
        claims.problem(what, "contestants", label, "after")
    made: dict[str, Entrant] = {}
    for contestant in chains.parents_first(contestants, lambda c: (c.label, c.after)):
        claims.take_contestant(contestant.label, "label", "technique", "answers", "command", "adapter", "after")
        if contestant.kind == "technique":
            entrant = _technique(claims, contestant, made, facts, dtype, tokens, retention, memory_bytes)
        else:
            entrant = _other(claims, contestant, facts)
        if entrant is None:
            continue
        if asked is None and entrant.state == "skipped":
            notes.append(f"{entrant.label} is left out: {entrant.note}")
            continue
        made[entrant.label] = entrant
    entrants = [made[c.label] for c in contestants if c.label in made]
    for label, what in chains.optimizer_problems(entrants):
        claims.problem(what, "contestants", label, "after")
    notes += [_may_have_seen(label, how) for label, how in facts.unsaid.items()]
    return tuple(_without_orphans(entrants)), notes


def _may_have_seen(label: str, how: str) -> str:
    return (
        f"{label} {how} one of which nobody knows all that it was trained on: if Validation or Test rows were among "
        "it, its scores are too high"
    )


def _without_orphans(entrants: list[Entrant]) -> list[Entrant]:
    """A contestant whose parent is skipped is skipped with it."""
    skipped = {e.label: e.note for e in entrants if e.state == "skipped"}
    while orphans := [e for e in entrants if e.state == "planned" and e.after in skipped]:
        skipped |= {e.label: f"it starts from {e.after}, which is skipped" for e in orphans}
        entrants = [replace(e, state="skipped", note=skipped[e.label]) if e in orphans else e for e in entrants]
    return entrants


def _other(claims: Claims, contestant: Contestant, facts: Facts) -> Entrant | None:
    """References and imported contestants."""
    label, kind = contestant.label, contestant.kind
    repeating.claim(claims, contestant, None)
    if contestant.settings:
        for name in contestant.settings:
            claims.has_no_effect(
                "contestants", label, name, because=f"{contestant.technique or 'an imported one'} has no settings"
            )
    claims.has_no_effect("contestants", label, "replay", because="only what is trained here meets data.replay")
    if contestant.command is not None:
        claims.take_contestant(label, "timeout_seconds")
    else:
        claims.has_no_effect("contestants", label, "timeout_seconds", because="only a command is waited for")
    if kind == "reference":
        entrant = Entrant(label, kind, contestant.technique, seconds=REFERENCE_SECONDS)
        if facts.task.kind != "classify":
            return replace(
                entrant, state="skipped", note=f"{contestant.technique} is for classify; this task is {facts.task.kind}"
            )
        return entrant
    source = {n: v for n in ("answers", "command", "adapter") if (v := getattr(contestant, n)) is not None}
    timeout = (contestant.timeout_seconds or DEFAULT_TIMEOUT) if contestant.command is not None else None
    return Entrant(label, kind, None, source, timeout, seconds=IMPORTED_SECONDS)


def _technique(
    claims: Claims,
    contestant: Contestant,
    made: Mapping[str, Entrant],
    facts: Facts,
    dtype: str,
    tokens: int,
    retention: str,
    memory_bytes: int,
) -> Entrant | None:
    """`made`: the contestants that this one may start from."""
    from tailorbird import techniques

    label, name = contestant.label, str(contestant.technique)
    claims.has_no_effect("contestants", label, "timeout_seconds", because="only a command is waited for")
    if name not in techniques.NAMES and ":" not in name:
        claims.problem(_no_technique(name), "contestants", label, "technique")
        claims.take_contestant(label, *contestant.settings)
        claims.taken.update(("contestants", label, *field) for field in repeating.FIELDS)
        return None
    technique = techniques.get(name)
    repeating.claim(claims, contestant, technique)
    before = chains.in_place(technique, contestant, made, facts.made_before)
    effective = _settings(claims, contestant, technique, facts, before)
    if effective is None:
        return None
    replay = _replay(claims, contestant, trained=technique.trained)
    guess: Estimate = estimate(
        facts,
        name,
        trained=technique.trained,
        settings=effective,
        dtype=dtype,
        micro_batch_tokens=tokens,
        retention=retention,
        memory_bytes=memory_bytes,
        replay=replay,
    )
    entrant = Entrant(
        label=label,
        kind="technique",
        technique=name,
        after=contestant.after,
        asked=dict(contestant.settings) | ({} if contestant.replay is None else {"replay": contestant.replay}),
        effective=effective,
        revision=technique.revision,
        trained=technique.trained,
        steps=guess.steps,
        checkpoint_steps=_checkpoint_steps(guess),
        seconds=guess.seconds,
        memory_bytes=guess.memory_bytes,
        replay=replay,
        micro_batch_tokens=guess.micro_batch_tokens,
        recompute=guess.recompute,
    )
    entrant = repeating.repeating(claims, contestant, technique, facts, guess, entrant, before)
    if facts.task.kind not in technique.tasks:
        note = f"{name} is for {', '.join(sorted(technique.tasks))}; this task is {facts.task.kind}"
        return replace(entrant, state="skipped", note=note)
    if not guess.fits:
        needed = f"{guess.memory_bytes / 1e9:.1f} GB of memory{' at the least' if technique.trained else ''}"
        note = f"needs about {needed}, {memory_bytes / 1e9:.1f} GB may be used"
        return replace(entrant, state="skipped", note=note)
    return entrant


def _replay(claims: Claims, contestant: Contestant, *, trained: bool) -> float:
    """The part of general conversations in its rows: its own `replay`, else the share of `data.replay`."""
    given = claims.spec.data.replay
    if given is not None and trained:
        claims.take_contestant(contestant.label, "replay")
        return given.share if contestant.replay is None else contestant.replay
    why = "only what is trained meets data.replay" if given is not None else "data.replay is not given"
    claims.has_no_effect("contestants", contestant.label, "replay", because=why)
    return 0.0


def _settings(
    claims: Claims, contestant: Contestant, technique: Technique, facts: Facts, before: chains.InPlace | None
) -> dict[str, Any] | None:
    """The technique's own typed settings, asked over a parent's over defaults; None after noting every problem."""
    label, asked = contestant.label, contestant.settings
    for name in asked:
        if before is not None and name in technique.begins:
            because = f"it goes on with what {contestant.after} has, and makes nothing anew"
            claims.has_no_effect("contestants", label, name, because=because)
        else:
            claims.take_contestant(label, name)
    try:
        typed = technique.settings({**chains.of_parent(technique, before), **asked}, facts.base, facts.sizes["train"])
    except ValidationError as error:
        for named, what in _setting_problems(error.errors(), technique):
            claims.problem(what, "contestants", contestant.label, *named)
        return None
    effective: dict[str, Any] = typed.model_dump(mode="json")
    if before is not None:
        for name, what in chains.other_shapes(technique, before, asked, effective).items():
            claims.problem(what, "contestants", label, name)
    return effective


def _no_technique(name: str) -> str:
    from tailorbird import techniques
    from tailorbird.spec import REFERENCES

    return f"no technique is called `{name}`; {did_you_mean(name, [*techniques.NAMES, *REFERENCES])}"


def _setting_problems(errors: Iterable[Any], technique: Any) -> Iterator[tuple[tuple[str, ...], str]]:
    """Pydantic's errors as (the setting, what is wrong with it)."""
    fields = list(technique.Settings.model_fields)
    for error in errors:
        name = str(error["loc"][0]) if error["loc"] else ""
        yield (name,) if name else (), _setting_problem(error, name, fields, technique.name)


def _setting_problem(error: Mapping[str, Any], name: str, fields: list[str], technique: str) -> str:
    if error["type"] == "extra_forbidden":
        if not fields:
            return f"{technique} has no settings"
        return f"no such setting of {technique}; {did_you_mean(name, fields)}"
    message = error["msg"]
    if error["type"] == "value_error":  # what a technique says of settings that do not go together
        return str(error["ctx"]["error"])
    return f"{message[:1].lower()}{message[1:]}, is {error.get('input')!r}"


def _checkpoint_steps(guess: Estimate) -> int:
    """About one checkpoint a minute, counted in steps so that no clock decides."""
    if not guess.steps:
        return 1
    return max(1, min(guess.steps, math.ceil(CHECKPOINT_SECONDS / max(guess.step_seconds, 1e-3))))


def _validation_note(rows: int, margin: float) -> list[str]:
    from tailorbird.measure.detectable import rows_for_margin

    needed = rows_for_margin(margin)
    if needed is None or rows >= needed:
        return []
    return [
        f"with {rows} Validation rows no cheaper contestant can be shown to be within {margin:g} of the best: "
        f"at least {needed} are needed, or a larger margin"
    ]


def _minutes(entrants: tuple[Entrant, ...]) -> float:
    planned = [e for e in entrants if e.state == "planned"]
    rehearsals = REHEARSAL_SECONDS * sum(e.trained for e in planned)
    return (START_SECONDS + rehearsals + sum(e.seconds for e in planned)) / 60


def need_a_contestant(plan: Plan) -> None:
    """SpecError when every contestant is skipped: there is nothing to run."""
    if not plan.planned:
        reasons = "\n".join(f"  {e.label}: {e.note}" for e in plan.entrants)
        raise SpecError(f"no contestant can run here\n{reasons}", remedy="name one that fits this task and machine")
