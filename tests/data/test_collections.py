"""Collections: instructions become system messages, parts of Train are exact, splits hold the sources in proportion."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailorbird.data import Source, check_no_overlap, mix, read, split, take
from tailorbird.errors import DataError
from tailorbird.types import Role, Row

from .rows import make_row, sentence

MakeRow = Callable[..., Row]


@pytest.fixture
def two_files(tmp_path: Path) -> Path:
    """questions.jsonl (question, answer) and topics.csv (text, label)."""
    lines = [json.dumps({"question": sentence(n), "answer": f"it is {n}"}) for n in range(40)]
    (tmp_path / "questions.jsonl").write_text("\n".join(lines), encoding="utf-8")
    rows = [f"{sentence(100 + n)},{'ab'[n % 2]}" for n in range(20)]
    (tmp_path / "topics.csv").write_text("text,label\n" + "\n".join(rows), encoding="utf-8")
    return tmp_path


def system(row: Row) -> str | None:
    return next((m.content for m in row.messages if m.role is Role.SYSTEM), None)


def test_each_row_has_its_source_and_its_instruction(two_files: Path) -> None:
    sources = [
        Source("questions.jsonl", "maths", ("Answer it.",)),
        Source("topics.csv", "topics", ("Name the topic.",)),
    ]
    data = read(sources, root=two_files)
    assert Counter((row.source, system(row)) for row in data.rows) == {
        ("maths", "Answer it."): 40,
        ("topics", "Name the topic."): 20,
    }
    assert {row.slices["source"] for row in data.rows} == {"maths", "topics"}
    topic = next(row for row in data.rows if row.source == "topics")
    assert (topic.answer, topic.label) == ("a", "a")  # a label is an answer, too
    assert topic.supervised == (False, False, True)
    assert str(topic.place) == "topics.csv:2"


def test_a_row_s_own_system_message_stands_behind_the_instruction(row: MakeRow) -> None:
    own = row(1)
    messages = (replace(own.messages[0], role=Role.SYSTEM, content="Be brief."), *own.messages)
    described = Source("x", "x", ("Answer it.",)).described(
        replace(own, messages=messages, supervised=(False, False, True))
    )
    assert system(described) == "Answer it.\n\nBe brief."
    assert described.messages[1:] == own.messages
    assert described.supervised == (False, False, True)


def test_of_several_wordings_a_row_has_one_by_its_content_alone(two_files: Path) -> None:
    wordings = tuple(f"Wording {n}." for n in range(3))
    data = read([Source("questions.jsonl", "maths", wordings)], root=two_files)
    said = {row.answer: system(row) for row in data.rows}
    assert set(said.values()) == set(wordings)
    lines = (two_files / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    (two_files / "questions.jsonl").write_text("\n".join(lines[:9:-1]), encoding="utf-8")  # fewer, in another order
    again = {
        row.answer: system(row) for row in read([Source("questions.jsonl", "maths", wordings)], root=two_files).rows
    }
    assert len(again) == 30
    assert all(said[answer] == wording for answer, wording in again.items())


def test_one_text_under_two_instructions_is_two_rows_that_are_never_parted(two_files: Path) -> None:
    sources = [Source("topics.csv", "topics", ("Name the topic.",)), Source("topics.csv", "again", ("Which topic?",))]
    data = read(sources, root=two_files)
    assert len(data.rows) == 40
    assert data.facts.duplicates == 0
    splits, _ = split(data.rows, seed=0)
    assert check_no_overlap(splits) == ()
    texts = [{row.input_text for row in part} for part in (splits.train, splits.tuning, splits.validation, splits.test)]
    assert sum(map(len, texts)) == 20


def test_a_source_has_its_own_shape_and_columns_else_those_of_the_collection(two_files: Path) -> None:
    (two_files / "odd.csv").write_text("in,out\n" + "\n".join(f"{sentence(n)},{n}" for n in range(5)), encoding="utf-8")
    odd = Source("odd.csv", "odd", columns={"prompt": "in", "answer": "out"})
    data = read([Source("questions.jsonl", "maths"), odd], root=two_files, shape="question_answer")
    assert Counter(row.source for row in data.rows) == {"maths": 40, "odd": 5}
    assert [file.shape for file in data.facts.files] == ["question_answer", "prompt_completion"]


def test_splits_hold_the_sources_in_proportion(row: MakeRow) -> None:
    rows = [replace(row(n), source="big" if n % 4 else "small", label=None) for n in range(200)]
    splits, facts = split(rows, seed=3, sizes={"tuning": 20, "validation": 40, "test": 40})
    assert facts.sources == {
        "train": {"big": 75, "small": 25},
        "tuning": {"big": 15, "small": 5},
        "validation": {"big": 30, "small": 10},
        "test": {"big": 30, "small": 10},
    }
    assert len(splits.train) == 100


def in_sources(row: MakeRow, **counts: int) -> list[Row]:
    numbers = iter(range(10**6))
    return [replace(row(next(numbers)), source=name) for name, count in counts.items() for _ in range(count)]


def test_parts_of_train_by_hand(row: MakeRow) -> None:
    rows = in_sources(row, a=60, b=30, c=10)
    sources = [Source("", "a", share=0.2), Source("", "b", share=0.3), Source("", "c", share=0.5)]
    mixed, facts = mix(rows, sources, total=None, seed=0)
    times = Counter(r.id for r in mixed)
    assert {name: (f.available, f.rows, f.least, f.most) for name, f in facts.items()} == {
        "a": (60, 20, 0, 1),  # 20 of 100: a part of it
        "b": (30, 30, 1, 1),
        "c": (10, 50, 5, 5),  # 50 of 100: each five times
    }
    assert Counter(times[r.id] for r in rows) == {0: 40, 1: 50, 5: 10}
    assert [r.id for r in mixed[:60]] == [r.id for r in rows if times[r.id]]  # once through in order, then again


def test_sources_without_a_share_have_the_rest_by_their_rows(row: MakeRow) -> None:
    rows = in_sources(row, a=50, b=30, c=10)
    _, facts = mix(rows, [Source("", "a", share=0.5), Source("", "b"), Source("", "c")], total=80, seed=0)
    assert {name: f.rows for name, f in facts.items()} == {"a": 40, "b": 30, "c": 10}


def test_a_source_without_a_row_for_train_is_said(row: MakeRow) -> None:
    with pytest.raises(DataError, match=r"no row of the source 'b' is left for Train, where 5 are wanted"):
        mix(in_sources(row, a=10), [Source("", "a", share=0.5), Source("", "b", share=0.5)], total=None, seed=0)


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    weights=st.lists(st.integers(1, 9), min_size=4, max_size=4),
    total=st.integers(1, 60),
    seed=st.integers(0, 3),
)
def test_whatever_the_shares_parts_are_exact_and_rows_are_met_evenly(
    counts: list[int], weights: list[int], total: int, seed: int
) -> None:
    rows = in_sources(make_row, **{f"s{i}": count for i, count in enumerate(counts)})
    tenths = [Fraction(w, 40) for w in weights[: len(counts) - 1]]
    shares = [float(share) for share in tenths] + [None]
    sources = [Source("", f"s{i}", share=share) for i, share in enumerate(shares)]
    mixed, facts = mix(rows, sources, total=total, seed=seed)
    assert len(mixed) == total
    for source, part in zip(sources, [*tenths, 1 - sum(tenths)], strict=True):
        own = [row for row in mixed if row.source == source.name]
        assert abs(len(own) - total * part) < 1
        times = Counter(row.id for row in own)
        assert not times or max(times.values()) - min(times.get(r.id, 0) for r in rows if r.source == source.name) <= 1
        assert facts[source.name].rows == len(own)
    assert mix(rows, sources, total=total, seed=seed)[0] == mixed


def test_a_random_part_depends_on_seed_and_content_not_on_order(row: MakeRow) -> None:
    rows = [row(n) for n in range(50)]
    ids = {r.id for r in take(rows, 20, 0, "x")}
    assert ids == {r.id for r in take(rows[::-1], 20, 0, "x")}
    assert ids != {r.id for r in take(rows, 20, 1, "x")}
    assert ids < {r.id for r in take(rows, 30, 0, "x")}
