"""Splits: exact sizes, the seed decides, nothing that says the same stands on two sides."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailorbird.data import check_no_overlap, manifest, normalize, read, split
from tailorbird.data.near import THRESHOLD, clusters, comparable, jaccard, near, shingle_sets
from tailorbird.data.overlap import shared
from tailorbird.data.sizes import default_size, quotas, wanted
from tailorbird.data.subset import fill
from tailorbird.data.units import Unit
from tailorbird.errors import DataError
from tailorbird.types import Place, Row, Splits, Test, Train, Tuning, Validation

from .rows import make_row

MakeRow = Callable[..., Row]


def rows_of(row: MakeRow, count: int, labels: Sequence[str] = ("a", "b")) -> list[Row]:
    return [row(i, label=labels[i % len(labels)]) for i in range(count)]


def sizes_of(splits: Splits) -> tuple[int, int, int, int]:
    return len(splits.train), len(splits.tuning), len(splits.validation), len(splits.test)


def test_sizes_are_hit_exactly_and_labels_keep_their_proportion(row: MakeRow) -> None:
    rows = rows_of(row, 100, ("a", "b", "a", "c"))  # 50 a, 25 b, 25 c
    splits, facts = split(rows, seed=0, sizes={"train": 20, "tuning": 8, "validation": 20, "test": 40}, stratify=True)
    assert sizes_of(splits) == (20, 8, 20, 40)
    assert facts.labels["test"] == {"a": 20, "b": 10, "c": 10}
    assert facts.labels["validation"] == {"a": 10, "b": 5, "c": 5}
    assert facts.labels["tuning"] == {"a": 4, "b": 2, "c": 2}
    assert facts.labels["train"] == {"a": 10, "b": 5, "c": 5}
    assert (facts.unused, facts.overlap, facts.warnings) == (12, 0, ())


def test_train_gets_all_the_rest(row: MakeRow) -> None:
    splits, facts = split(rows_of(row, 60), seed=0, sizes={"tuning": 5, "validation": 10, "test": 15})
    assert sizes_of(splits) == (30, 5, 10, 15)
    assert facts.unused == 0


@pytest.mark.parametrize(
    ("rows", "tuning", "validation"),
    [
        (10, 1, 2),
        (100, 10, 20),
        (1000, 100, 200),
        (1500, 150, 300),
        (3000, 300, 300),
        (5000, 300, 500),
        (50_000, 300, 1000),
    ],
)
def test_default_sizes(rows: int, tuning: int, validation: int) -> None:
    assert (default_size("tuning", rows), default_size("validation", rows)) == (tuning, validation)
    assert wanted(rows, {}, {}) == {"train": None, "tuning": tuning, "validation": validation, "test": validation}


def test_beside_an_asked_train_the_rest_is_shared_two_two_one() -> None:
    assert wanted(600, {"train": 100}, {}) == {"train": 100, "tuning": 100, "validation": 200, "test": 200}


def test_too_few_rows_are_refused_with_the_number_that_is_needed(row: MakeRow) -> None:
    with pytest.raises(DataError) as error:
        split(rows_of(row, 7), seed=0)
    assert str(error.value) == "split: 7 rows are too few, 10 are needed (D37)\n  → add 3 rows"
    with pytest.raises(DataError) as error:
        split(rows_of(row, 20), seed=0, sizes={"test": 10, "validation": 10, "tuning": 5})
    assert str(error.value) == (
        "split: 20 rows are too few, 26 are needed (train at least 1, test 10, validation 10, tuning 5) (D37)\n"
        "  → add 6 rows, or ask for smaller splits"
    )


def test_one_label_only_is_refused(row: MakeRow) -> None:
    with pytest.raises(DataError) as error:
        split(rows_of(row, 30, ("a",)), seed=0, stratify=True)
    assert str(error.value) == (
        "rows.csv: all 30 examples have the label 'a'; two labels are needed (D36)\n"
        "  → add rows of another label, or check that the right column is read as label"
    )
    assert split(rows_of(row, 30, ("a",)), seed=0)[1].overlap == 0


def test_a_label_with_one_row_is_kept_to_be_learned_from(row: MakeRow) -> None:
    rows = [*rows_of(row, 40), row(99, label="rare")]
    for seed in range(5):
        splits, facts = split(rows, seed=seed, stratify=True, sizes={"validation": 15, "test": 15})
        assert [r.label for r in splits.train].count("rare") == 1
        assert "test has no row of 1 label(s): 'rare'" in facts.warnings


def test_the_seed_decides_and_the_order_of_rows_does_not(row: MakeRow) -> None:
    rows = rows_of(row, 60)
    mixed = rows[:]
    random.Random(1).shuffle(mixed)
    first, _ = split(rows, seed=3, stratify=True)
    again, _ = split(mixed, seed=3, stratify=True)
    other, _ = split(rows, seed=4, stratify=True)
    assert {name: set(ids) for name, ids in manifest(first).items()} == {n: set(i) for n, i in manifest(again).items()}
    assert manifest(first) != manifest(other)


def test_splits_are_the_same_in_another_process(row: MakeRow, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"{row(i).input_text},{i % 3}\n" for i in range(60)))
    code = (
        "import json, pathlib; from tailorbird.data import *;"
        f"d = read(['rows.csv'], root=pathlib.Path({str(tmp_path)!r}));"
        "print(json.dumps(manifest(split(d.rows, seed=0)[0])))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("0", "1")
    }
    assert len(outputs) == 1


def test_planted_twins_never_straddle(row: MakeRow) -> None:
    """Exact, other case and punctuation, a near-duplicate and one group: each pair on one side, whatever the seed."""
    long = "please tell me why the payment that I made yesterday evening is still shown as pending in the app"
    twins = [
        [row(900, "Where is my card?"), row(901, "where is my  CARD!!")],
        [row(910, long), row(911, long.replace("please tell", "please, tell").replace("evening is", "evening was"))],
        [row(920, group="customer 7"), row(921, group="customer 7"), row(922, group="customer 7")],
    ]
    rows = rows_of(row, 40) + [r for pair in twins for r in pair]
    for seed in range(30):
        splits, facts = split(rows, seed=seed)
        for pair in twins:
            ids = {r.id for r in pair}
            assert sum(bool(ids & set(part)) for part in manifest(splits).values()) == 1
        assert check_no_overlap(splits) == ()
        assert facts.clusters == {"count": 3, "rows": 7, "largest": 3, "near": 1}
        assert facts.moved == 4


def test_sizes_that_units_do_not_allow_are_said(row: MakeRow) -> None:
    rows = [row(i, group=str(i // 4)) for i in range(40)]
    splits, facts = split(rows, seed=0, sizes={"tuning": 4, "validation": 8, "test": 10})
    assert sizes_of(splits) == (20, 4, 8, 8)
    assert (
        "test has 8 of 10 rows asked: rows that belong together are not divided (the largest unit has 4)"
        in facts.warnings
    )


def test_a_size_is_hit_when_some_choice_of_units_gives_it(row: MakeRow) -> None:
    groups = [g for g, size in enumerate([7, 5, 5, 3, 3, 3, 4, 6]) for _ in range(size)]
    rows = [row(i, group=str(g)) for i, g in enumerate(groups)]
    for seed in range(20):
        splits, _ = split(rows, seed=seed, sizes={"test": 8, "validation": 6, "tuning": 3})
        assert len(splits.test) == 8


def test_a_single_unit_is_refused(row: MakeRow) -> None:
    with pytest.raises(DataError, match=r"no row is left for .*the rows form 1 units"):
        split([row(i, group="all") for i in range(20)], seed=0)


def test_a_given_test_set_that_shares_rows_is_refused_naming_them(row: MakeRow) -> None:
    examples = rows_of(row, 30)
    test = [replace(row(50, text=examples[3].input_text.upper()), place=Place("test.csv", 9)), row(51)]
    with pytest.raises(DataError) as error:
        split(examples, seed=0, given_test=test)
    assert str(error.value) == (
        "test: 1 row(s) of the given test set are also among the examples, so its score would be too good (D34)\n"
        "  rows.csv:5 ~ test.csv:9 (same text)\n"
        "  → remove them, or say `overlap: drop_from_train` in the spec to leave them out of the examples"
    )


def test_many_shared_rows_are_named_by_ten_and_counted(row: MakeRow) -> None:
    examples = rows_of(row, 30)
    with pytest.raises(DataError, match="25 row") as error:
        split(examples, seed=0, given_test=[replace(r, id=r.id[::-1]) for r in examples[:25]])
    assert str(error.value).count(" ~ ") == 10
    assert "and 15 more" in str(error.value)


def test_shared_rows_can_be_dropped_from_the_examples_with_their_whole_unit(row: MakeRow) -> None:
    text = "what must I do when the machine has swallowed my card and the bank is closed for the holidays already"
    middle = text.replace("already", "now")
    chain = [
        text,
        middle,
        middle.replace("holidays", "holiday"),
    ]  # the last is near to the first through the second only
    examples = [*rows_of(row, 30), row(60, chain[1]), row(61, chain[2])]
    splits, facts = split(examples, seed=0, given_test=[row(70, chain[0]), row(71)], overlap="drop_from_train")
    assert facts.dropped == {"examples": 2}
    assert [r.id for r in splits.test] == [row(70).id, row(71).id]
    assert len(splits.train) + len(splits.tuning) + len(splits.validation) == 30


def test_given_sets_are_taken_as_they_are_or_in_the_size_asked(row: MakeRow) -> None:
    test, validation = [row(i) for i in range(100, 120)], [row(i) for i in range(200, 210)]
    splits, facts = split(rows_of(row, 20), seed=0, given_test=test, given_validation=validation)
    assert sizes_of(splits) == (18, 2, 10, 20)
    assert facts.unused == 0
    splits, _ = split(rows_of(row, 20), seed=0, given_test=test, sizes={"test": 5})
    assert len(splits.test) == 5
    with pytest.raises(DataError, match=r"split.test asks for 50 rows, the given test set has 20 \(D37\)"):
        split(rows_of(row, 20), seed=0, given_test=test, sizes={"test": 50})


def test_an_instruction_that_all_rows_share_does_not_make_them_near_duplicates(row: MakeRow) -> None:
    instruction = "Read the message of the customer with care and say in one word what it is about. " * 4
    rows = [row(i, f"{instruction}\n\n{row(i).input_text}") for i in range(30)]
    assert comparable(rows)[0] == normalize(row(0).input_text)
    union, near_ones = clusters(rows)
    assert (len(union.sets()), near_ones) == (30, 0)


def test_short_texts_that_differ_by_a_word_are_two() -> None:
    for a, b in [
        ("what is the exchange rate for euro", "what is the exchange rate for yen"),
        ("my card was stolen", "my card was lost"),
        ("cancel my transfer", "cancel my card"),
    ]:
        assert not near(shingle_sets(a), shingle_sets(b))
    assert near(
        shingle_sets("i still have not received my new card"), shingle_sets("i still have not received my new card yet")
    )


def test_jaccard_of_character_shingles_by_hand() -> None:
    # abcdef: abcde bcdef; abcdeg: abcde bcdeg; one of three
    (a, _), (b, _) = shingle_sets("abcdef"), shingle_sets("abcdeg")
    assert a is not None
    assert b is not None
    assert jaccard(a, b) == pytest.approx(1 / 3)


texts = st.lists(
    st.sampled_from(["card", "lost", "where", "is", "my", "the", "money", "pending"]), min_size=1, max_size=12
)


@settings(max_examples=60, deadline=None)
@given(st.lists(texts.map(" ".join), min_size=2, max_size=25), st.integers(0, 3))
def test_the_exact_join_finds_what_comparing_all_pairs_finds(found: list[str], seed: int) -> None:
    rows = [make_row(i, text) for i, text in enumerate(found)]
    sides = [random.Random(seed * 1000 + i).randrange(3) for i in range(len(rows))]
    compared = comparable(rows)
    sets = [shingle_sets(t) for t in compared]
    naive = {
        frozenset((compared[a], compared[b]))
        for a in range(len(rows))
        for b in range(a)
        if sides[a] != sides[b] and near(sets[a], sets[b])
    }
    joined = {frozenset((compared[p.a], compared[p.b])) for p in shared(rows, sides)}
    assert joined == naive
    assert THRESHOLD == 0.85


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(texts.map(" ".join), st.integers(0, 8)), min_size=14, max_size=40), st.integers(0, 99))
def test_whatever_the_rows_no_two_splits_share_one_and_none_is_lost(found: list[tuple[str, int]], seed: int) -> None:
    rows = [make_row(i, text, group=str(g) if g < 3 else None) for i, (text, g) in enumerate(found)]
    try:
        splits, facts = split(rows, seed=seed)
    except DataError as refused:
        error = refused
        splits = None
    if splits is None:
        assert "D37" in str(error)
        return
    assert check_no_overlap(splits) == ()
    ids = [i for part in manifest(splits).values() for i in part]
    assert len(ids) == len(set(ids)) == len(rows) - facts.unused


def test_the_check_finds_a_planted_overlap_of_each_kind(row: MakeRow) -> None:
    splits = Splits(
        Train([row(1, "where is my card"), row(2, group="g"), row(3)]),
        Tuning([row(4, group="g")]),
        Validation([row(5, "Where is my card?!")]),
        Test([row(6, row(3).input_text + "s")]),
    )
    assert [str(found) for found in check_no_overlap(splits)] == [
        "rows.csv:3 ~ rows.csv:7 (same text)",
        "rows.csv:4 ~ rows.csv:6 (same group)",
        "rows.csv:5 ~ rows.csv:8 (nearly the same text)",
    ]


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 50), min_size=1), st.integers(0, 100))
def test_quotas_sum_up_and_are_within_one_row_of_the_share(counts: dict[str, int], size: int) -> None:
    chosen = quotas(counts, size)
    total = sum(counts.values())
    assert sum(chosen.values()) == min(size, total)
    assert all(abs(chosen[k] - min(size, total) * counts[k] / total) < 1 for k in counts)
    assert all(chosen[k] <= counts[k] for k in counts)


@given(st.lists(st.integers(1, 9), max_size=9), st.integers(0, 40))
def test_fill_reaches_the_greatest_sum_that_any_subset_has(sizes: list[int], size: int) -> None:
    pool = [Unit(str(i), tuple(range(n)), "") for i, n in enumerate(sizes)]
    sums = {sum(n for i, n in enumerate(sizes) if mask >> i & 1) for mask in range(1 << len(sizes))}
    chosen = fill(pool, set(), size)
    assert sum(u.size for u in chosen) == max(s for s in sums if s <= size)
    assert len({u.id for u in chosen}) == len(chosen)


def test_banking77_is_split_exactly_with_sensible_clusters_in_seconds(public_data: Path) -> None:
    import time

    data = read(["finance-banking77/train.csv"], root=public_data)
    started = time.process_time()
    asked: dict[Any, int | None] = {"tuning": 300, "validation": 500, "test": 2000}
    splits, facts = split(data.rows, seed=0, sizes=asked, stratify=True)
    assert time.process_time() - started < 8
    assert sizes_of(splits) == (7203, 300, 500, 2000)
    assert facts.labels["test"].keys() == data.facts.labels.keys()
    # 99 units of 2 or 3 rows, looked at by eye: one message in two spellings each
    assert facts.clusters == {"count": 99, "rows": 207, "largest": 3, "near": 77}
