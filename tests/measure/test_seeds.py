"""Intervals that speak of a technique: rows and seeds as two-way random effects."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.measure import compare, score
from tailorbird.measure.comparison import SEVERAL_SEEDS, Record, build, candidates
from tailorbird.measure.measure import over_seeds
from tailorbird.measure.recommend import recommend
from tailorbird.measure.seeds import (
    clustered,
    difference_interval,
    mean_interval,
    mean_squares,
    sample_sd,
    satterthwaite,
    t_quantile,
)
from tailorbird.measure.tango import tango
from tailorbird.measure.wilson import wilson
from tailorbird.types import Measurement, Outcome, Score

HAND = [[1.0, 3.0], [2.0, 4.0], [3.0, 8.0]]


def outcomes(table: Sequence[Sequence[float]], groups: Sequence[str] | None = None) -> list[Outcome]:
    return [
        Outcome(f"r{n}", sum(row) / len(row), "x", "x", groups[n] if groups else None, by_seed=tuple(row))
        for n, row in enumerate(table)
    ]


def test_mean_squares_worked_out_by_hand() -> None:
    # row means 2, 3, 5.5; seed means 2, 5; all 3.5
    # rows: 2 (2.25 + 0.25 + 4) / 2 = 6.5; seeds: 3 (2.25 + 2.25) / 1 = 13.5
    # rests: 1 - 2 - 2 + 3.5 = 0.5, 2 - 3 - 2 + 3.5 = 0.5, 3 - 5.5 - 2 + 3.5 = -1, and mirrored: 2 x 1.5 / 2 = 1.5
    found = mean_squares(HAND)
    assert (found.row, found.seed, found.rest, found.mean) == pytest.approx((6.5, 13.5, 1.5, 3.5))
    # Var = (6.5 + 13.5 - 1.5) / 6; nu = 18.5^2 / (6.5^2 / 2 + 13.5^2 / 1 + 1.5^2 / 2)
    terms = [(found.row / 6, 2.0), *found.of_seeds()]
    assert satterthwaite(terms) == pytest.approx((18.5 / 6, 18.5**2 / (6.5**2 / 2 + 13.5**2 + 1.5**2 / 2)))


def test_the_difference_worked_out_by_hand() -> None:
    a = [[0.4, 0.8], [0.2, 0.8], [0.9, 0.9]]
    b = [[0.5], [0.1], [0.6]]
    # d = 0.1, 0.4, 0.3: mean 0.8 / 3, s^2 = 0.07 / 3
    # a: row means 0.6, 0.5, 0.9; seed means 0.5, 0.8333; all 0.6667; MS_seed = 3 x 2 x (1/6)^2 = 1/6
    # rests of seed 0: 0.4 - 0.6 + 1/6 = -1/30, 0.2 - 0.5 + 1/6 = -4/30, 0.9 - 0.9 + 1/6 = 5/30: MS_rest = 42/900
    rows, seed, rest = 0.07 / 9, 1 / 36, 42 / 5400
    variance = rows + seed - rest
    freedom = variance**2 / (rows**2 / 2 + seed**2 + rest**2 / 2)
    half = t_quantile(freedom) * math.sqrt(variance)
    low, high, p = difference_interval(a, b)
    assert (low, high) == pytest.approx((max(-1.0, 0.8 / 3 - half), min(1.0, 0.8 / 3 + half)))
    assert 0.05 < p < 1


def plain(table: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """The textbook's sums of squares, by subtraction: total = rows + seeds + rest."""
    n, s = len(table), len(table[0])
    cells = [y for row in table for y in row]
    correction = sum(cells) ** 2 / (n * s)
    rows = sum(sum(row) ** 2 for row in table) / s - correction
    seeds = sum(sum(column) ** 2 for column in zip(*table)) / n - correction
    rest = sum(y * y for y in cells) - correction - rows - seeds
    return rows / (n - 1), seeds / (s - 1), rest / ((n - 1) * (s - 1))


TABLES = st.integers(2, 4).flatmap(
    lambda s: st.lists(
        st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=s, max_size=s), min_size=2, max_size=15
    )
)


@given(TABLES)
def test_mean_squares_are_those_of_the_textbook(table: list[list[float]]) -> None:
    found = mean_squares(table)
    assert (found.row, found.seed, found.rest) == pytest.approx(plain(table), abs=1e-9)


@given(TABLES)
def test_the_interval_holds_the_mean_and_stays_within_0_and_1(table: list[list[float]]) -> None:
    found = score(outcomes(table))
    assert 0 <= found.low <= found.score + 1e-12 <= 1 + 2e-12
    assert found.score <= found.high + 1e-12 <= 1 + 2e-12


@given(TABLES, st.randoms())
def test_the_order_of_rows_and_of_seeds_does_not_matter(table: list[list[float]], rng) -> None:  # type: ignore[no-untyped-def]
    places = list(range(len(table[0])))
    rng.shuffle(places)
    other = [[row[p] for p in places] for row in rng.sample(table, len(table))]
    one, two = mean_interval(table, share=False), mean_interval(other, share=False)
    assert one == pytest.approx(two, abs=1e-9)


@given(TABLES)
def test_a_difference_of_seeds_mirrors(table: list[list[float]]) -> None:
    other = [[1 - row[0], row[-1]] for row in table]
    one, two = compare(outcomes(table), outcomes(other)), compare(outcomes(other), outcomes(table))
    assert (one.difference, one.low, one.high) == pytest.approx((-two.difference, -two.high, -two.low))
    assert one.p == pytest.approx(two.p)


def test_without_variation_between_seeds_rows_alone_speak() -> None:
    table = [[1.0, 1.0, 1.0]] * 80 + [[0.0, 0.0, 0.0]] * 20
    found = score(outcomes(table))
    assert (found.low, found.high) == wilson(80, 100)
    d = compare(outcomes(table), outcomes([[0.0]] * 100))
    assert (d.low, d.high) == tango(80, 0, 100)


def test_rows_that_hardly_differ_show_no_more_than_as_many_that_do_not() -> None:
    """One wrong cell of 500 has shown next to nothing of how rows differ: no interval sharper than Tango's."""
    a, b = [[1.0] * 5] * 100, [[1.0, 1.0, 1.0, 1.0, 0.0], *[[1.0] * 5] * 99]
    d = compare(outcomes(b), outcomes(a))
    low, high = tango(0, 0, 100)
    assert d.difference == pytest.approx(-0.002)
    assert d.high - d.low >= 0.99 * (high - low)
    assert d.low < -0.035


def test_a_cheaper_technique_is_rarely_called_close_where_differences_are_rare() -> None:
    """Truth: 2.5 points worse, 100 rows, a margin of 2. Row noise only: an error in 40 pairs is all there is to see."""
    rng = random.Random(4)
    called = 0
    for _ in range(300):
        bad = [rng.random() < 0.025 for _ in range(100)]
        b = [[0.0 if wrong and rng.random() < 0.9 else 1.0 for _ in range(5)] for wrong in bad]
        called += compare(outcomes(b), outcomes([[1.0] * 5] * 100)).low > -0.02
    assert called == 0


def test_seeds_that_undo_each_other_are_not_certainty() -> None:
    """Two seeds, each right where the other is wrong: 0.5, of which 20 cells are all that was seen."""
    found = score(outcomes([[1.0, 0.0], [0.0, 1.0]] * 5))
    assert (found.low, found.high) == pytest.approx(wilson(10, 20, t_quantile(19)))


def test_what_seeds_add_is_told_beside_the_spread_of_rows() -> None:
    shaky = [[1.0, 1.0]] * 65 + [[1.0, 0.0]] * 30 + [[0.0, 0.0]] * 5
    d = compare(outcomes(shaky), outcomes([[0.0]] * 100))
    found = mean_squares(shaky)
    assert d.seeds == pytest.approx((found.seed - found.rest) / 200)
    assert compare(outcomes([[1.0, 1.0]] * 5), outcomes([[0.0]] * 5)).seeds == 0.0


def test_one_training_beside_several_is_taken_to_vary_as_they_do() -> None:
    """alike: beside the seed variance of a mean of four, four times that of the side that was made once."""
    table = [[1.0] * 4] * 65 + [[1.0, 1.0, 0.0, 0.0]] * 8 + [[0.0] * 4] * 27
    once = [[1.0]] * 60 + [[0.0]] * 40
    rows = compare(outcomes(table), outcomes(once)).sd ** 2 / 100
    of_seeds = mean_squares(table).of_seeds()
    variance, freedom = satterthwaite([(rows, 99), *of_seeds, *((4 * value, f) for value, f in of_seeds)])
    found = compare(outcomes(table), outcomes(once), alike=True)
    assert found.high - found.difference == pytest.approx(t_quantile(freedom) * math.sqrt(variance))
    assert found.high > compare(outcomes(table), outcomes(once)).high


def test_all_right_is_not_certainty() -> None:
    found = score(outcomes([[1.0, 1.0]] * 50))
    assert (found.low, found.high) == wilson(50, 50)
    nearly = score(outcomes([[1.0, 1.0]] * 49 + [[1.0, 0.0]]))
    assert nearly.low < 0.98
    assert nearly.score < nearly.high < 1.0


def test_one_row_says_next_to_nothing() -> None:
    found = score(outcomes([[1.0, 0.0, 1.0]]))
    assert found.low < 0.2
    assert found.high > 0.9
    d = compare(outcomes([[1.0, 0.0]]), outcomes([[0.0, 0.0]]))
    assert d.low < 0 < d.high
    with pytest.raises(ValueError, match="1 rows x 2 seeds"):
        mean_squares([[1.0, 0.0]])


def test_seeds_that_differ_widen_the_interval() -> None:
    steady = [[1.0, 1.0]] * 80 + [[0.0, 0.0]] * 20
    shaky = [[1.0, 1.0]] * 65 + [[1.0, 0.0]] * 30 + [[0.0, 0.0]] * 5
    a, b = score(outcomes(steady)), score(outcomes(shaky))
    assert a.score == b.score
    assert b.high - b.low > 2 * (a.high - a.low)
    one_seed = outcomes([[0.0]] * 100)
    assert compare(outcomes(shaky), one_seed).low < compare(outcomes(steady), one_seed).low


def test_many_seeds_that_cross_are_sharper_than_one() -> None:
    """Noise of single rows, no effect of the seed as a whole: its mean over five seeds is known better."""
    table = [[1.0 if (r * 7 + s) % 5 else 0.0 for s in range(5)] for r in range(100)]
    found = score(outcomes(table))
    low, high = wilson(80, 100)
    assert found.high - found.low < 0.6 * (high - low)


def test_rows_of_a_group_count_as_one_voice() -> None:
    table = [[1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 1.0]] * 5
    names = [f"g{n // 4}" for n in range(20)]
    repeated = score(outcomes(table, names))
    alone = score(outcomes(table))
    assert repeated.score == alone.score
    # five groups with the same rows: groups do not differ, so what is left is the seeds
    lines = clustered(table, names)
    assert len(lines) == 5
    assert [sum(column) / 5 for column in zip(*lines)] == pytest.approx([sum(c) / 20 for c in zip(*table)])
    mixed = score(outcomes(sorted(table), names))
    assert mixed.high - mixed.low > alone.high - alone.low


def test_groups_of_one_row_change_nothing() -> None:
    names = [f"g{n}" for n in range(3)]
    assert clustered(HAND, names) == [pytest.approx(row) for row in HAND]


@pytest.mark.parametrize(
    ("seeds", "between", "least"),
    [(2, 0.1, 0.92), (3, 0.1, 0.92), (5, 0.1, 0.92), (3, 0.0, 0.92), (5, 0.3, 0.92), (2, 0.3, 0.87), (3, 0.3, 0.9)],
)
def test_the_interval_of_a_score_holds_the_truth_in_95_of_100(seeds: int, between: float, least: float) -> None:
    """With `between` 0.1 seeds vary as much as rows make the mean vary, with 0.3 three times as much: more than two or
    three seeds can tell."""
    import numpy as np

    rng = np.random.default_rng(20)
    rows, trials = 200, 400
    level = 0.8
    truth = 0.5 * (1 + math.erf(level / math.sqrt(1 + between**2 + 0.25) / math.sqrt(2)))
    hits = 0
    for _ in range(trials):
        latent = level + rng.standard_normal((rows, 1)) + between * rng.standard_normal((1, seeds))
        latent = latent + 0.5 * rng.standard_normal((rows, seeds))
        low, high = mean_interval((latent > 0).astype(float).tolist(), share=True)
        hits += low <= truth <= high
    assert least <= hits / trials <= 0.98  # ± 3 standard errors of 400 trials


@pytest.mark.parametrize(("a_seeds", "b_seeds"), [(3, 3), (5, 3), (3, 1)])
def test_the_interval_of_a_difference_holds_the_truth_in_95_of_100(a_seeds: int, b_seeds: int) -> None:
    """Two techniques on the same rows. A side with one seed has no seed effect here: the interval is about its
    checkpoint."""
    import numpy as np

    rng = np.random.default_rng(21)
    rows, trials, hits = 200, 400, 0
    for _ in range(trials):
        common = 0.2 * rng.standard_normal((rows, 1))

        def side(mean: float, seeds: int, common: np.ndarray = common) -> list[list[float]]:
            seed = 0.02 * rng.standard_normal((1, seeds)) * (seeds > 1)
            return (mean + common + seed + 0.15 * rng.standard_normal((rows, seeds))).tolist()

        low, high, p = difference_interval(side(0.6, a_seeds), side(0.55, b_seeds))
        hits += low <= 0.05 <= high
        assert (p < 0.05) == (low > 0 or high < 0)
    assert 0.92 <= hits / trials <= 0.98


def measurement(table: Sequence[Sequence[float]], seed: int, said: str) -> Measurement:
    found = tuple(Outcome(f"r{n}", row[seed], "x", said, confidence=0.5 + seed / 10) for n, row in enumerate(table))
    return Measurement("validation", "accuracy", Score(0.0, 0.0, 0.0, len(table), {"macro_f1": seed / 2}), found)


def test_measurements_of_seeds_become_one_with_the_answers_of_the_exported() -> None:
    table = [[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]
    one = over_seeds([measurement(table, s, f"said {s}") for s in (0, 1)], exported=1)
    assert [o.score for o in one.outcomes] == [0.5, 1.0, 0.0]
    assert [o.by_seed for o in one.outcomes] == [tuple(row) for row in table]
    assert {o.given for o in one.outcomes} == {"said 1"}
    assert {o.confidence for o in one.outcomes} == {0.6}
    assert one.score.other == {"macro_f1": 0.25}
    assert one.score.score == 0.5
    assert (one.score.low, one.score.high) == mean_interval(table, share=True)


def test_measurements_on_other_rows_are_not_mixed() -> None:
    a = measurement([[1.0], [0.0]], 0, "x")
    b = Measurement(a.split, a.metric, a.score, tuple(reversed(a.outcomes)))
    with pytest.raises(ValueError, match="other rows"):
        over_seeds([a, b], 0)


def record(label: str, table: Sequence[Sequence[float]], technique: str = "lora") -> Record:
    several = len(table[0]) > 1
    found = tuple(outcomes(table) if several else outcomes([[row[0]] for row in table]))
    measured = Measurement("validation", "accuracy", score(found), found)
    return Record(
        label=label, kind="technique", technique=technique, measurements={"validation": measured},
        seeds=tuple(range(7, 7 + len(table[0]))), exported_seed=8 if several else 7,
        cost={"flops_per_request": 1.0, "deployed_bytes": 1},
    )  # fmt: skip


def test_the_comparison_says_of_what_it_speaks_and_shows_each_seed() -> None:
    table = [[1.0, 0.0, 1.0]] * 30 + [[1.0, 1.0, 1.0]] * 50 + [[0.0, 0.0, 0.0]] * 20
    records = [record("zero_shot", [[0.0], [1.0]] * 50, "zero_shot"), record("lora", table)]
    comparison = build(
        run="r", task="classify", metric="accuracy", base={}, splits={}, requirements={}, records=records
    )
    alone, several = comparison["rows"]
    assert (alone["by_seed"], alone["seed_sd"]) == ([], {})
    assert several["interval_is_about"] == SEVERAL_SEEDS
    chained = replace(records[1], after="domain")
    both = build(
        run="r", task="classify", metric="accuracy", base={}, splits={}, requirements={}, records=[records[0], chained]
    )
    assert both["rows"][1]["interval_is_about"] == f"{SEVERAL_SEEDS}, all from one domain"
    assert several["seeds"] == [7, 8, 9]
    assert several["by_seed"] == [
        {"seed": 7, "exported": False, "validation": pytest.approx(0.8)},
        {"seed": 8, "exported": True, "validation": pytest.approx(0.5)},
        {"seed": 9, "exported": False, "validation": pytest.approx(0.8)},
    ]
    assert several["seed_sd"] == {"validation": pytest.approx(math.sqrt(0.06 / 2))}
    assert several["versus_base"]["validation"]["low"] < several["versus_base"]["validation"]["difference"]


def test_the_recommendation_takes_such_outcomes_as_they_are() -> None:
    shaky = [[1.0, 0.0, 1.0]] * 30 + [[1.0, 1.0, 1.0]] * 150 + [[0.0, 0.0, 0.0]] * 20
    base = record("zero_shot", [[0.0]] * 100 + [[1.0]] * 100, "zero_shot")
    made = recommend(candidates([base, record("lora", shaky)]), 0.02)
    assert (made.verdict, made.label) == ("use", "lora")


def test_the_standard_deviation_of_one_is_unknown() -> None:
    assert sample_sd([0.5]) is None
    assert sample_sd([0.2, 0.4]) == pytest.approx(math.sqrt(0.02))
