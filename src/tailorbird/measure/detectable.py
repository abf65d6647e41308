"""How small a difference n rows can show, and how many rows a difference needs.

Paired design, two-sided 5 %, power 80 %: a difference d shows when n d^2 = (z_0.975 + z_0.8)^2 s^2 = 7.85 s^2, with
s^2 the variance of a row's difference. That variance is psi - d^2, psi being the mean squared difference: for
right/wrong outcomes the share of discordant rows (Connor 1987, "Sample size for testing differences in proportions
for the paired-sample design").
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable

from tailorbird.measure.wilson import Z
from tailorbird.types import Difference

POWER = 7.85  # (1.960 + 0.842)^2


def smallest_detectable(discordance: float, n: int) -> float | None:
    """The smallest difference that n rows show with 80 % power; None without rows.

    A discordance of 0 among n rows does not mean that there is none: it is taken as no less than z^2 / (n + z^2), the
    most that n rows can have hidden.
    """
    if n <= 0:
        return None
    psi = max(discordance, Z * Z / (n + Z * Z))
    return min(1.0, math.sqrt(POWER * psi / (n + POWER)))


def smallest_graded(variance: float, n: int) -> float | None:
    """The same for scores between 0 and 1, whose row differences have this variance, however large their mean is; None
    where no two rows were seen to differ: what n rows can have hidden then has no bound as discordance has."""
    return min(1.0, math.sqrt(POWER * variance / n)) if n > 0 and variance > 0 else None


def median_detectable(differences: Iterable[Difference], *, graded: bool) -> float | None:
    """The smallest detectable difference at the median discordance (of `graded` scores: variance) of these pairs of
    equal n; None without pairs."""
    pairs = list(differences)
    if not pairs:
        return None
    if graded:
        return smallest_graded(statistics.median(d.sd**2 for d in pairs), pairs[0].n)
    return smallest_detectable(statistics.median(d.sd**2 + d.difference**2 for d in pairs), pairs[0].n)


def rows_for_margin(margin: float) -> int | None:
    """The fewest rows with which two contestants without one discordant row are shown within `margin`.

    From Tango's interval without discordant rows, z^2/(n + z^2) < m: n >= ceil(3.84 (1 - m)/m), 189 at 0.02. None if no
    number will do (margin 0).
    """
    return math.ceil(3.84 * (1 - margin) / margin) if margin > 0 else None
