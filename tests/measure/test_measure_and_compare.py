"""From an answerer to outcomes, a score and a paired difference."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.errors import TailorbirdError
from tailorbird.measure import compare, measure, score
from tailorbird.measure.mcnemar import mcnemar
from tailorbird.measure.tango import tango
from tailorbird.measure.wilson import wilson
from tailorbird.tasks import build
from tailorbird.types import Answer, Message, Outcome, Place, Request, Role, Row, Test, Train, Tuning, Validation

TASK = build("classify", labels={"x": "x", "y": "y"})


def rows(labels: str) -> list[Row]:
    return [
        Row(f"r{i}", (Message(Role.USER, f"t{i}"), Message(Role.ASSISTANT, c)), (False, True), Place("f", i), label=c)
        for i, c in enumerate(labels, start=1)
    ]


def outcomes(scores: Iterable[float], groups: Iterable[str | None] | None = None) -> list[Outcome]:
    scores = list(scores)
    named = list(groups) if groups is not None else [None] * len(scores)
    return [Outcome(f"r{i}", s, "x", "x", group=g) for i, (s, g) in enumerate(zip(scores, named, strict=True))]


class Always:
    """Says the same to every request; `lose` and `extra` make it break its promise."""

    def __init__(self, label: str, *, lose: int = 0, extra: int = 0) -> None:
        self.label, self.lose, self.extra = label, lose, extra

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        asked = list(requests)
        for request in asked[: len(asked) - self.lose]:
            yield Answer(request.id, self.label, self.label)
        for _ in range(self.extra):
            yield Answer("more", self.label, self.label)


def test_measuring_answers_every_row_and_tells_its_progress() -> None:
    told: list[tuple[int, int]] = []
    m = measure(Always("x"), Validation(rows("xxxy")), TASK, lambda done, total: told.append((done, total)))
    assert (m.split, m.metric, m.score.score, m.score.n) == ("validation", "accuracy", 0.75, 4)
    assert (m.score.low, m.score.high) == wilson(3, 4)
    assert [o.score for o in m.outcomes] == [1.0, 1.0, 1.0, 0.0]
    assert m.score.other["recall:y"] == 0.0
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize("split", [Tuning, Validation, Test])
def test_the_split_is_named_in_the_measurement(split) -> None:  # type: ignore[no-untyped-def]
    assert measure(Always("x"), split(rows("xy")), TASK).split == split.name


def test_train_is_refused() -> None:
    with pytest.raises(TypeError, match="measure takes Tuning, Validation or Test, not Train"):
        measure(Always("x"), Train(rows("xy")), TASK)  # type: ignore[arg-type]


def test_an_answerer_that_loses_or_adds_answers_is_named() -> None:
    with pytest.raises(TailorbirdError, match="Always gave nothing for row 'r4' of validation"):
        measure(Always("x", lose=1), Validation(rows("xxxy")), TASK)
    with pytest.raises(TailorbirdError, match="Always gave more answers than the 4 rows"):
        measure(Always("x", extra=1), Validation(rows("xxxy")), TASK)


def test_right_and_wrong_with_one_row_a_group_take_wilson_tango_and_mcnemar() -> None:
    a = outcomes([1, 1, 1, 1, 0, 0, 1, 1], "abcdefgh")
    b = outcomes([1, 0, 0, 0, 0, 1, 1, 1], "abcdefgh")
    d = compare(a, b)
    assert d.difference == pytest.approx(0.25)
    assert (d.low, d.high) == tango(3, 1, 8)
    assert d.p == mcnemar(3, 1)
    # three +1, one -1, four 0: mean 1/4; sum of squares 4 - 8/16 = 3.5; sd = sqrt(3.5 / 7)
    assert d.sd == pytest.approx(0.5**0.5)
    assert (score(a).low, score(a).high) == wilson(6, 8)


def test_groups_of_several_rows_widen_the_interval() -> None:
    right = [1.0, 1.0, 1.0, 1.0, 0.0] * 20
    alone = score(outcomes(right))
    families = score(outcomes(right, [str(i // 10) for i in range(100)]))  # every family alike: no more than 10 voices
    mixed = score(outcomes(sorted(right), [str(i // 10) for i in range(100)]))  # families all right or all wrong
    assert alone.score == families.score == mixed.score == pytest.approx(0.8)
    assert mixed.high - mixed.low > 2 * (alone.high - alone.low)
    assert families.low < 0.8 < families.high


def test_scores_between_0_and_1_take_the_bootstrap() -> None:
    s = score(outcomes([0.2, 0.4, 0.6, 0.9] * 25))
    assert s.score == pytest.approx(0.525)
    assert 0.45 < s.low < 0.525 < s.high < 0.6


def test_the_same_answers_are_no_difference_but_an_interval() -> None:
    for same in (outcomes([1.0, 0.0] * 50), outcomes([0.3, 0.7] * 50)):
        d = compare(same, same)
        assert (d.difference, d.p, d.sd) == (0.0, 1.0, 0.0)
        assert d.low < 0 < d.high


SCORES = st.lists(st.tuples(*[st.sampled_from([0.0, 0.25, 0.5, 1.0])] * 2), min_size=2, max_size=20)


@given(SCORES)
def test_a_difference_mirrors(pairs: list[tuple[float, float]]) -> None:
    a, b = outcomes(x for x, _ in pairs), outcomes(y for _, y in pairs)
    one, other = compare(a, b), compare(b, a)
    assert (one.difference, one.low, one.high) == pytest.approx((-other.difference, -other.high, -other.low))
    assert (one.p, one.sd) == pytest.approx((other.p, other.sd))
    assert -1 <= one.low <= one.high <= 1


def test_other_rows_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="same rows in the same order"):
        compare(outcomes([1, 0]), list(reversed(outcomes([1, 0]))))
