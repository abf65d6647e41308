"""Interval of a mean by resampling groups: rows of one group (a customer, a document) come or go together.

Efron and Tibshirani 1993, ch. 13: percentile interval; expanded for few groups as in Hesterberg 2015, "What Teachers
Should Know About the Bootstrap" (the percentiles are those of a t distribution with G - 1 degrees of freedom,
widened by sqrt(G/(G-1))); with hundreds of groups that changes nothing one could see.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tailorbird.measure.groups import group_sums
from tailorbird.measure.streams import stream
from tailorbird.measure.wilson import Z

RESAMPLES = 10_000
_CHUNK = 2_000_000  # draws held at once: 16 MB


def bootstrap(
    values: Sequence[float],
    groups: Sequence[str] | None = None,
    *,
    bounds: tuple[float, float],
    weights: Sequence[float] | None = None,
    name: str = "bootstrap",
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """(low, high), 95 %, of sum(values) / sum(weights), weights 1 unless given.

    `bounds`: what one row's value (per unit of weight) can be at least and at most. When every group has the same
    mean, resampling would say that nothing can differ; then an unseen share z^2/(G + z^2) is taken to lie at either
    bound, which is Tango's interval without discordant rows.
    """
    import numpy as np

    if not values:
        return bounds
    sums, sizes = group_sums(values, groups, weights)
    count = len(sums)
    means = [s / w for s, w in zip(sums, sizes, strict=True)]
    if max(means) - min(means) <= 1e-12:
        unseen, mean = Z * Z / (count + Z * Z), sum(sums) / sum(sizes)
        return mean - unseen * (mean - bounds[0]), mean + unseen * (bounds[1] - mean)
    rng = stream(f"{name}:{count}")
    total, size = np.asarray(sums), np.asarray(sizes)
    drawn: list[np.ndarray] = []
    chunk = max(1, _CHUNK // count)
    for start in range(0, resamples, chunk):
        picks = rng.integers(0, count, size=(min(chunk, resamples - start), count))
        drawn.append(total[picks].sum(axis=1) / size[picks].sum(axis=1))
    tail = _expanded_tail(count)
    low, high = np.quantile(np.concatenate(drawn), [tail, 1 - tail])
    return max(bounds[0], float(low)), min(bounds[1], float(high))


def _expanded_tail(groups: int) -> float:
    """The percentile to read instead of 2.5 %: Phi(sqrt(G/(G-1)) t_{0.025, G-1})."""
    from scipy.special import ndtr, stdtrit

    return float(ndtr(math.sqrt(groups / (groups - 1)) * stdtrit(groups - 1, 0.025)))
