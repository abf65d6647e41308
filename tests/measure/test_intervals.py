"""Intervals and tests of shares and means: published values, hand-worked values, brute force, properties."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise, product

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tailorbird.measure.bootstrap import bootstrap
from tailorbird.measure.detectable import median_detectable, rows_for_margin, smallest_detectable, smallest_graded
from tailorbird.measure.groups import spread
from tailorbird.measure.holm import holm
from tailorbird.measure.mcnemar import mcnemar
from tailorbird.measure.sign_flip import sign_flip
from tailorbird.measure.tango import score_statistic, tango
from tailorbird.measure.wilson import Z, wilson
from tailorbird.types import Difference

PAIRS = st.integers(1, 300).flatmap(
    lambda n: st.integers(0, n).flatmap(lambda b: st.tuples(st.just(b), st.integers(0, n - b), st.just(n)))
)


# Wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [  # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_values(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_solves_its_equation_and_mirrors(case: tuple[int, int]) -> None:
    successes, n = case
    low, high = wilson(successes, n)
    assert 0.0 <= low <= successes / n <= high <= 1.0
    assert low < high
    for end in {low, high} - {0.0, 1.0}:
        assert abs(successes / n - end) == pytest.approx(Z * math.sqrt(end * (1 - end) / n))
    assert wilson(n - successes, n) == pytest.approx((1 - high, 1 - low))


def test_wilson_of_nothing_is_everything() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


# Tango


def test_tango_gives_the_published_interval_for_airway_hyper_responsiveness() -> None:
    # Bentur et al. 2009, as in Fagerland, Lydersen, Laake 2014: 1 and 7 discordant of 21: -0.286 (-0.517 to -0.026)
    assert tango(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)


def test_without_discordant_rows_the_interval_is_not_a_point() -> None:
    # T(delta) = -n delta / sqrt(n delta (1 - delta)) for delta > 0, so that |T| = z at z^2 / (n + z^2)
    half = Z**2 / (300 + Z**2)
    assert tango(0, 0, 300) == pytest.approx((-half, half))
    assert half == pytest.approx(0.01264, abs=1e-5)


def brute_force_tango(b: int, c: int, n: int, delta: float) -> float:
    """T(delta) with q found by trying a fine grid: the most likely share right for B alone, given p_A - p_B = delta."""

    def log_likelihood(q: float) -> float:
        shares = (q + delta, q, 1 - 2 * q - delta)
        if min(shares) < -1e-12:
            return -math.inf
        counts = (b, c, n - b - c)
        if any(k and s <= 0 for k, s in zip(counts, shares, strict=True)):
            return -math.inf
        return sum(k * math.log(s) for k, s in zip(counts, shares, strict=True) if k)

    least, most = max(0.0, -delta), (1 - delta) / 2
    grid = [least + (most - least) * i / 20_000 for i in range(20_001)]
    q = max(grid, key=log_likelihood)
    return (b - c - n * delta) / math.sqrt(n * (2 * q + delta * (1 - delta)))


@pytest.mark.parametrize(("b", "c", "n"), [(1, 7, 21), (6, 16, 161), (40, 20, 160), (3, 0, 30), (10, 10, 40)])
def test_at_the_ends_of_the_interval_a_brute_force_score_test_just_rejects(b: int, c: int, n: int) -> None:
    low, high = tango(b, c, n)
    assert brute_force_tango(b, c, n, low) == pytest.approx(Z, abs=2e-3)
    assert brute_force_tango(b, c, n, high) == pytest.approx(-Z, abs=2e-3)


@given(PAIRS)
def test_tango_holds_the_estimate_and_mirrors_and_is_never_empty(pair: tuple[int, int, int]) -> None:
    b, c, n = pair
    low, high = tango(b, c, n)
    assert -1.0 <= low <= (b - c) / n <= high <= 1.0
    assert low < high
    assert tango(c, b, n) == pytest.approx((-high, -low))


@given(PAIRS)
def test_the_score_statistic_falls_so_that_bisection_finds_its_only_root(pair: tuple[int, int, int]) -> None:
    b, c, n = pair
    values = [score_statistic(-0.99 + 0.02 * i, b, c, n) for i in range(100)]
    assert all(x >= y - 1e-9 for x, y in pairwise(values))


@pytest.mark.parametrize("margin", [0.01, 0.02, 0.03, 0.05, 0.1])
def test_the_rule_of_rows_for_a_margin_is_tangos_interval_without_discordant_rows(margin: float) -> None:
    n = rows_for_margin(margin)
    assert n is not None
    assert tango(0, 0, n)[0] > -margin
    assert tango(0, 0, n - 1)[0] <= -margin + 1e-5


def test_at_a_margin_of_2_points_189_rows_are_needed() -> None:
    assert rows_for_margin(0.02) == 189
    assert rows_for_margin(0.0) is None


# McNemar, Holm


def test_mcnemar_by_hand() -> None:
    assert mcnemar(1, 7) == pytest.approx(2 * (1 + 8) / 256)
    assert mcnemar(0, 5) == pytest.approx(2 / 32)
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(4, 4) == 1.0


@given(st.integers(0, 200), st.integers(0, 200))
def test_mcnemar_is_scipys_binomial_test(b: int, c: int) -> None:
    from scipy.stats import binomtest

    assume(b + c > 0)
    assert mcnemar(b, c) == pytest.approx(binomtest(b, b + c, 0.5).pvalue)
    assert mcnemar(b, c) == mcnemar(c, b)


def test_mcnemar_does_not_underflow() -> None:
    assert 0.0 < mcnemar(0, 1000) < 1e-290
    assert mcnemar(1500, 1500) == 1.0


def test_holm_by_hand() -> None:
    # sorted: 0.01 * 4, 0.02 * 3, 0.03 * 2 -> at least 0.06, 0.04 * 1 -> at least 0.06
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_lies_between_the_plain_p_and_bonferroni_and_keeps_the_order(p: list[float]) -> None:
    adjusted = holm(p)
    assert all(x <= y <= min(1.0, len(p) * x) + 1e-12 for x, y in zip(p, adjusted, strict=True))
    assert all(adjusted[i] <= adjusted[j] for i in range(len(p)) for j in range(len(p)) if p[i] < p[j])


# Bootstrap, sign flip, spread


def test_the_bootstrap_of_two_rows_by_hand() -> None:
    # resamples of {0, 1}: mean 0, 1/2, 1/2, 1 with 1/4 each, so that the tails are the ends
    assert bootstrap([0.0, 1.0], bounds=(0.0, 1.0)) == (0.0, 1.0)


def test_the_bootstrap_agrees_with_the_normal_interval_of_many_rows() -> None:
    values = [(i * 37 % 101) / 100 for i in range(1000)]
    mean, half = sum(values) / 1000, 1.96 * spread(values) / math.sqrt(1000)
    assert bootstrap(values, bounds=(0.0, 1.0)) == pytest.approx((mean - half, mean + half), abs=2e-3)


def test_rows_of_one_group_count_as_one_voice() -> None:
    values = [float(i % 2) for i in range(40)]
    copied, groups = [v for v in values for _ in range(5)], [str(i) for i in range(40) for _ in range(5)]
    assert bootstrap(copied, groups, bounds=(0.0, 1.0)) == pytest.approx(bootstrap(values, bounds=(0.0, 1.0)))
    # the spread holds the design effect: the same standard error from five times the rows
    assert spread(copied, groups) / math.sqrt(200) == pytest.approx(spread(values) / math.sqrt(40))


def test_spread_of_rows_on_their_own_is_the_sample_standard_deviation() -> None:
    assert spread([1.0, 0.0, -1.0, 0.0]) == pytest.approx(math.sqrt(2 / 3))
    assert spread([0.3]) == 0.0


def test_values_that_are_all_equal_do_not_give_a_point() -> None:
    share = Z**2 / (50 + Z**2)
    assert bootstrap([0.0] * 50, bounds=(-1.0, 1.0)) == pytest.approx((-share, share))
    assert bootstrap([0.4] * 50, bounds=(0.0, 1.0)) == pytest.approx((0.4 - 0.4 * share, 0.4 + 0.6 * share))


def test_the_bootstrap_is_the_same_in_every_run_and_mirrors() -> None:
    values = [0.1, -0.3, 0.7, 0.2, -0.05, 0.4]
    low, high = bootstrap(values, bounds=(-1.0, 1.0))
    assert bootstrap(values, bounds=(-1.0, 1.0)) == (low, high)
    assert bootstrap([-v for v in values], bounds=(-1.0, 1.0)) == pytest.approx((-high, -low))
    assert low < sum(values) / 6 < high


def plain_sign_flip(values: list[float]) -> float:
    seen = abs(sum(values)) - 1e-9
    flips = list(product((1, -1), repeat=len(values)))
    extreme = sum(abs(sum(s * v for s, v in zip(signs, values, strict=True))) >= seen for signs in flips)
    return float(Fraction(extreme, len(flips)))


@given(st.lists(st.integers(-4, 4).map(lambda i: i / 4), min_size=1, max_size=8))
def test_sign_flip_tries_every_pattern_of_few_rows(values: list[float]) -> None:
    assert sign_flip(values) == pytest.approx(plain_sign_flip(values))


def test_sign_flip_by_group_flips_a_group_whole() -> None:
    assert sign_flip([0.5, 0.5, 0.5, 0.5], ["a", "a", "b", "b"]) == pytest.approx(0.5)  # two groups: 2 of 4 patterns
    assert sign_flip([0.5, -0.5], ["a", "a"]) == 1.0


def test_a_drawn_sign_flip_is_close_to_mcnemar_and_never_0() -> None:
    values = [1.0] * 30 + [-1.0] * 14
    assert sign_flip(values) == pytest.approx(mcnemar(30, 14), abs=0.006)
    assert sign_flip([1.0] * 200) == pytest.approx(1 / 10_001)


# What n rows can show


def test_smallest_detectable_difference_by_hand() -> None:
    # d^2 = 7.85 * 0.1 / (300 + 7.85): d = 0.0505
    assert smallest_detectable(0.1, 300) == pytest.approx(math.sqrt(0.785 / 307.85))
    assert smallest_detectable(0.1, 0) is None


def test_no_discordance_seen_is_not_no_discordance() -> None:
    assert smallest_detectable(0.0, 300) == smallest_detectable(Z**2 / (300 + Z**2), 300)


def test_the_smallest_detectable_difference_shows_in_four_of_five_simulated_sets() -> None:
    import numpy as np

    n, discordance = 300, 0.12
    d = smallest_detectable(discordance, n)
    assert d is not None
    rng = np.random.default_rng(0)
    both = rng.multinomial(n, [(discordance + d) / 2, (discordance - d) / 2, 1 - discordance], size=400)
    shown = sum(tango(int(b), int(c), n)[0] > 0 for b, c, _ in both)
    assert shown / 400 == pytest.approx(0.8, abs=0.06)


def test_the_median_is_over_the_pairs_discordance() -> None:
    pairs = [Difference(0.0, 0, 0, 1, 100, math.sqrt(v)) for v in (0.1, 0.2, 0.9)]
    assert median_detectable(pairs, graded=False) == smallest_detectable(0.2, 100)
    assert median_detectable([], graded=False) is None


def test_what_graded_scores_can_show_depends_on_how_their_differences_vary() -> None:
    # 20 rows whose differences have a standard deviation of 0.1: d^2 = 7.85 * 0.01 / 20, d = 0.0626
    pairs = [Difference(-0.1, 0, 0, 1, 20, sd) for sd in (0.05, 0.1, 0.4)]
    assert median_detectable(pairs, graded=True) == pytest.approx(math.sqrt(0.0785 / 20))
    assert smallest_graded(0.01, 20, seeds=0.001) == pytest.approx(math.sqrt(7.85 * (0.0005 + 0.001)))
    assert smallest_detectable(0.1, 300, seeds=0.001) == pytest.approx(math.sqrt(7.85 * 0.4 / 307.85))
    seeded = [Difference(-0.1, 0, 0, 1, 20, 0.1, v) for v in (0.0, 0.001, 0.5)]
    assert median_detectable(seeded, graded=True) == smallest_graded(0.01, 20, seeds=0.001)
    assert smallest_graded(0.0, 20) is None
    assert smallest_graded(0.01, 0) is None
