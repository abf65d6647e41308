"""The trials of a search: each a store step, the best repeated with other seeds, all of it told in `work.tuning`.

A trial is given a Job, which holds Train and Tuning and can hold nothing else; its value is what the making of it
found on Tuning rows. What was finished is never tried again; what was killed goes on from its checkpoint. The files
of a trial are dropped as soon as a better one is there.
"""

from __future__ import annotations

import math
import shutil
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tailorbird import store
from tailorbird.errors import Interrupted, NumericError, ResourceError
from tailorbird.measure.seeds import sample_sd, t_quantile
from tailorbird.plan import Entrant
from tailorbird.plan.estimate import estimate
from tailorbird.plan.repeating import REPEATS
from tailorbird.running.steps import trial_step
from tailorbird.running.workshop import Progress, Work, Workshop
from tailorbird.techniques.ranges import Range
from tailorbird.types import JSON, Machine

if TYPE_CHECKING:
    from tailorbird.customize.tuning import Search, Trial

NOTHING: JSON = {"state": "done", "value": None, "facts": None, "note": None}  # of a trial, as yet
LEAST_SHARE = 0.01  # of a trial that failed at once: its seconds are taken for a hundredth of a training


@dataclass
class Tried:
    """A trial, its step, and what is kept of it there; the step of one that was too large for the memory is undone."""

    trial: Trial
    step: store.Step
    result: JSON

    @property
    def seconds(self) -> float:
        return float(self.result["seconds"])

    @property
    def share(self) -> float:
        """Of its training, how much was done: less than 1 where it ended early, was given up, or failed."""
        return float(self.result["share"])


def tune(shop: Workshop, work: Work) -> dict[int, store.Step]:
    """Searches, and puts the best settings into `work.entrant`. Returns steps whose files can be taken over, by seed.

    With a table of the trials when none of them finished: NumericError, or ResourceError when all were too large.
    """
    from tailorbird.customize.tuning import Search

    entrant, asked = work.entrant, dict(work.entrant.effective)
    assert entrant.tune is not None
    space = {name: Range.from_dict(found) for name, found in entrant.tune["over"].items()}
    search = Search(space, shop.plan.seed, lower=entrant.trained)
    tried: list[Tried] = []
    budget = Budget(shop, entrant)
    while (settings := search.suggest(_trials(tried), asked)) is not None:
        one = with_settings(shop, entrant, settings)
        if not budget.allows(one, tried, search):
            break
        trial = Work(
            one, work.parent, part=f"trial {len(tried) + 1}" + (f" of {budget.trials}" if budget.trials else "")
        )
        step = trial_step(shop, trial, len(tried), tried[-1].step.key if tried else None)
        tried.append(attempt(shop, trial, step, search, tried, settings))
        _drop_files(tried, search)
    best = search.best(_trials(tried))
    work.tuning = told(entrant, search, tried) | {"tuning_rows": len(shop.material.splits.tuning)}
    work.cost["tuning_seconds"] = sum(t.seconds for t in tried)
    if best is None:
        what, remedy = f"none of {len(tried)} trials finished\n{table(tried)}", "narrow what `over` searches"
        if not any(one.step.done for one in tried):
            raise ResourceError(what, remedy=f"{remedy}, or raise limits.memory_gb if the machine has more")
        raise NumericError(what, remedy=remedy)
    work.entrant = with_settings(shop, entrant, best.settings)
    repeats = repeat(shop, work, search, best) if budget.allows_repeats(work.entrant, tried) else []
    work.cost["tuning_seconds"] += sum(t.seconds for t in repeats)
    work.tuning |= noise(search, tried, best, repeats)
    work.tuning["said"] = sentence(work.tuning, search)
    return {shop.plan.seed + n: t.step for n, t in enumerate([tried[best.number], *repeats])}


def with_settings(shop: Workshop, entrant: Entrant, settings: Mapping[str, Any]) -> Entrant:
    effective = {**entrant.effective, **settings}
    return replace(entrant, effective=effective, steps=steps_of(shop, entrant, effective))


def steps_of(shop: Workshop, entrant: Entrant, effective: Mapping[str, Any]) -> int:
    """Optimizer steps of a training with these settings; 0 for a prompt search."""
    if not entrant.trained:
        return 0
    rows = len(shop.material.splits.train) + len(shop.material.replay_for(entrant.replay))
    per_epoch = math.ceil(rows / int(effective.get("batch_rows") or 1))
    return per_epoch * int(effective.get("epochs") or 1)


def attempt(
    shop: Workshop,
    work: Work,
    step: store.Step,
    search: Search,
    before: Sequence[Tried] | None,
    settings: Mapping[str, Any],
) -> Tried:
    """One trial, or one repeat (`before` None: never given up). A failure is its result. A stop, a full disk, memory
    that ran out are not; nor is that it was too large for it: it fails, and is tried again where the run goes on.
    """
    from tailorbird.customize.fitting import TooLarge
    from tailorbird.customize.tuning import Trial

    if step.done:
        result = step.result()
    else:
        step.begin()
        fits = True
        with shop.stage(work.label, work.part, work.entrant.steps) as progress:
            try:
                result = _run(shop, work, step, search, before, progress)
            except TooLarge as error:
                fits, result = False, {**NOTHING, "state": "failed", "note": _line(error), "looks": [], "share": 0.0}
        inside = step.folder / "work"
        seconds = inside / "seconds.json"
        result["seconds"] = float(store.read_json(seconds)) if seconds.is_file() else 0.0
        if (inside / "log.jsonl").is_file():
            store.write_jsonl(step.folder / "log.jsonl", store.read_jsonl(inside / "log.jsonl"))
        if fits:
            step.finish(result)
            shutil.rmtree(inside, ignore_errors=True)
    looks = tuple((int(percent), float(loss)) for percent, loss in result["looks"])
    number = len(before) if before is not None else -1
    return Tried(Trial(number, dict(settings), result["state"], result["value"], looks, result["note"]), step, result)


def _line(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())


def _run(
    shop: Workshop, work: Work, step: store.Step, search: Search, before: Sequence[Tried] | None, progress: Progress
) -> JSON:
    from tailorbird.customize import customize
    from tailorbird.customize.tuning import Pruned

    entrant, inside = work.entrant, step.folder / "work"
    looks = Looks(inside / "looks.json", entrant.steps)
    share = 0.0

    def report(done: int, total: int, note: str = "") -> None:
        nonlocal share
        share = done / total if total else 1.0
        progress.report(done, total, note)

    def judged(at: int, loss: float | None) -> bool:
        looks.add(at, loss)
        if before is not None and at < entrant.steps and search.gives_up(_trials(before), looks.best()):
            raise Pruned
        return False

    job = replace(shop.job(entrant, inside, report, work.seed), judged=judged)
    result: JSON = {**NOTHING}
    try:
        facts = customize(job, step.folder / "customization")
    except (Interrupted, ResourceError):
        raise
    except Pruned:
        result["state"] = "pruned"
    except Exception as error:
        if store.disk_full(error):
            raise
        store.write_text(step.folder / "error.txt", "".join(traceback.format_exception(error)))
        result |= {"state": "failed", "note": _line(error)}
    else:
        share = min(1.0, facts["steps"] / entrant.steps) if entrant.trained else 1.0
        value = facts.get("tuning_loss" if entrant.trained else "tuning_score")
        result |= {"facts": facts, "value": value}
        if value is None or not math.isfinite(value):
            result |= {"state": "failed", "value": None, "note": "it has no figure on Tuning rows"}
    return {**result, "looks": [list(look) for look in looks.best()], "share": share}


class Looks:
    """What a training was like at its looks at Tuning rows; on disk, so that one that goes on knows of the earlier."""

    def __init__(self, path: Any, steps: int) -> None:
        self.path, self.steps = path, steps
        self.seen: list[tuple[int, float]] = [(s, v) for s, v in store.read_json(path)] if path.is_file() else []

    def add(self, step: int, loss: float | None) -> None:
        if loss is None or not math.isfinite(loss):
            return
        self.seen = [(s, v) for s, v in self.seen if s < step] + [(step, float(loss))]
        store.write_json(self.path, [list(look) for look in self.seen])

    def best(self) -> list[tuple[int, float]]:
        """(percent of the training, lowest loss so far); of looks within one percent the last."""
        from tailorbird.customize.tuning import share_done

        found: dict[int, float] = {}
        lowest = math.inf
        for step, loss in self.seen:
            lowest = min(lowest, loss)
            found[share_done(step, self.steps)] = lowest
        return list(found.items())


def repeat(shop: Workshop, work: Work, search: Search, best: Trial) -> list[Tried]:
    """The best settings again with other seeds: what a difference between trials must exceed to mean anything."""
    found = []
    for n in range(1, REPEATS + 1):
        one = Work(work.entrant, work.parent, seed=shop.plan.seed + n, part=f"repeat {n} of {REPEATS}")
        step = trial_step(shop, one, "repeat", None)
        found.append(attempt(shop, one, step, search, None, best.settings))
    return found


class Budget:
    """How many trials: as many as asked for, or as fit into the minutes by the time of those that are finished.

    What a trial took stays in its step, so that a search that goes on counts what an undisturbed one would have. The
    next one is taken to cost what the plan says of it, times what the finished ones took beside the plan; repeating the
    best settings twice is kept room for.
    """

    def __init__(self, shop: Workshop, entrant: Entrant) -> None:
        assert entrant.tune is not None
        self.trials: int | None = entrant.tune["trials"]
        self.minutes: float | None = entrant.tune["minutes"]
        self.shop = shop

    def allows(self, entrant: Entrant, tried: Sequence[Tried], search: Search) -> bool:
        if self.trials is not None:
            return len(tried) < self.trials
        if self.minutes is None or not tried:
            return True
        best = search.best(_trials(tried))
        next_one = self._expected(entrant, tried)
        repeats = REPEATS * self._expected(with_settings(self.shop, entrant, best.settings), tried) if best else 0.0
        return self._spent(tried) + next_one + max(repeats, REPEATS * next_one) <= 60 * self.minutes

    def allows_repeats(self, entrant: Entrant, tried: Sequence[Tried]) -> bool:
        if self.minutes is None:
            return True
        return self._spent(tried) + REPEATS * self._expected(entrant, tried) <= 60 * self.minutes

    @staticmethod
    def _spent(tried: Sequence[Tried]) -> float:
        return sum(one.seconds for one in tried)

    def _expected(self, entrant: Entrant, tried: Sequence[Tried]) -> float:
        """Seconds of a trial with these settings."""
        planned = sum(
            self._planned(with_settings(self.shop, entrant, one.trial.settings)) * max(LEAST_SHARE, one.share)
            for one in tried
        )
        return self._planned(entrant) * self._spent(tried) / planned

    def _planned(self, entrant: Entrant) -> float:
        shop = self.shop
        plan, material = shop.plan, shop.material
        machine = Machine("", "", plan.threads, plan.memory_bytes, plan.device, "", plan.memory_bytes, plan.gflops)
        facts = material.facts_on(machine)
        guess = estimate(
            facts,
            str(entrant.technique),
            trained=entrant.trained,
            settings=entrant.effective,
            dtype=plan.dtype,
            micro_batch_tokens=plan.micro_batch_tokens,
            retention=plan.retention,
            memory_bytes=plan.memory_bytes,
            replay=entrant.replay,
        )
        return guess.making


def told(entrant: Entrant, search: Search, tried: Sequence[Tried]) -> JSON:
    """What the report shows of the trials."""
    assert entrant.tune is not None
    best = search.best(_trials(tried))
    return {
        "measure": "tuning_loss" if search.lower else "tuning_score",
        "lower_is_better": search.lower,
        **{name: entrant.tune[name] for name in ("minutes", "over")},
        "asked": entrant.tune["trials"],
        "trials": [t.trial.as_dict() for t in tried],
        "best": best.number if best else None,
        "importance": search.importance(_trials(tried)),
        "noise": None,
        "gain": None,
        "gain_interval": None,
        "beyond_noise": None,
        "said": f"none of {len(tried)} trials finished",
    }


def noise(search: Search, tried: Sequence[Tried], best: Trial, repeats: Sequence[Tried]) -> JSON:
    """How much luck there is in a value, and the gain over the defaults beside it with its 95 % interval.

    The gain is that of the repeats alone: the best of many trials is partly the luckiest of them. It is one value less
    the mean of n, each with the variance between seeds that k values estimate: Student's t with k - 1 degrees of
    freedom, error sd * sqrt(1 + 1 / n). Beyond noise: the interval is above 0. Values that are all alike (scores on few
    rows) have shown no noise, not that there is none: no interval then.
    """
    again = [t.trial.value for t in repeats if t.trial.value is not None]
    values = [best.value, *again] if best.value is not None else again
    sd, gain, interval = sample_sd(values), None, None
    first = tried[0].trial.value
    if best.number == 0:
        gain = 0.0
    elif first is not None and again:
        gain = (first - sum(again) / len(again)) * (1.0 if search.lower else -1.0)
    if gain is not None and sd and again and best.number != 0:
        half = t_quantile(len(values) - 1) * sd * math.sqrt(1 + 1 / len(again))
        interval = [gain - half, gain + half]
    beyond = None if gain is None or sd is None else interval is not None and interval[0] > 0.0
    return {"noise": {"values": values, "sd": sd}, "gain": gain, "gain_interval": interval, "beyond_noise": beyond}


def sentence(tuning: JSON, search: Search) -> str:
    """One line for the row's note and the terminal."""
    count, what = len(tuning["trials"]), "Tuning loss" if search.lower else "Tuning score"
    trials = f"{count} trials"
    if failed := sum(trial["state"] == "failed" for trial in tuning["trials"]):
        trials += f" ({failed} of them failed)"
    if (tuning["asked"] or 0) > count:
        trials += f" (of {tuning['asked']} asked: no untried settings were left)"
    if tuning["best"] == 0:
        return f"tuning: none of {trials} was better than the defaults"
    gain, sd = tuning["gain"], (tuning["noise"] or {}).get("sd")
    best = f"tuning: trial {tuning['best'] + 1} of {trials} was best"
    if sd is None:
        return f"{best}; how much of that is luck was not measured"
    if gain is None:
        return f"{best}; with the defaults there is no figure to set beside it"
    figures = f"{what} {'better' if gain >= 0 else 'worse'} by {abs(gain):.3f}"
    if tuning["gain_interval"] is None:
        return f"{best}, {figures} than with the defaults; its repeats are all alike, so how much is luck is not known"
    low, high = tuning["gain_interval"]
    figures += f" than with the defaults (gain {low:+.3f} to {high:+.3f}), {sd:.3f} between seeds"
    rows = f"the luck of these {tuning['tuning_rows']} Tuning rows is not in it"
    if tuning["beyond_noise"]:
        return f"tuning: {figures}, {trials}; {rows}"
    return f"tuning found nothing beyond noise in {trials}, the best settings are used nonetheless: {figures}; {rows}"


def table(tried: Sequence[Tried]) -> str:
    """The trials as lines of text, for an error."""
    lines = []
    for t in tried:
        settings = ", ".join(f"{name} {value}" for name, value in t.trial.settings.items())
        lines.append(f"  trial {t.trial.number + 1}: {settings}: {t.trial.state}: {t.trial.note}")
    return "\n".join(lines)


def _trials(tried: Sequence[Tried]) -> list[Trial]:
    return [t.trial for t in tried]


def _drop_files(tried: Sequence[Tried], search: Search) -> None:
    best = search.best(_trials(tried))
    for one in tried:
        if best is None or one.trial.number != best.number:
            shutil.rmtree(one.step.folder / "customization", ignore_errors=True)
