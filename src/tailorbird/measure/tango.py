"""Tango's score interval for the difference of two paired shares.

Tango 1998, "Equivalence test and confidence interval for the difference in proportions for the paired-sample design",
Statistics in Medicine 17, 891-908. Of n rows, `b` were right for A alone and `c` for B alone; the interval holds every
difference delta = p_A - p_B that the score test does not reject:

    T(delta) = (b - c - n delta) / sqrt(n (2 q + delta (1 - delta))),      |T| <= z
    q (the share right for B alone, most likely given delta) = (sqrt(B^2 - 4 A C) - B) / (2 A),
    A = 2 n,  B = -b - c + (2 n - b + c) delta,  C = -c delta (1 - delta)

Without discordant rows it is +-z^2/(n + z^2), where a bootstrap would say [0, 0].
"""

from __future__ import annotations

import math

from tailorbird.measure.wilson import Z


def tango(b: int, c: int, n: int, z: float = Z) -> tuple[float, float]:
    """(low, high) of the difference A - B in shares; (-1, 1) when nothing was seen."""
    if b < 0 or c < 0 or b + c > n:
        raise ValueError(f"{b} + {c} discordant rows of {n}")
    if n == 0:
        return -1.0, 1.0
    estimate = (b - c) / n
    low = _bisect(b, c, n, z, -1.0, estimate)
    high = -_bisect(c, b, n, z, -1.0, -estimate)  # A - B mirrored is B - A
    return low, high


def score_statistic(delta: float, b: int, c: int, n: int) -> float:
    """T(delta); falls from +inf to -inf as delta goes from -1 to 1."""
    a_, b_, c_ = 2 * n, -b - c + (2 * n - b + c) * delta, -c * delta * (1 - delta)
    q = (math.sqrt(max(0.0, b_ * b_ - 4 * a_ * c_)) - b_) / (2 * a_)
    variance = n * (2 * q + delta * (1 - delta))
    numerator = b - c - n * delta
    if variance <= 0.0:
        return math.copysign(math.inf, numerator) if numerator else 0.0
    return numerator / math.sqrt(variance)


def _bisect(b: int, c: int, n: int, z: float, low: float, high: float) -> float:
    """The delta below the estimate at which T = z. T is above z at `low` and 0 at `high`."""
    if high <= -1.0:
        return -1.0
    for _ in range(80):
        middle = (low + high) / 2
        if score_statistic(middle, b, c, n) > z:
            low = middle
        else:
            high = middle
    return (low + high) / 2
