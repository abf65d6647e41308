"""Outcomes -> a score with its interval; two contestants' outcomes on the same rows -> a paired difference.

Right/wrong outcomes with one row a group: Wilson, Tango, exact McNemar. Everything else: bootstrap and sign flips by
group. Outcomes of several seeds that do not all agree: rows and seeds as two-way random effects (`seeds`). Random
streams are named, so that the same outcomes give the same interval in any run, and D(b, a) mirrors
D(a, b).
"""

from __future__ import annotations

from collections.abc import Sequence

from tailorbird.measure import seeds
from tailorbird.measure.bootstrap import bootstrap
from tailorbird.measure.groups import spread
from tailorbird.measure.mcnemar import mcnemar
from tailorbird.measure.sign_flip import sign_flip
from tailorbird.measure.tango import tango
from tailorbird.measure.wilson import wilson
from tailorbird.tasks.task import Task
from tailorbird.types import Difference, Outcome, Score


def score(outcomes: Sequence[Outcome], task: Task | None = None) -> Score:
    """The mean of the rows' scores with its 95 % interval, and the task's other metrics."""
    if not outcomes:
        raise ValueError("a score needs at least one outcome")
    values = [o.score for o in outcomes]
    groups = _groups(outcomes)
    if _seeds_vary(outcomes, groups):
        table = _by_seed(outcomes)
        low, high = seeds.mean_interval(table, groups, share=all(map(right_or_wrong, table)))
    elif groups is None and right_or_wrong(values):
        low, high = wilson(round(sum(values)), len(values))
    else:
        low, high = bootstrap(values, groups, bounds=(0.0, 1.0), name="score")
    other = task.metrics(outcomes) if task is not None else {}
    return Score(sum(values) / len(values), low, high, len(values), other)


def compare(a: Sequence[Outcome], b: Sequence[Outcome], *, alike: bool = False) -> Difference:
    """D(a, b): the paired difference of mean scores with its 95 % interval and two-sided p.

    alike: b, made once, is taken to vary with its seed as a, made several times, was seen to.
    """
    if [o.row for o in a] != [o.row for o in b]:
        raise ValueError("a paired difference needs the same rows in the same order")
    if not a:
        raise ValueError("a paired difference needs at least one row")
    n = len(a)
    differences = [x.score - y.score for x, y in zip(a, b, strict=True)]
    groups = _groups(a)
    added = 0.0
    if _seeds_vary(a, groups) or _seeds_vary(b, groups):
        tables = _by_seed(a), _by_seed(b)
        share = all(right_or_wrong(row) for table in tables for row in table)
        low, high, p = seeds.difference_interval(*tables, groups, share=share, alike=alike)
        added = sum(seeds.seed_variance(table, groups) for table in tables)
    elif groups is None and right_or_wrong([o.score for o in (*a, *b)]):
        only_a, only_b = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
        low, high = tango(only_a, only_b, n)
        p = mcnemar(only_a, only_b)
    else:
        low, high = bootstrap(differences, groups, bounds=(-1.0, 1.0), name="difference")
        p = sign_flip(differences, groups, name="difference")
    return Difference(sum(differences) / n, low, high, p, n, spread(differences, groups), added)


def _groups(outcomes: Sequence[Outcome]) -> list[str] | None:
    """A group name for each row, or None when no two rows share one. A row without a group is its own."""
    named = [o.group for o in outcomes if o.group is not None]
    if len(set(named)) == len(named):
        return None
    return [f"row {i}" if o.group is None else f"group {o.group}" for i, o in enumerate(outcomes)]


def _by_seed(outcomes: Sequence[Outcome]) -> list[tuple[float, ...]]:
    """rows x seeds; made once: one column."""
    return [o.by_seed or (o.score,) for o in outcomes]


def _seeds_vary(outcomes: Sequence[Outcome], groups: Sequence[str] | None) -> bool:
    """Several seeds, some row that they do not agree on, and rows (or groups) enough to see how rows vary.

    Seeds that agree on every row are one checkpoint seen several times: then the intervals of one seed hold, which
    stay honest where no spread was seen.
    """
    table = _by_seed(outcomes)
    return (len(set(groups)) if groups else len(table)) > 1 and not seeds.agree(table)


def right_or_wrong(values: Sequence[float]) -> bool:
    return all(v in (0.0, 1.0) for v in values)
