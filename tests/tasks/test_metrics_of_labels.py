"""Macro-F1, recall per label, calibration error and coverage: worked by hand and against scikit-learn."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.tasks.calibration import calibration_error, coverage_at
from tailorbird.tasks.f1 import macro_f1, recalls

CONFIDENT = st.lists(st.tuples(st.sampled_from([0.1, 0.3, 0.5, 0.9, 1.0]), st.sampled_from([0.0, 1.0])), min_size=1)


def test_recall_and_macro_f1_by_hand() -> None:
    expected = ["a", "a", "a", "b", "b", "c"]
    given_labels = ["a", "a", "b", "b", "nonsense", "a"]
    assert recalls(expected, given_labels) == {"a": 2 / 3, "b": 1 / 2, "c": 0.0}
    # a: 2 * 2 / (3 + 3);  b: 2 * 1 / (2 + 2);  c: 0
    assert macro_f1(expected, given_labels) == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abcd")), min_size=1, max_size=30))
def test_macro_f1_equals_scikit_learns_over_the_labels_that_occur(pairs: list[tuple[str, str]]) -> None:
    from sklearn.metrics import f1_score

    expected, said = [e for e, _ in pairs], [g for _, g in pairs]
    theirs = f1_score(expected, said, labels=sorted(set(expected)), average="macro", zero_division=0)
    assert macro_f1(expected, said) == pytest.approx(theirs)


def test_calibration_error_by_hand() -> None:
    # ten rows, ten bins of one: |right - confidence| each
    sure = [0.9] * 5 + [0.6] * 5
    right = [1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    # equal confidences are averaged: 0.9 is right 4 of 5 (off by 0.1), 0.6 is right 1 of 5 (off by 0.4)
    assert calibration_error(sure, right) == pytest.approx((5 * 0.1 + 5 * 0.4) / 10)


def test_two_bins_let_errors_within_a_bin_cancel() -> None:
    sure, right = [0.2, 0.4, 0.8, 1.0], [0.0, 1.0, 1.0, 1.0]
    # bins {0.2, 0.4} and {0.8, 1.0}: |1 - 0.6| / 4 + |2 - 1.8| / 4
    assert calibration_error(sure, right, bins=2) == pytest.approx(0.4 / 4 + 0.2 / 4)


def test_perfect_and_worst_calibration() -> None:
    assert calibration_error([1.0] * 20, [1.0] * 20) == 0.0
    assert calibration_error([1.0] * 20, [0.0] * 20) == 1.0


@given(CONFIDENT, st.randoms())
def test_calibration_error_does_not_depend_on_the_order_of_rows(
    rows: list[tuple[float, float]], rng: random.Random
) -> None:
    shuffled = rows[:]
    rng.shuffle(shuffled)
    first = calibration_error([c for c, _ in rows], [r for _, r in rows])
    assert calibration_error([c for c, _ in shuffled], [r for _, r in shuffled]) == pytest.approx(first)
    assert 0.0 <= first <= 1.0


def test_coverage_takes_the_surest_rows_while_enough_are_right() -> None:
    sure = [0.99, 0.9, 0.8, 0.7, 0.6]
    right = [1.0, 1.0, 0.0, 1.0, 0.0]
    assert coverage_at(0.75, sure, right) == 4 / 5  # 3 of 4
    assert coverage_at(1.0, sure, right) == 2 / 5
    assert coverage_at(0.5, sure, right) == 1.0
    assert coverage_at(0.9, [0.5], [0.0]) == 0.0


def test_rows_of_equal_confidence_cannot_be_parted() -> None:
    assert coverage_at(1.0, [0.9, 0.9], [1.0, 0.0]) == 0.0


@given(CONFIDENT)
def test_coverage_is_what_trying_every_threshold_finds(rows: list[tuple[float, float]]) -> None:
    best = 0.0
    for threshold in {c for c, _ in rows}:
        kept = [r for c, r in rows if c >= threshold]
        if sum(kept) / len(kept) >= 0.9 - 1e-9:
            best = max(best, len(kept) / len(rows))
    assert coverage_at(0.9, [c for c, _ in rows], [r for _, r in rows]) == best


@pytest.mark.parametrize("metric", [calibration_error, lambda c, r: coverage_at(0.9, c, r)])
def test_no_rows_is_an_error_not_a_zero(metric) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError):
        metric([], [])
