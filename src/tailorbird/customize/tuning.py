"""Which settings to try next, when to give one up, what the trials have shown: pure functions of finished trials.

Suggestions by the tree-structured Parzen estimator (Bergstra et al. 2011, "Algorithms for Hyper-Parameter
Optimization", §4), giving up by the median rule (Golovin et al. 2017, "Google Vizier", §3.2.2), importance by fANOVA
(Hutter, Hoos and Leyton-Brown 2014), all Optuna's. Its study lives in memory only and is built anew from our own
finished steps each time: its storages do not survive a kill. The sampler is seeded with (seed, number of the trial), so
that trial k depends on the trials before it and on nothing else, and a search that goes on suggests what an
undisturbed one would have. It sees settings and Tuning figures; no row, no file, no clock.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from tailorbird.techniques.ranges import Range

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study

Space = Mapping[str, Range]
RANDOM_TRIALS = 4  # finished trials, the defaults among them, before the estimator has something to go by
PRUNE_AFTER_TRIALS = 3
PRUNE_FROM_PERCENT = 20  # of a training: losses before that say little
IMPORTANCE_TRIALS = 5
SUGGESTIONS = 64  # drawn anew when one was tried before
COUNTED = 20_000  # combinations; a larger space is not gone through to find what is untried in it
DIGITS = 3  # of a real number: 0.000347, not 0.00034715998


class Pruned(Exception):
    """Ends a training that its search has given up."""


@dataclass(frozen=True)
class Trial:
    """One trial that came to its end. `settings`: the searched ones. `value`: Tuning loss, or Tuning score (None: it
    has none). `looks`: (percent of the training, best Tuning loss so far) at each look.
    """

    number: int
    settings: dict[str, Any]
    state: Literal["done", "pruned", "failed"]
    value: float | None = None
    looks: tuple[tuple[int, float], ...] = ()
    note: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "settings": dict(self.settings),
            "state": self.state,
            "value": self.value,
            "looks": [list(look) for look in self.looks],
            "note": self.note,
        }


@dataclass(frozen=True)
class Search:
    """What stays the same over a search. `lower`: whether a lower value is better (a loss)."""

    space: Space
    seed: int
    lower: bool = True
    distributions: dict[str, BaseDistribution] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "distributions", {name: _distribution(r) for name, r in self.space.items()})

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        return "minimize" if self.lower else "maximize"

    def suggest(self, trials: Sequence[Trial], start: Mapping[str, Any]) -> dict[str, Any] | None:
        """Settings for the next trial: `start`, the contestant's own, for the first; None when nothing new is found."""
        number = len(trials)
        if number == 0:
            return {name: start[name] for name in self.space}
        tried = [trial.settings for trial in trials]
        for again in range(SUGGESTIONS):
            study = self.study(trials, number, again)
            found = study.ask(self.distributions).params
            settings = {name: _value(self.space[name], found[name]) for name in self.space}
            if settings not in tried:
                return settings
        return self._untried(tried, number)

    def _untried(self, tried: Sequence[dict[str, Any]], number: int) -> dict[str, Any] | None:
        """Any point that was not tried: the estimator, sure of itself, suggests the same ones over and over. None when
        every combination was tried."""
        rng = random.Random(self._stream(number, "untried"))
        counted = {name: values for name, r in self.space.items() if (values := r.values()) is not None}
        if len(counted) == len(self.space) and math.prod(map(len, counted.values())) <= COUNTED:
            points = [dict(zip(counted, values, strict=True)) for values in itertools.product(*counted.values())]
            left = [point for point in points if point not in tried]
            return rng.choice(left) if left else None
        for _ in range(SUGGESTIONS):
            settings = {name: _drawn(r, rng) for name, r in self.space.items()}
            if settings not in tried:
                return settings
        return None

    def gives_up(self, trials: Sequence[Trial], looks: Sequence[tuple[int, float]]) -> bool:
        """Whether a training with these looks so far is worse than the median of the finished ones at this point."""
        trial = self.study(trials, len(trials), 0).ask()
        for percent, loss in looks:
            trial.report(loss, percent)
        return bool(trial.should_prune())

    def best(self, trials: Sequence[Trial]) -> Trial | None:
        """The best finished one; of equal ones the first."""
        done = [(trial.value, trial) for trial in trials if trial.state == "done" and trial.value is not None]
        if not done:
            return None
        sign = 1.0 if self.lower else -1.0
        return min(done, key=lambda pair: (sign * pair[0], pair[1].number))[1]

    def importance(self, trials: Sequence[Trial]) -> dict[str, float]:
        """Share of the value's variance that each searched setting accounts for, largest first; {} when too few trials
        finished, or all alike, to say.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        done = [t for t in trials if t.state == "done" and self._placed(t).keys() == self.space.keys()]
        if len(done) < IMPORTANCE_TRIALS or len({t.value for t in done}) < 2:
            return {}
        study = optuna.create_study(direction=self.direction)
        even = {name: _even(r) for name, r in self.space.items()}
        for trial in done:
            params = {
                name: math.log10(v) if self.space[name].kind == "log" else v for name, v in self._placed(trial).items()
            }
            study.add_trial(optuna.create_trial(params=params, distributions=even, value=trial.value))
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=self._stream("importance"))
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
        return {name: float(share) for name, share in sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))}

    def study(self, trials: Sequence[Trial], number: int, again: int) -> Study:
        """An in-memory study with these trials, its sampler at the point of trial `number`."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(
            seed=self._stream(number, again), n_startup_trials=RANDOM_TRIALS, multivariate=False, constant_liar=False
        )
        pruner = optuna.pruners.MedianPruner(n_startup_trials=PRUNE_AFTER_TRIALS, n_warmup_steps=PRUNE_FROM_PERCENT)
        study = optuna.create_study(sampler=sampler, pruner=pruner, direction=self.direction)
        states = {
            "done": optuna.trial.TrialState.COMPLETE,
            "pruned": optuna.trial.TrialState.PRUNED,
            "failed": optuna.trial.TrialState.FAIL,
        }
        for trial in trials:
            params = self._placed(trial)
            study.add_trial(
                optuna.create_trial(
                    state=states[trial.state],
                    value=trial.value if trial.state == "done" else None,
                    params=params,
                    distributions={name: self.distributions[name] for name in params},
                    intermediate_values=_at_each_percent(trial),
                )
            )
        return study

    def _placed(self, trial: Trial) -> dict[str, Any]:
        """Its settings that lie in their ranges: the contestant's own may lie outside of what the spec searches."""
        return {name: v for name, v in trial.settings.items() if self.space[name].holds(v)}

    def _stream(self, *names: object) -> int:
        """A 32-bit seed (all that numpy's generator takes) for one named use."""
        text = "/".join(map(str, (self.seed, "tune", *names)))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def share_done(step: int, steps: int) -> int:
    """Percent of a training that is done: what trainings of different lengths are compared at."""
    return max(1, min(100, round(100 * step / max(1, steps))))


def _at_each_percent(trial: Trial) -> dict[int, float]:
    """The best loss so far at every percent from the first look on, so that looks need not fall on the same percents:
    a training is compared with what others had reached when they were no farther than it is.
    """
    if not trial.looks:
        return {}
    known, last = dict(trial.looks), 100 if trial.state == "done" else trial.looks[-1][0]
    values: dict[int, float] = {}
    loss = math.inf
    for percent in range(trial.looks[0][0], last + 1):
        loss = min(loss, known.get(percent, loss))
        values[percent] = loss
    return values


def _distribution(found: Range) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if found.kind == "choice":
        return CategoricalDistribution(found.choices)
    if found.kind == "whole":
        return IntDistribution(int(found.low), int(found.high))
    return FloatDistribution(found.low, found.high, log=found.kind == "log")


def _even(found: Range) -> BaseDistribution:
    """For importance: a range searched in the logarithm is even there."""
    from optuna.distributions import FloatDistribution

    if found.kind == "log":
        return FloatDistribution(math.log10(found.low), math.log10(found.high))
    return _distribution(found)


def _drawn(found: Range, rng: random.Random) -> Any:
    """Any of its values, evenly; of a range searched in the logarithm, evenly there."""
    if (values := found.values()) is not None:
        return rng.choice(values)
    if found.kind == "log":
        return _value(found, math.exp(rng.uniform(math.log(found.low), math.log(found.high))))
    return _value(found, rng.uniform(found.low, found.high))


def _value(found: Range, value: Any) -> Any:
    """A suggestion with few digits, still within its range; of a linear one as many as tell a thousandth of it."""
    if found.kind == "log":
        digits = DIGITS
        if found.high < found.low * 1.1:  # narrow: its first digits are all alike
            digits -= math.floor(math.log10(found.high / found.low - 1.0)) + 1
        return min(found.high, max(found.low, float(f"{value:.{digits}g}")))
    if found.kind == "linear":
        places = DIGITS - math.floor(math.log10(found.high - found.low)) - 1
        return min(found.high, max(found.low, round(value, places)))
    return value
