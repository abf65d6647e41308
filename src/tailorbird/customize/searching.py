"""Searching a prompt: candidates judged on Tuning rows, the best handed over."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailorbird import store
from tailorbird.artifacts.parts import Parts, Prompt
from tailorbird.customize.handing_over import hand_over
from tailorbird.customize.job import Job, target
from tailorbird.customize.parent import read_parent
from tailorbird.errors import Interrupted
from tailorbird.techniques.base import Prompted, SearchContext, Technique
from tailorbird.types import Message, Role, Row, Train

if TYPE_CHECKING:
    from tailorbird.answerers.local import LocalAnswerer

JUDGED_WRITING = 24  # Tuning rows a prompt search generates answers for


def by_search(job: Job, technique: Technique, out: Path) -> dict[str, Any]:
    from tailorbird.answerers.opening import open_parts
    from tailorbird.bases.renderer import Renderer
    from tailorbird.engine.batches import stream

    if not isinstance(technique, Prompted):
        raise TypeError(f"{technique.name} is neither trained nor prompted")
    renderer = Renderer.from_folder(Path(job.base.folder))
    parent = read_parent(job, technique)

    def beside(parts: Parts) -> Parts:
        return parts if parent is None else parts.over(parent.parts)

    done = 0
    scores: dict[str, float] = {}
    log: list[dict[str, Any]] = []

    def opened(parts: Parts, calibrated: bool = True) -> LocalAnswerer:
        compute = job.compute
        answerer = open_parts(
            job.base.folder,
            beside(parts),
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
        scores[_named(parts)] = score
        log.append({"step": done, "tuning_score": score})
        job.progress(done, done + 1, f"Tuning score {score:.3f}")
        if job.stop():
            raise Interrupted("stopped between candidates", remedy="the same command begins this search again")
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
        train=Train({row.id: row for row in job.train}.values()),  # a row that is met twice is shown once
        tuning=job.tuning,
        rng=random.Random(stream(job.seed, "search", technique.name)),
        fits=fits,
        judge=judge,
        content_free=lambda parts: opened(parts, calibrated=False).content_free(tuple(job.task.labels)),
        target=lambda row: target(job.task, row),
        note=job.say,
    )
    parts = beside(technique.search(context, technique.Settings.model_validate(job.settings)))
    facts: dict[str, Any] = {
        "steps": done,
        "tuning_score": scores.get(_named(parts)),
        "train_tokens": 0,
        "trainable_parameters": 0,
        "examples": len(parts.prompt.examples),
        "calibrated": parts.decode.calibration is not None,
    }
    store.write_jsonl(job.work / "log.jsonl", log)
    hand_over(job, technique, parts, renderer, facts, opened(parts).top_logits, out, parent)
    return facts


def _named(parts: Parts) -> str:
    """A prompt and its calibration, as a key."""
    calibration = parts.decode.calibration
    return store.sha256_json([parts.prompt.as_dict(), None if calibration is None else dict(calibration)])
