"""Rows that belong together: their sums, and the spread of a mean when rows of a group move together."""

from __future__ import annotations

import math
from collections.abc import Sequence


def group_sums(
    values: Sequence[float], groups: Sequence[str] | None = None, weights: Sequence[float] | None = None
) -> tuple[list[float], list[float]]:
    """(sum of values, sum of weights) of each group, groups in the order of their first row. No groups: each row its
    own.
    """
    weights = [1.0] * len(values) if weights is None else weights
    if groups is None:
        return list(values), list(weights)
    sums: dict[str, float] = {}
    sizes: dict[str, float] = {}
    for value, group, weight in zip(values, groups, weights, strict=True):
        sums[group] = sums.get(group, 0.0) + value
        sizes[group] = sizes.get(group, 0.0) + weight
    return list(sums.values()), list(sizes.values())


def spread(values: Sequence[float], groups: Sequence[str] | None = None) -> float:
    """The standard deviation s with which s^2/n is the variance of the mean.

    One row a group: the sample standard deviation. Else it holds the design effect: s^2/n is the cluster-robust
    variance sum over groups of (sum of the group's deviations)^2 / n^2 (Miller 2024, "Adding Error Bars to Evals"),
    times G/(G-1) so that one row a group gives the sample standard deviation.
    """
    n = len(values)
    mean = sum(values) / n if n else 0.0
    sums, _ = group_sums([v - mean for v in values], groups)
    count = len(sums)
    if count < 2:
        return 0.0
    return math.sqrt(sum(s * s for s in sums) / n * count / (count - 1))
