"""What a customization has learned from stays out of every measurement of a later run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailorbird.data import met, split
from tailorbird.data.learned import Learned, input_hash
from tailorbird.errors import DataError
from tailorbird.types import Message, Role, Row

from .rows import make_row, sentence


def rows_of(count: int) -> list[Row]:
    return [make_row(number, label="ab"[number % 2]) for number in range(count)]


def learned_from(train: list[Row], tuning: list[Row], who: str = "runs/old:lora") -> Learned:
    told = met(train, tuning)
    return Learned(dict.fromkeys(told["train"], who), dict.fromkeys(told["tuning"], who))


def test_a_row_is_known_by_what_it_asks_not_by_its_answer_its_instruction_or_its_spelling() -> None:
    row = make_row(1, "Where is my card?", label="a")
    other = make_row(2, "where is  my CARD", label="b")
    told = replace(row, messages=(Message(Role.SYSTEM, "Be brief."), *row.messages), supervised=(False, False, True))
    assert input_hash(row) == input_hash(other) == input_hash(told)
    assert input_hash(row) != input_hash(make_row(3, "Where is your card?"))


@settings(deadline=None, max_examples=60)
@given(st.integers(16, 60), st.randoms(use_true_random=False), st.integers(0, 5), st.booleans())
def test_whatever_was_learned_from_is_in_no_split_that_it_would_spoil(
    count: int, random: Any, seed: int, stratify: bool
) -> None:
    """Trained on before: in Train, or in no split. Looked at before: in Train or Tuning, or in no split."""
    rows = rows_of(count)
    shuffled = random.sample(rows, count)
    trained, tuned = shuffled[: count // 4], shuffled[count // 4 : count // 3]
    splits, facts = split(rows, seed=seed, stratify=stratify, learned=learned_from(trained, tuned))
    old, looked_at = {row.id for row in trained}, {row.id for row in tuned}
    for part in (splits.validation, splits.test):
        assert not {row.id for row in part} & (old | looked_at)
    assert not {row.id for row in splits.tuning} & old
    assert old <= {row.id for row in splits.train}
    assert len(splits.validation) and len(splits.test) and len(splits.tuning)
    assert sum(map(len, (splits.train, splits.tuning, splits.validation, splits.test))) == count
    assert facts.learned == len(trained) + len(tuned)
    assert facts.warnings[0] == (
        f"{facts.learned:,} rows are not measured on: runs/old:lora has learned from them before"
    )


def test_the_same_split_again_is_possible_for_what_goes_on_from_it() -> None:
    """280 of 880 rows are known; 600 new ones are Validation and Test, and Tuning is what it was."""
    rows, sizes = rows_of(880), {"train": 240, "tuning": 40, "validation": 300, "test": 300}
    first, _ = split(rows, seed=0, sizes=sizes)
    learned = learned_from(list(first.train), list(first.tuning))
    again, _ = split(rows, seed=1, sizes=sizes, learned=learned)
    assert {row.id for row in again.train} == {row.id for row in first.train}
    assert {row.id for row in again.tuning} == {row.id for row in first.tuning}
    assert (len(again.validation), len(again.test)) == (300, 300)


def test_a_near_duplicate_of_a_known_row_goes_with_it() -> None:
    near = make_row(100, sentence(0) + " please")
    splits, _ = split([*rows_of(40), near], seed=0, learned=learned_from([make_row(0)], []))
    assert {row.id for row in (make_row(0), near)} <= {row.id for row in splits.train}


def test_few_new_rows_are_measured_on_and_too_few_are_refused_with_the_reason() -> None:
    rows = rows_of(40)
    splits, _ = split(rows, seed=0, learned=learned_from(rows[:35], []))
    assert [len(part) for part in (splits.train, splits.tuning, splits.validation, splits.test)] == [35, 1, 2, 2]
    for trained, tuned in ((rows[:37], []), (rows[:17], rows[17:37])):
        with pytest.raises(DataError) as refused:
            split(rows, seed=0, learned=learned_from(trained, tuned))
        assert "3 of 40 rows are new" in str(refused.value)
        assert "the others were learned from already" in str(refused.value)
        assert "are needed (" in str(refused.value)
    with pytest.raises(DataError, match=r"add 5 new rows, or ask for smaller splits"):
        split(rows, seed=0, sizes={"test": 5, "validation": 5}, learned=learned_from(rows[:34], rows[34:35]))


def test_rows_that_belong_to_known_ones_count_as_known() -> None:
    """Five groups of eight, one row of each known: nothing is new."""
    rows = [replace(row, group=f"g{number % 5}") for number, row in enumerate(rows_of(40))]
    with pytest.raises(DataError, match="0 of 40 rows are new"):
        split(rows, seed=0, learned=learned_from(rows[:5], []))


def test_with_given_validation_and_test_going_on_has_the_train_and_tuning_that_were() -> None:
    rows = rows_of(200)
    given: dict[str, Any] = {
        "given_test": [make_row(number) for number in range(300, 320)],
        "given_validation": [make_row(number) for number in range(400, 420)],
    }
    first, _ = split(rows, seed=0, **given)
    for seed in (1, 2):
        again, _ = split(rows, seed=seed, learned=learned_from(list(first.train), list(first.tuning)), **given)
        assert {row.id for row in again.train} == {row.id for row in first.train}
        assert {row.id for row in again.tuning} == {row.id for row in first.tuning}


@pytest.mark.parametrize("mate", [{"text": sentence(1) + " please"}, {"group": "g"}])
def test_a_given_row_that_belongs_to_a_known_example_is_refused_whatever_is_said_of_overlap(mate: Any) -> None:
    """Leaving the example out of Train would not make the parent unlearn it."""
    rows = [make_row(number, group="g" if number == 1 else None) for number in range(40)]
    with pytest.raises(DataError) as refused:
        split(
            rows, seed=0, given_test=[make_row(100, **mate)], overlap="drop_from_train",
            learned=learned_from([rows[1]], []),
        )  # fmt: skip
    assert "1 row(s) of the given test set were learned from already" in str(refused.value)
    assert "rows.csv:102 ~ rows.csv:3" in str(refused.value)


def test_a_given_set_that_was_learned_from_is_refused_naming_rows_and_who() -> None:
    test = [make_row(100), make_row(101), make_row(102)]
    learned = learned_from([make_row(101)], [make_row(102)])
    with pytest.raises(DataError) as refused:
        split(rows_of(40), seed=0, given_test=test, learned=learned)
    assert "2 row(s) of the given test set were learned from already" in str(refused.value)
    assert "rows.csv:103 (met by runs/old:lora)" in str(refused.value)
    split(rows_of(40), seed=0, given_test=test[:1], learned=learned)
