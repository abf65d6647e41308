"""Holm's step-down adjustment of p-values within one family.

Holm 1979, "A simple sequentially rejective multiple test procedure": the i-th smallest of k is multiplied by k - i +
1, and no adjusted p is below that of a smaller one.
"""

from __future__ import annotations

from collections.abc import Sequence


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p-values in the order given."""
    adjusted = [0.0] * len(p)
    floor = 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        floor = max(floor, min(1.0, p[i] * (len(p) - rank)))
        adjusted[i] = floor
    return adjusted
