"""How small a difference n rows can show, and how many rows a difference needs.

Paired design, two-sided 5 %, power 80 %: a difference d shows when n d^2 = (z_0.975 + z_0.8)^2 s^2 = 7.85 s^2, with
s^2 the variance of a row's difference. That variance is psi - d^2, psi being the mean squared difference: for
right/wrong outcomes the share of discordant rows (Connor 1987, "Sample size for testing differences in proportions
for the paired-sample design"). What seeds add to the variance of the mean, v, rows do not lessen: s^2 + n v stands in
the place of s^2.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable

from tailorbird.measure.wilson import Z
from tailorbird.types import Difference

POWER = 7.85  # (1.960 + 0.842)^2


def least_discordance(n: int) -> float:
    """A discordance of 0 among n rows does not mean that there is none: the most that n rows can have hidden."""
    return Z * Z / (n + Z * Z)


def smallest_detectable(discordance: float, n: int, seeds: float = 0.0) -> float | None:
    """The smallest difference that n rows show with 80 % power; None without rows. `seeds`: `Difference.seeds`."""
    if n <= 0:
        return None
    psi = max(discordance, least_discordance(n))
    return min(1.0, math.sqrt(POWER * (psi + n * seeds) / (n + POWER)))


def smallest_graded(variance: float, n: int, seeds: float = 0.0) -> float | None:
    """The same for scores between 0 and 1, whose row differences have this variance, however large their mean is; None
    where no two rows were seen to differ: what n rows can have hidden then has no bound as discordance has."""
    return min(1.0, math.sqrt(POWER * (variance / n + seeds))) if n > 0 and variance > 0 else None


def median_detectable(differences: Iterable[Difference], *, graded: bool) -> float | None:
    """The smallest detectable difference at the median discordance (of `graded` scores: variance) of these pairs of
    equal n; None without pairs."""
    pairs = list(differences)
    if not pairs:
        return None
    seeds = statistics.median(d.seeds for d in pairs)
    if graded:
        return smallest_graded(statistics.median(d.sd**2 for d in pairs), pairs[0].n, seeds)
    return smallest_detectable(statistics.median(d.sd**2 + d.difference**2 for d in pairs), pairs[0].n, seeds)


def rows_for_margin(margin: float) -> int | None:
    """The fewest rows with which two contestants without one discordant row are shown within `margin`.

    From Tango's interval without discordant rows, z^2/(n + z^2) < m: n >= ceil(3.84 (1 - m)/m), 189 at 0.02. None if no
    number will do (margin 0).
    """
    return math.ceil(3.84 * (1 - margin) / margin) if margin > 0 else None
