"""The units of work of a run. Each is a store step: done once, never lost, keyed by all that determines it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tailorbird import store
from tailorbird.running.drifting import drift_of
from tailorbird.running.measurements import measurement_dict, read_measurement, write_outcomes
from tailorbird.running.uncalibrated import write_scores
from tailorbird.running.workshop import Work, Workshop
from tailorbird.types import Answer, Answerer, Measurement, Request

# Raised by hand when the same inputs would give another result.
CUSTOMIZE, MEASURE, LATENCY, BITS = 7, 5, 3, 4
LATENCY_ROWS = 20
LATENCY_WRITTEN = 8  # a written answer takes seconds, alone: fewer tell enough
BITS_TEXTS = 16  # texts looked at together: fixed, so that going on gives the same figures


def making_inputs(shop: Workshop, work: Work) -> dict[str, Any]:
    """All that determines what a contestant is."""
    entrant, task = work.entrant, shop.task
    inputs: dict[str, Any] = {
        "label": entrant.label,
        "kind": entrant.kind,
        "technique": entrant.technique,
        "revision": entrant.revision,
        "asked": entrant.asked,
        "settings": entrant.effective,
        "source": dict(entrant.source),
        "brought": shop.inputs.contestants.get(entrant.label),
        "task": shop.plan.task,
    }
    if entrant.kind != "imported":
        inputs |= {"train": shop.row_ids("train"), "tuning": shop.row_ids("tuning")}
        inputs["seed"] = shop.plan.seed if work.seed is None else work.seed
    if replay := shop.material.replay_for(entrant.replay):
        inputs["replay"] = store.sha256_json([[row.id, row.weight] for row in replay])
    if work.parent is not None:
        inputs["after"] = work.parent.keys["customize"]
    if entrant.kind == "technique" or "adapter" in entrant.source:
        inputs["compute"] = shop.compute_inputs()
    if entrant.trained:
        inputs["compute"] |= {"micro_batch_tokens": entrant.micro_batch_tokens, "recompute": entrant.recompute}
    return inputs if task.labels else {**inputs, "max_new_tokens": task.max_new_tokens}


def customize_step(shop: Workshop, work: Work) -> store.Step:
    step = shop.steps.step("customize", making_inputs(shop, work), CUSTOMIZE)
    work.keys["customize"] = step.key
    return step


def trial_step(shop: Workshop, work: Work, number: int | str, before: str | None) -> store.Step:
    """One trial of a search, or a "repeat". Whether a trial was given up depends on those before it: `before` is the
    last one's key.
    """
    inputs = {**making_inputs(shop, work), "trial": number, "before": before}
    return shop.steps.step("trial", inputs, CUSTOMIZE)


def rehearse(shop: Workshop, work: Work) -> None:
    """One step on the longest rows, exported and reopened: what would fail late fails now."""
    step = trial_step(shop, work, 0, None) if work.entrant.tune else customize_step(shop, work)
    passed = step.folder / "rehearsed.json"
    if step.done or passed.is_file():
        return
    from tailorbird.customize import rehearse as try_once

    step.begin()
    with shop.stage(work.label, "rehearse"):
        job = shop.job(work.entrant, step.folder / "work", lambda done, total, note: None)
        try_once(job, step.folder / "rehearsal")
    store.write_json(passed, {"passed": True})


def customize(shop: Workshop, work: Work) -> None:
    """Makes the customization folder, or takes the one that is there."""
    step = customize_step(shop, work)
    work.artifact = step.folder / "customization"
    if not step.done:
        from tailorbird.customize import customize as make

        step.begin()
        inside = step.folder / "work"
        with shop.stage(work.label, work.part or "customize", work.entrant.steps) as progress:
            facts = make(shop.job(work.entrant, inside, progress.report, work.seed), work.artifact)
        log = store.read_jsonl(inside / "log.jsonl") if (inside / "log.jsonl").is_file() else []
        store.write_jsonl(step.folder / "log.jsonl", log)
        step.finish(facts)
        shutil.rmtree(inside, ignore_errors=True)
    work.made = step.result()
    shop.artifacts[work.label] = work.artifact


def measured(
    shop: Workshop, work: Work, split: str, get: Callable[[], Answerer], *, calibrated: bool = True
) -> Measurement:
    """The contestant on one split. Its cost facts are taken after Validation, whose requests they are the mean of."""
    inputs = {
        "contestant": making_inputs(shop, work),
        "split": split,
        "rows": shop.row_ids(split),
        "calibrated": calibrated,
    }
    step = shop.steps.step("measure", inputs, MEASURE)
    name = split if calibrated else f"{split} uncalibrated"
    work.keys[name] = step.key
    if not step.done:
        from tailorbird.measure import measure
        from tailorbird.measure.latency import reported_latency

        step.begin()
        rows = getattr(shop.material.splits, split)
        with shop.stage(work.label, split, len(rows)) as progress:
            watched = Watched(get())
            found = measure(watched, rows, shop.task, progress)
        write_outcomes(step.folder, found)
        if calibrated and work.entrant.technique == "zero_shot" and work.made.get("calibrated"):
            write_scores(step.folder, watched.seen)
        facts = watched.inner.cost_facts() if hasattr(watched.inner, "cost_facts") else {}
        reported = reported_latency(watched.seen)
        chosen = getattr(watched.inner, "settings", {})
        step.finish({**measurement_dict(found), "cost": facts, "reported_latency_ms": reported, "settings": chosen})
    result = step.result()
    found = read_measurement(step.folder, result)
    if split == "validation" and calibrated:
        work.cost |= result["cost"] | {"latency_ms": result["reported_latency_ms"]}
        work.found = result.get("settings", {})
    if calibrated and work.seed is None:
        tell_score(shop, work.label, found)
    return found


def tell_score(shop: Workshop, label: str, found: Measurement) -> None:
    s = found.score
    shop.events.emit("measured", label=label, split=found.split, score=s.score, low=s.low, high=s.high, n=s.n)


class Watched:
    """An answerer whose answers pass through unchanged and whose scores and seconds are kept."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.seen = inner, list[Answer]()

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        for answer in self.inner.answer(requests):
            self.seen.append(Answer(answer.id, "", scores=answer.scores, seconds=answer.seconds))
            yield answer


def latency(shop: Workshop, work: Work, get: Callable[[], Answerer]) -> None:
    """Median and p95 of one request alone; for what is not here (a file, a program) what it reports itself, if so."""
    if {"answers", "command"} & set(work.entrant.source):
        return
    step = shop.steps.step("latency", {"contestant": making_inputs(shop, work)}, LATENCY)
    work.keys["latency"] = step.key
    if not step.done:
        from tailorbird.measure.latency import measure_latency

        step.begin()
        count, warm_up = (LATENCY_ROWS, 3) if shop.task.labels else (LATENCY_WRITTEN, 1)
        requests = [shop.task.request(row) for row in shop.material.splits.validation[:count]]
        with shop.stage(work.label, "latency", count) as progress:
            found = measure_latency(get(), requests, shop.clock, warm_up=warm_up, least=count, progress=progress)
        step.finish(found)
    work.cost["latency_ms"] = step.result()


def forgetting(shop: Workshop, work: Work, get: Callable[[], Any]) -> None:
    """Bits per byte on general texts and drift on general prompts. A message prompt changes no weights: not
    applicable."""
    if not (work.entrant.trained or work.entrant.after or "adapter" in work.entrant.source):
        work.forgetting = {"state": "not_applicable"}
        return
    from tailorbird.measure.forgetting import change, load_retention

    named = shop.plan.retention
    source = named if named in ("full", "fast") else shop.material.spec.path(named)
    train = shop.material.splits.train
    retention = load_retention(source, (m.content for row in train for m in row.messages), shop.material.room.start)
    texts, counts = retention.texts, {"left_out": retention.left_out, "shortened": retention.shortened}
    base = _bits(shop, None, texts, shop.open_base)
    custom = _bits(shop, work, texts, get)
    found = change(base, custom, texts, kinds=retention.kinds, **counts)
    drift = drift_of(shop, work, making_inputs(shop, work), get)
    work.forgetting = {"state": "measured", "bits_per_byte": found, "drift_kl": drift}


def _bits(shop: Workshop, work: Work | None, texts: tuple[str, ...], get: Callable[[], Any]) -> list[float]:
    """Bits of each text under one customization, or under the bare base (shared by all contestants)."""
    made = making_inputs(shop, work) if work else shop.compute_inputs()
    step = shop.steps.step("bits", {"contestant": made, "texts": store.sha256_json(list(texts))}, BITS)
    if work:
        work.keys["bits"] = step.key
    if not step.done:
        step.begin()
        label = work.label if work else None
        bits: list[float] = []
        with shop.stage(label, "forgetting", len(texts)) as progress:
            scorer = get()
            for start in range(0, len(texts), BITS_TEXTS):
                bits += scorer.bits(texts[start : start + BITS_TEXTS])
                progress(len(bits), len(texts))
        step.finish(bits)
    return [float(b) for b in step.result()]
