"""A technique made several times with other seeds and measured on the same rows: intervals that speak of the technique.

Two-way random effects, rows x seeds, one observation a cell (Searle, Casella and McCulloch 1992, "Variance
Components", §4.4): y_rs = mean + row_r + seed_s + rest_rs with N rows and S seeds. The mean squares and what they are
in expectation:

    MS_row   = S sum_r (y_r. - y..)^2 / (N - 1)                              rest^2 + S row^2
    MS_seed  = N sum_s (y_.s - y..)^2 / (S - 1)                              rest^2 + N seed^2
    MS_rest  = sum_rs (y_rs - y_r. - y_.s + y..)^2 / ((N - 1)(S - 1))        rest^2

    Var(y..) = row^2 / N + seed^2 / S + rest^2 / (N S) = (MS_row + MS_seed - MS_rest) / (N S)

A difference of two contestants on the same rows: the row effects cancel as far as they are common, and each side has
seeds of its own, S and T of them. With d_r the difference of a row's two means, its variance s^2 holds rows and rests:

    Var(d.) = s^2 / N + (MS_seed,a - MS_rest,a) / (N S) + (MS_seed,b - MS_rest,b) / (N T)

A side with one seed adds nothing of its own: the interval then speaks of that side's checkpoint. MS_seed is taken no
smaller than MS_rest. The interval is the estimate -+ t standard errors, with the degrees of freedom of Satterthwaite
1946, "An Approximate Distribution of Estimates of Variance Components", Biometrics Bulletin 2 (equation 17):
nu = V^2 / sum (c_i MS_i)^2 / nu_i for V = sum c_i MS_i. A share of right answers takes Wilson's form of it, so that it
stays sharp near 0 and 1: z is t, and n the effective number of rows p (1 - p) / V (Korn and Graubard 1998, "Confidence
Intervals for Proportions with Small Expected Number of Positive Counts", Survey Methodology 24); it is never sharper
than that of N S rows of one seed.

Rows that were right or wrong and hardly ever differ have shown nearly none of the spread that there is. So s^2 is taken
no smaller than psi - d^2 for the least psi that N rows can have hidden, z^2 / (N + z^2), as in `detectable`: with no
discordant row the interval is then as wide as Tango's.

The tests simulate it: the interval holds the truth in 95 of 100 cases while seeds vary no more than rows make the mean
vary. Seeds that vary three times as much are more than two can tell: it then holds it in about 90 of 100.

Rows of one group first become one row, their deviations from the mean summed and scaled by G / N, so that the spread
of groups is the cluster-robust one of `groups.spread`. `values`: one sequence a row, the row's score under each seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tailorbird.measure.detectable import least_discordance
from tailorbird.measure.groups import group_sums
from tailorbird.measure.wilson import wilson

Values = Sequence[Sequence[float]]  # rows x seeds
Term = tuple[float, float]  # a part of a variance, and its degrees of freedom


@dataclass(frozen=True)
class MeanSquares:
    """Of a table of `rows` x `seeds`, at least 2 x 2."""

    mean: float
    row: float
    seed: float
    rest: float
    rows: int
    seeds: int

    def of_seeds(self) -> list[Term]:
        """What the seeds add to the variance of the mean."""
        cells = self.rows * self.seeds
        seed = max(self.seed, self.rest)
        return [(seed / cells, self.seeds - 1), (-self.rest / cells, (self.rows - 1) * (self.seeds - 1))]


def mean_squares(values: Values, groups: Sequence[str] | None = None) -> MeanSquares:
    """ValueError for fewer than two rows (or groups) or seeds: there is no spread to be seen."""
    table = clustered(values, groups)
    n, s = len(table), len(table[0])
    if n < 2 or s < 2:
        raise ValueError(f"{n} rows x {s} seeds have no mean squares")
    by_row = [sum(row) / s for row in table]
    by_seed = [sum(column) / n for column in zip(*table, strict=True)]
    mean = sum(by_row) / n
    row = s * sum((m - mean) ** 2 for m in by_row) / (n - 1)
    seed = n * sum((m - mean) ** 2 for m in by_seed) / (s - 1)
    rests = (y - r - c + mean for cells, r in zip(table, by_row, strict=True) for y, c in zip(cells, by_seed))
    rest = sum(e * e for e in rests) / ((n - 1) * (s - 1))
    return MeanSquares(mean, row, seed, rest, n, s)


def clustered(values: Values, groups: Sequence[str] | None) -> list[list[float]]:
    """One line a group; the mean of each seed, and of all, stays what it was."""
    if groups is None:
        return [list(row) for row in values]
    n, columns = len(values), [list(column) for column in zip(*values, strict=True)]
    mean = sum(map(sum, columns)) / (n * len(columns))
    sums = [group_sums([y - mean for y in column], groups)[0] for column in columns]
    scale = len(sums[0]) / n
    return [[mean + scale * deviation for deviation in line] for line in zip(*sums, strict=True)]


def seed_variance(values: Values, groups: Sequence[str] | None = None) -> float:
    """What the seeds add to the variance of the mean, whatever the number of rows; 0 for one seed."""
    if len(values[0]) < 2:
        return 0.0
    return max(0.0, sum(value for value, _ in mean_squares(values, groups).of_seeds()))


def mean_interval(values: Values, groups: Sequence[str] | None = None, *, share: bool) -> tuple[float, float]:
    """(low, high), 95 %, of the mean over rows and seeds of scores in [0, 1]; `share`: each is right or wrong."""
    found = mean_squares(values, groups)
    mean, cells = found.mean, found.rows * found.seeds
    variance, freedom = satterthwaite([(found.row / cells, found.rows - 1), *found.of_seeds()])
    if share:
        low, high = wilson(mean * cells, cells, t_quantile(cells - 1))
        if variance > 0.0:
            effective = mean * (1.0 - mean) / variance
            found_low, found_high = wilson(mean * effective, effective, t_quantile(freedom))
            low, high = min(low, found_low), max(high, found_high)
        return low, high
    half = t_quantile(freedom) * math.sqrt(variance)
    return max(0.0, mean - half), min(1.0, mean + half)


def difference_interval(
    a: Values, b: Values, groups: Sequence[str] | None = None, *, share: bool = False, alike: bool = False
) -> tuple[float, float, float]:
    """(low, high, p) of mean(a) - mean(b), scores in [0, 1]: 95 % interval and the two-sided p of its t test.

    share: each score is right or wrong. alike: b, made once, is taken to vary with its seed as a does.
    """
    both = [[sum(x) / len(x) - sum(y) / len(y)] for x, y in zip(a, b, strict=True)]
    rows = [line[0] for line in clustered(both, groups)]
    n, d = len(rows), sum(rows) / len(rows)
    variance = sum((r - d) ** 2 for r in rows) / (n - 1)
    if share:
        variance = max(variance, least_discordance(n) - d * d)
    terms: list[Term] = [(variance / n, n - 1)]
    for side in (a, b):
        if len(side[0]) > 1:
            terms += mean_squares(side, groups).of_seeds()
        elif alike and side is b and len(a[0]) > 1:
            terms += [(len(a[0]) * value, freedom) for value, freedom in mean_squares(a, groups).of_seeds()]
    variance, freedom = satterthwaite(terms)
    error = math.sqrt(variance)
    half = t_quantile(freedom) * error
    return max(-1.0, d - half), min(1.0, d + half), _p(d, error, freedom)


def satterthwaite(terms: Sequence[Term]) -> tuple[float, float]:
    """(variance, degrees of freedom) of a sum of independent terms; no freedom is below 1."""
    variance = max(0.0, sum(value for value, _ in terms))
    spread = sum(value * value / freedom for value, freedom in terms)
    return variance, max(1.0, variance * variance / spread) if spread > 0 else math.inf


def t_quantile(freedom: float) -> float:
    """Two-sided 95 % quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(min(freedom, 1e9), 0.975))


def _p(difference: float, error: float, freedom: float) -> float:
    from scipy.special import stdtr

    if error == 0.0:
        return 1.0 if difference == 0.0 else 0.0
    return float(2.0 * stdtr(min(freedom, 1e9), -abs(difference) / error))


def agree(values: Values) -> bool:
    """Whether no row's score depends on the seed: then the technique is one checkpoint, seen several times."""
    return all(max(row) - min(row) <= 1e-12 for row in values)


def seed_means(values: Values) -> list[float]:
    """The score of each seed."""
    return [sum(column) / len(values) for column in zip(*values, strict=True)]


def sample_sd(values: Sequence[float]) -> float | None:
    """The sample standard deviation; None for fewer than two."""
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
