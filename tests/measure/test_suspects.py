"""Suspects: rows whose label all good contestants contradict with the same answer."""

from __future__ import annotations

from collections.abc import Sequence

from tailorbird.measure.suspects import good_contestants, suspects
from tailorbird.types import Outcome, Score


def said(text: str, expected: str = "xxxxxyyyyy", sure: Sequence[float | None] = (None,) * 10) -> list[Outcome]:
    return [
        Outcome(f"r{i}", float(g == e), e, g, confidence=c)
        for i, (g, e, c) in enumerate(zip(text, expected, sure, strict=True))
    ]


GOOD, ALSO_GOOD, WEAK = Score(0.9, 0.85, 0.95, 300), Score(0.82, 0.77, 0.86, 300), Score(0.7, 0.65, 0.75, 300)


def test_a_row_that_all_good_ones_contradict_alike_is_a_suspect() -> None:
    found = suspects({"lora": said("xxxxyyyyyy"), "sft": said("xxxxyyyyyx")}, {"lora": GOOD, "sft": ALSO_GOOD})
    assert found == [
        {"row": "r4", "label": "x", "suggested": "y", "contestants": ["lora", "sft"], "confidence": None}
    ]  # r9 is contradicted by one alone


def test_contradicting_with_different_answers_is_no_suspicion() -> None:
    outcomes = {"lora": said("zxxxxyyyyy"), "sft": said("yxxxxyyyyy")}
    assert suspects(outcomes, {"lora": GOOD, "sft": GOOD}) == []


def test_weak_contestants_are_not_asked() -> None:
    outcomes = {"lora": said("xxxxyyyyyy"), "sft": said("xxxxyyyyyy"), "zero_shot": said("xxxxxyyyyy")}
    scores = {"lora": GOOD, "sft": ALSO_GOOD, "zero_shot": WEAK}
    assert good_contestants(outcomes, scores) == ["lora", "sft"]  # more than 10 points below the best: left out
    assert [s["row"] for s in suspects(outcomes, scores)] == ["r4"]


def test_where_nobody_is_good_or_only_one_there_are_no_suspects() -> None:
    both = {"a": said("yxxxxyyyyy"), "b": said("yxxxxyyyyy")}
    unsure = Score(0.55, 0.49, 0.6, 300)
    assert suspects(both, {"a": unsure, "b": unsure}) == []
    assert suspects({"a": both["a"]}, {"a": GOOD}) == []
    assert suspects({}, {}) == []


def test_always_the_commonest_label_is_not_good() -> None:
    lopsided = "xxxxxxxxxy"
    outcomes = {"a": said("xxxxxxxxxx", lopsided), "b": said("xxxxxxxxxx", lopsided)}
    barely = Score(0.9, 0.86, 0.93, 300)  # its lower bound is below the share of x
    assert suspects(outcomes, {"a": barely, "b": barely}) == []


def test_the_surest_come_first_then_those_of_unknown_confidence() -> None:
    one = said("yxxxyyyyyx", sure=[0.6, *[None] * 3, 0.9, *[None] * 5])
    other = said("yxxxyyyyyx", sure=[0.8, *[None] * 3, 0.99, *[None] * 5])
    found = suspects({"a": one, "b": other}, {"a": GOOD, "b": GOOD})
    assert [s["row"] for s in found] == ["r4", "r0", "r9"]
    assert found[1]["confidence"] == 0.7


def test_an_empty_answer_suggests_nothing() -> None:
    blank = [Outcome("r0", 0.0, "x", ""), Outcome("r1", 1.0, "y", "y")]
    assert suspects({"a": blank, "b": blank}, {"a": GOOD, "b": GOOD}) == []
