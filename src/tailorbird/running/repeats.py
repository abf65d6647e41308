"""A contestant made as often as its plan says: settings searched, one customization a seed, their measurements pooled.

The seed with the lowest Tuning loss (or highest Tuning score; the first of equals) is the one whose files are handed
out, whose answers are shown and whose latency and forgetting are measured. Which it is says nothing about Validation.
"""

from __future__ import annotations

import shutil

from tailorbird import store
from tailorbird.measure.measure import over_seeds
from tailorbird.running import steps
from tailorbird.running.measurements import measurement_dict, read_measurement, write_outcomes
from tailorbird.running.tuning import tune
from tailorbird.running.workshop import Made, Work, Workshop

POOL = 1


def make(shop: Workshop, work: Work) -> None:
    """Everything up to the customizations, each with its seed; what was trained in a trial is not trained again."""
    tried = tune(shop, work) if work.entrant.tune else {}
    count = work.entrant.seeds
    if count > 1:
        work.by_seed = [
            Work(work.entrant, work.parent, seed=shop.plan.seed + n, part=f"seed {n + 1} of {count}")
            for n in range(count)
        ]
    for number, one in enumerate(work.ones):
        seed = shop.plan.seed + number
        step = steps.customize_step(shop, one)
        work.keys["customize"] = step.key
        if seed in tried:
            take_over(step, tried[seed])
        steps.customize(shop, one)
    if tried or work.by_seed:  # what the search took holds the trials that were taken over
        new = [one for number, one in enumerate(work.ones) if shop.plan.seed + number not in tried]
        seconds = [float(one.made.get("train_seconds") or 0.0) for one in new]
        work.cost["all_seconds"] = work.cost.get("tuning_seconds", 0.0) + sum(seconds)
    for step in tried.values():
        shutil.rmtree(step.folder / "customization", ignore_errors=True)
    work.exported = best_seed([one.made for one in work.ones])
    one = work.ones[work.exported]
    work.made, work.artifact, work.keys["customize"] = one.made, one.artifact, one.keys["customize"]
    if work.artifact is not None:
        shop.artifacts[work.label] = work.artifact  # what another contestant may start from
    for other in work.by_seed:
        work.keys[f"customize, seed {other.seed}"] = other.keys["customize"]


def best_seed(made: list[Made]) -> int:
    """The place of the lowest Tuning loss, or the highest Tuning score; of equals, and without any, the first."""

    def badness(number: int) -> float:
        facts = made[number]
        if facts.get("tuning_loss") is not None:
            return float(facts["tuning_loss"])
        return -float(facts.get("tuning_score") or 0.0)

    return min(range(len(made)), key=badness)


def take_over(step: store.Step, trial: store.Step) -> None:
    """The files that a trial made with the same settings and seed become the contestant's, if they are still there.

    Killed in between, they are gone and are made anew: to the same bytes.
    """
    made = trial.folder / "customization"
    if step.done or not made.is_dir() or not trial.done or trial.result()["state"] != "done":
        return
    step.begin()
    store.publish_folder(made, step.folder / "customization")
    log = trial.folder / "log.jsonl"
    store.write_jsonl(step.folder / "log.jsonl", store.read_jsonl(log) if log.is_file() else [])
    step.finish(trial.result()["facts"])


def pool(shop: Workshop, work: Work, split: str) -> None:
    """The measurements of all seeds as one, in a step of its own; of one seed there is nothing to pool."""
    if not work.by_seed:
        return
    exported = work.ones[work.exported]
    for one in work.by_seed:
        work.keys[f"{split}, seed {one.seed}"] = one.keys[split]
    for name in ("latency", "bits", "drift"):
        if name in exported.keys:
            work.keys[name] = exported.keys[name]
    work.cost |= exported.cost
    work.forgetting, work.found = exported.forgetting, exported.found
    inputs = {"seeds": [one.keys[split] for one in work.by_seed], "exported": work.exported}
    step = shop.steps.step("pool", inputs, POOL)
    work.keys[split] = step.key
    if not step.done:
        step.begin()
        pooled = over_seeds([one.measurements[split] for one in work.by_seed], work.exported)
        write_outcomes(step.folder, pooled)
        step.finish(measurement_dict(pooled))
    work.measurements[split] = read_measurement(step.folder, step.result())
    steps.tell_score(shop, work.label, work.measurements[split])
