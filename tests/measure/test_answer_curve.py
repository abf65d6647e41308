"""Would more labels help? By the paired difference of the curve's last two points."""

from __future__ import annotations

import pytest

from tailorbird.measure import compare, score
from tailorbird.measure.answer_curve import Point, answer_curve
from tailorbird.types import Measurement, Outcome


def point(share: int, right: int, n: int = 200) -> Point:
    found = tuple(Outcome(f"r{i}", float(i < right), "x", "x") for i in range(n))
    return Point(share, 3 * share, Measurement("validation", "accuracy", score(found), found))


def test_a_curve_that_still_rises() -> None:
    points = [point(25, 100), point(50, 140), point(100, 160)]
    found = answer_curve(points, 0.02)
    d = compare(points[2].measurement.outcomes, points[1].measurement.outcomes)
    assert found["more_labels"] == "yes"
    assert found["last_step"] == {
        "from": 50, "to": 100, "from_rows": 150, "to_rows": 300, "seeds": 1,
        "difference": d.difference, "low": d.low, "high": d.high, "p": d.p,
    }  # fmt: skip
    assert d.low > 0
    assert [(p["share"], p["rows"], p["score"], p["n"]) for p in found["points"]] == [
        (25, 75, 0.5, 200), (50, 150, 0.7, 200), (100, 300, 0.8, 200),
    ]  # fmt: skip


def test_a_rise_that_another_seed_may_undo_is_not_shown() -> None:
    """The last point is of two seeds that lie 8 points apart, the one before it is one training: a rise of as much."""
    before = point(50, 144)
    rows = [Outcome(f"r{i}", (float(i < 152) + float(i < 168)) / 2, "x", "x", by_seed=(float(i < 152), float(i < 168)))
            for i in range(200)]  # fmt: skip
    last = Point(100, 300, Measurement("validation", "accuracy", score(rows), tuple(rows)))
    found = answer_curve([before, last], 0.02)
    assert found["last_step"]["seeds"] == 2
    assert found["last_step"]["difference"] == pytest.approx(0.08)
    assert found["more_labels"] == "not shown"


def test_a_flat_end_is_no_when_the_interval_lies_below_the_margin() -> None:
    assert answer_curve([point(50, 160), point(100, 160)], 0.05)["more_labels"] == "no"
    assert answer_curve([point(50, 160), point(100, 130)], 0.02)["more_labels"] == "no"


def test_what_the_rows_cannot_show_is_not_shown() -> None:
    assert answer_curve([point(50, 160), point(100, 162)], 0.01)["more_labels"] == "not shown"
    assert answer_curve([point(50, 15, 20), point(100, 16, 20)], 0.02)["more_labels"] == "not shown"


def test_one_point_is_no_curve() -> None:
    with pytest.raises(ValueError, match="two points"):
        answer_curve([point(100, 160)], 0.02)
