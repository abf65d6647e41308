"""From a plan's contestant to a customization on disk: encode rows, train or search, export with its check rows.

The glue between techniques, engine, artifacts and answerers; it knows no statistics and no Validation or Test row.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailorbird import store
from tailorbird.artifacts.parts import Decode, Parts, Prompt
from tailorbird.errors import DataError
from tailorbird.techniques import get
from tailorbird.techniques.base import Prompted, SearchContext, Technique, Trained
from tailorbird.types import BaseFacts, Message, Role, Row, Train, Tuning

if TYPE_CHECKING:
    from tailorbird.answerers.local import LocalAnswerer
    from tailorbird.bases.renderer import Renderer
    from tailorbird.engine.batches import Encoded
    from tailorbird.engine.train import Best
    from tailorbird.tasks import Task

TopLogits = Callable[[Sequence[int]], tuple[list[int], list[float]]]
JUDGED_WRITING = 24  # Tuning rows a prompt search generates answers for
CHECK_ROWS = 3


@dataclass(frozen=True)
class Compute:
    """How the engine works, fixed by the plan: a run is repeatable only with all of it equal."""

    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1
    micro_batch_tokens: int = 4096
    checkpoint_steps: int = 50


@dataclass
class Job:
    """One contestant's work. `work` survives kills and holds checkpoints and log.jsonl."""

    label: str
    technique: str
    settings: dict[str, Any]
    asked: dict[str, Any]
    base: BaseFacts
    task: Task
    train: Train
    tuning: Tuning
    seed: int
    compute: Compute
    work: Path
    progress: Callable[[int, int, str], None] = lambda done, total, note: None
    stop: Callable[[], bool] = lambda: False
    note: Callable[[str], None] = lambda text: None
    notes: list[str] = field(default_factory=list)

    @property
    def prompt(self) -> Prompt:
        return Prompt(self.task.instruction or None)

    @property
    def decode(self) -> Decode:
        return decode_of(self.task)

    def say(self, text: str) -> None:
        self.notes.append(text)
        self.note(text)


def decode_of(task: Task) -> Decode:
    return Decode(task.kind, dict(task.labels), None, task.max_new_tokens or 0)


def target(task: Task, row: Row) -> str:
    """What the model is to answer: the label's words, or the answer as it stands."""
    if task.kind == "classify":
        assert row.label is not None
        return task.labels[row.label]
    return row.answer


def customize(job: Job, out: Path) -> dict[str, Any]:
    """Train or search, and write the customization folder `out` whole or not at all. Goes on from `job.work`.

    Returns what the report says of it: seconds, tokens, parameters, peak memory, steps, notes.
    """
    from tailorbird.engine.memory import PeakMemory, give_back_freed_memory
    from tailorbird.engine.probe import set_threads

    set_threads(job.compute.threads)
    technique = get(job.technique)
    job.work.mkdir(parents=True, exist_ok=True)
    before = _seconds_before(job.work)
    start = time.perf_counter()
    with PeakMemory(job.compute.device) as peak:
        try:
            facts = _train(job, technique, out) if isinstance(technique, Trained) else _search(job, technique, out)
        finally:
            store.write_json(job.work / "seconds.json", before + time.perf_counter() - start)
    facts |= {
        "train_seconds": before + time.perf_counter() - start,
        "peak_memory_mb": peak.megabytes,
        "notes": job.notes,
    }
    shutil.rmtree(job.work / "checkpoints", ignore_errors=True)
    give_back_freed_memory()
    return facts


def _seconds_before(work: Path) -> float:
    path = work / "seconds.json"
    return float(store.read_json(path)) if path.is_file() else 0.0


def encode(renderer: Renderer, task: Task, prompt: Prompt, row: Row, context: int) -> Encoded:
    """The row as it is trained on: rendered as served, only the wanted assistant turns supervised."""
    from tailorbird.engine.batches import Encoded

    turns = [*row.prompt, Message(Role.ASSISTANT, target(task, row))]
    supervised = [
        wanted for message, wanted in zip(row.messages, row.supervised, strict=True) if message.role is not Role.SYSTEM
    ]
    conversation = prompt.conversation(tuple(turns))
    marks = [False] * (len(conversation) - len(supervised)) + supervised
    rendered = renderer.row(conversation, marks)
    if len(rendered.ids) > context:
        raise DataError(f"{len(rendered.ids)} tokens are more than the context of {context}", where=str(row.place))
    return Encoded(tuple(rendered.ids), tuple(rendered.supervised), row.weight)


def _train(job: Job, technique: Trained, out: Path) -> dict[str, Any]:
    import torch

    from tailorbird.bases.model import load_model
    from tailorbird.bases.renderer import Renderer
    from tailorbird.engine.batches import RowSource, stream
    from tailorbird.engine.checkpoints import Checkpoints
    from tailorbird.engine.model import Model
    from tailorbird.engine.optimizer import Schedule
    from tailorbird.engine.scoring import top_logits
    from tailorbird.engine.train import train

    settings: Any = technique.Settings.model_validate(job.settings)
    base_folder, compute = Path(job.base.folder), job.compute
    renderer = Renderer.from_folder(base_folder)
    model = Model(load_model(base_folder, dtype=compute.dtype, device=compute.device), device=compute.device)
    generator = torch.Generator().manual_seed(stream(job.seed, "init", technique.name))
    trainable = technique.trainable(model, settings, generator)
    soft = model.virtual_tokens

    def source(rows: Sequence[Row]) -> RowSource:
        encoded = [encode(renderer, job.task, job.prompt, row, job.base.context - soft) for row in rows]
        return RowSource(
            encoded,
            batch_rows=settings.batch_rows,
            micro_batch_tokens=compute.micro_batch_tokens,
            seed=job.seed,
            soft=soft,
            device=compute.device,
        )

    rows = source(job.train)
    schedule = Schedule(
        settings.learning_rate, settings.epochs * rows.steps_per_epoch, settings.warmup_share, settings.schedule
    )
    best = train(
        model,
        trainable,
        technique.loss,
        rows,
        source(job.tuning) if len(job.tuning) else None,
        schedule=schedule,
        weight_decay=settings.weight_decay,
        clip=settings.clip,
        checkpoints=Checkpoints(job.work / "checkpoints"),
        checkpoint_steps=compute.checkpoint_steps,
        progress=job.progress,
        stop=job.stop,
    )
    store.write_jsonl(job.work / "log.jsonl", best.log)
    if best.skipped:
        job.say(f"{best.skipped} steps were skipped: loss or gradient not finite")
    parts = technique.parts(best.tensors, settings, job.prompt, job.decode)
    with torch.no_grad():
        for name, parameter in trainable.parameters.items():
            parameter.copy_(best.tensors[name])
    tokens = settings.epochs * sum(len(row.ids) for row in rows.rows)
    facts = {
        "steps": schedule.steps,
        "best_step": best.step,
        "tuning_loss": best.tuning_loss,
        "train_tokens": tokens,
        "supervised_tokens": best.tokens,
        "trainable_parameters": trainable.count,
        "shared_head_tokens": rows.head,
        "skipped_steps": best.skipped,
    }
    _check_moved(job, best)
    export(job, technique, parts, renderer, facts, lambda ids: top_logits(model, ids), out)
    return facts


def _check_moved(job: Job, best: Best) -> None:
    """A training that changed nothing is said, not sold."""
    if all(entry.get("loss") is None for entry in best.log):
        job.say("no step could be applied: nothing was learned")


def _search(job: Job, technique: Technique, out: Path) -> dict[str, Any]:
    from tailorbird.answerers.opening import open_parts
    from tailorbird.bases.renderer import Renderer
    from tailorbird.engine.batches import stream

    if not isinstance(technique, Prompted):
        raise TypeError(f"{technique.name} is neither trained nor prompted")
    renderer = Renderer.from_folder(Path(job.base.folder))
    done = 0
    log: list[dict[str, Any]] = []

    def opened(parts: Parts, calibrated: bool = True) -> LocalAnswerer:
        compute = job.compute
        answerer = open_parts(
            job.base.folder,
            parts,
            device=compute.device,
            dtype=compute.dtype,
            threads=compute.threads,
            batch_tokens=compute.micro_batch_tokens,
        )
        answerer.calibrated = calibrated
        return answerer

    kept: dict[str, tuple[list[dict[str, float]], list[Row]]] = {}

    def judge(parts: Parts) -> float:
        nonlocal done
        rows = list(job.tuning) if job.task.kind == "classify" else list(job.tuning)[:JUDGED_WRITING]
        key = store.sha256_json(parts.prompt.as_dict())
        if parts.decode.calibration is None or key not in kept:
            answers = list(opened(parts).answer([job.task.request(row) for row in rows]))
            if job.task.kind == "classify" and parts.decode.calibration is None:
                kept[key] = ([dict(a.scores or {}) for a in answers], rows)
            outcomes = [job.task.outcome(row, answer) for row, answer in zip(rows, answers, strict=True)]
            score = sum(o.score for o in outcomes) / len(outcomes)
        else:  # the same prompt's raw scores, shifted: nothing needs to be computed again
            bias = parts.decode.calibration
            hits = [max(s, key=lambda c: s[c] - bias[c]) == row.label for s, row in zip(*kept[key], strict=True)]
            score = sum(hits) / len(hits)
        done += 1
        log.append({"step": done, "tuning_score": score})
        job.progress(done, done + 1, f"Tuning score {score:.3f}")
        return score

    longest = max(
        (len(renderer.prompt(job.prompt.conversation(r.prompt))) for r in (*job.train, *job.tuning)), default=0
    )
    room = max(
        job.task.max_new_tokens or 0, max((len(renderer.answer(w)) for w in job.task.labels.values()), default=0)
    )

    def fits(prompt: Prompt) -> bool:
        empty = len(renderer.prompt(prompt.conversation((Message(Role.USER, ""),))))
        return empty + 2 * longest + room <= job.base.context  # twice: rows to come may be longer than those seen

    context = SearchContext(
        instruction=job.prompt.instruction,
        decode=job.decode,
        train=job.train,
        tuning=job.tuning,
        rng=random.Random(stream(job.seed, "search", technique.name)),
        fits=fits,
        judge=judge,
        content_free=lambda parts: opened(parts, calibrated=False).content_free(tuple(job.task.labels)),
        target=lambda row: target(job.task, row),
        note=job.say,
    )
    parts = technique.search(context, technique.Settings.model_validate(job.settings))
    facts: dict[str, Any] = {
        "steps": done,
        "train_tokens": 0,
        "trainable_parameters": 0,
        "examples": len(parts.prompt.examples),
        "calibrated": parts.decode.calibration is not None,
    }
    store.write_jsonl(job.work / "log.jsonl", log)
    export(job, technique, parts, renderer, facts, opened(parts).top_logits, out)
    return facts


def export(
    job: Job,
    technique: Technique,
    parts: Parts,
    renderer: Renderer,
    facts: dict[str, Any],
    top_logits: TopLogits,
    out: Path,
) -> None:
    """Write the folder beside, with the logits of three Train rows as the live model gives them, then publish it."""
    from tailorbird.answerers.opening import environment
    from tailorbird.artifacts.layout import write_parts
    from tailorbird.artifacts.manifest import write_manifest

    compute, base_folder = job.compute, Path(job.base.folder)
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    write_parts(temporary, parts, base_folder, job.base.name, renderer.template)
    checks = []
    for row in job.train[:CHECK_ROWS]:
        ids = renderer.prompt(parts.prompt.conversation(row.prompt))
        top_ids, logits = top_logits(ids)
        checks.append({"ids": ids, "top_ids": top_ids, "top_logits": logits})
    stable = {k: v for k, v in facts.items() if k not in ("train_seconds", "peak_memory_mb")}
    write_manifest(
        temporary,
        {
            "label": job.label,
            "technique": job.technique,
            "technique_revision": technique.revision,
            "citation": technique.citation,
            "base_name": job.base.name,
            "base_fingerprint": job.base.fingerprint,
            "compute_dtype": compute.dtype,
            "template_hash": renderer.template_hash,
            "settings_asked": job.asked,
            "settings_effective": job.settings,
            "data": {
                "train_rows": len(job.train),
                "tuning_rows": len(job.tuning),
                "train": "sha256:" + store.sha256_json([row.id for row in job.train]),
                "seed": job.seed,
            },
            "environment": environment(compute.device, compute.dtype, compute.threads),
            "training": stable,
            "check_rows": checks,
        },
    )
    store.publish_folder(temporary, out)


def rehearse(job: Job, work: Path) -> None:
    """One step on the longest rows, exported, reopened, two rows answered: what would fail late fails now.

    Raises whatever the long run would raise. Leaves nothing behind.
    """
    from tailorbird.answerers.opening import open_customization

    technique = get(job.technique)
    longest = sorted(job.train, key=lambda row: -sum(len(m.content) for m in row.messages))
    settings = dict(job.settings)
    count = 2
    if isinstance(technique, Trained):
        count = min(len(longest), int(settings["batch_rows"]))
        settings["epochs"] = 1
    else:
        settings |= {"draws": 1} if "draws" in settings else {}
    few = replace(
        job,
        settings=settings,
        train=Train(longest[:count]) if isinstance(technique, Trained) else job.train,
        tuning=Tuning(list(job.tuning)[:2]),
        work=work / "work",
        notes=[],
        note=lambda text: None,
        progress=lambda done, total, note: None,
    )
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        customize(few, work / "customization")
        compute = job.compute
        answerer = open_customization(
            work / "customization",
            job.base.folder,
            device=compute.device,
            threads=compute.threads,
            batch_tokens=compute.micro_batch_tokens,
        )
        rows = longest[:2]
        answered = list(
            answerer.answer(
                [
                    replace(job.task.request(row), max_new_tokens=min(8, job.task.max_new_tokens or 8))
                    if not job.task.labels
                    else job.task.request(row)
                    for row in rows
                ]
            )
        )
        if len(answered) != len(rows):
            raise AssertionError("the rehearsal got fewer answers than questions")
        answerer.close()
    finally:
        shutil.rmtree(work, ignore_errors=True)
