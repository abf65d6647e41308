"""Replay: how many rows a share is, and which rows must not be met."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tailorbird.data import replay_rows, usable
from tailorbird.types import Row

from .rows import sentence

MakeRow = Callable[..., Row]
EIGHT = "the quick brown fox jumps over one lazy dog today"


@pytest.mark.parametrize(
    ("train", "share", "rows"), [(100, 0.0, 0), (100, 0.2, 25), (90, 0.1, 10), (300, 0.5, 300), (5, 0.01, 1)]
)
def test_a_share_is_of_both_together(train: int, share: float, rows: int) -> None:
    assert replay_rows(train, share) == rows


def test_rows_that_forgetting_is_measured_on_are_left_out_in_question_or_answer(row: MakeRow) -> None:
    rows = [
        row(1),
        row(2, text=f"Repeat: {EIGHT}."),
        row(3, answer=f"Surely, {EIGHT.upper()}!"),
        row(4, text="the quick brown fox"),
    ]
    kept, left_out = usable(rows, held_out=[], measured=["unrelated words of no length", EIGHT])
    assert [r.id for r in kept] == [rows[0].id, rows[3].id]
    assert left_out == {"held_out": 0, "measured_on": 2}


def test_rows_that_say_what_a_held_out_row_says_are_left_out(row: MakeRow) -> None:
    long = " ".join(sentence(n) for n in range(3))
    rows = [row(1, text=long), row(2, text=long + "!"), row(3)]
    kept, left_out = usable(rows, held_out=[row(9, text=long.upper())], measured=[])
    assert [r.id for r in kept] == [rows[2].id]
    assert left_out == {"held_out": 2, "measured_on": 0}
