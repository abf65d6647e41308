"""Forgetting: bits per byte on general texts, those that training shares words with left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tailorbird.errors import DataError
from tailorbird.measure.forgetting import MOST_CHARACTERS, change, load_retention

NINE = "one two three four five six seven eight nine"


def test_the_untouched_base_has_forgotten_exactly_nothing() -> None:
    bits = [812.25, 97.5, 1203.0]
    found = change(bits, list(bits), ["abc", "defg", "h"], left_out=2)
    assert (found["change"], found["low"], found["high"]) == (0.0, 0.0, 0.0)
    assert (found["texts"], found["left_out"]) == (3, 2)


def test_the_change_is_bits_over_bytes_by_hand() -> None:
    # "né" is three bytes in UTF-8: (2 + 1) bits more over 3 + 5 bytes
    found = change([6.0, 10.0], [8.0, 11.0], ["né", "hello"], kinds=["french", "english"])
    assert found["change"] == pytest.approx(3 / 8)
    assert found["base"] == pytest.approx(16 / 8)
    assert found["kinds"] == pytest.approx({"english": 1 / 5, "french": 2 / 3})


def test_the_interval_is_over_texts_and_holds_the_change() -> None:
    texts = ["x" * 100] * 40
    base = [200.0] * 40
    custom = [200.0 + (i % 5) for i in range(40)]  # 0 to 4 bits more: 0.02 bits per byte
    found = change(base, custom, texts)
    assert found["change"] == pytest.approx(0.02)
    assert 0.012 < found["low"] < 0.02 < found["high"] < 0.028
    assert change(base, custom, texts) == found


def test_a_clear_change_of_every_text_is_clear() -> None:
    found = change([100.0] * 30, [150.0] * 30, ["y" * 50] * 30)
    assert found["low"] > 0.5
    assert found["change"] == found["high"] == pytest.approx(1.0)


def test_the_built_in_texts_are_many_of_many_kinds_and_fast_is_a_part_of_them() -> None:
    full, fast = load_retention("full"), load_retention("fast")
    assert len(full.texts) >= 240
    assert len(set(full.kinds)) >= 6
    assert len(full.texts) == len(full.kinds)
    assert 40 <= len(fast.texts) < len(full.texts)
    assert set(fast.texts) <= set(full.texts)
    assert set(fast.kinds) == set(full.kinds)
    assert (full.left_out, full.name) == (0, "full")


def test_a_text_that_shares_eight_words_with_training_is_left_out_and_counted() -> None:
    full = load_retention("full")
    words = full.texts[0].split()
    assert len(words) > 9
    shared = load_retention("full", ["Quite another start, then: " + " ".join(words[:9]).upper() + "!"])
    assert shared.left_out == 1
    assert full.texts[0] not in shared.texts
    assert load_retention("full", [" ".join(words[:5])]).left_out == 0


def texts(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def test_a_users_jsonl_brings_texts_and_perhaps_kinds(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"text {i}", "kind": "notes" if i else ""}) for i in range(20)]
    found = load_retention(texts(tmp_path, "own.jsonl", "\n".join(lines) + "\n\n"))
    assert found.texts[:2] == ("text 0", "text 1")
    assert found.kinds[:2] == ("texts", "notes")
    assert found.name == "own.jsonl"


def test_a_users_plain_file_is_read_by_paragraphs_or_by_lines(tmp_path: Path) -> None:
    paragraphs = texts(tmp_path, "own.txt", "\n\n \n".join(f"first {i}\nsecond" for i in range(20)))
    assert load_retention(paragraphs).texts[0] == "first 0\nsecond"
    lines = texts(tmp_path, "lines.txt", "\ufeff" + "\n".join(f"line {i}" for i in range(20)))
    assert load_retention(lines).texts[:2] == ("line 0", "line 1")


def test_of_a_long_text_the_start_is_taken_up_to_a_blank(tmp_path: Path) -> None:
    long = "word " * 2000
    found = load_retention(texts(tmp_path, "own.txt", "\n".join([long.strip()] + [f"line {i}" for i in range(20)])))
    assert MOST_CHARACTERS - 5 <= len(found.texts[0]) <= MOST_CHARACTERS
    assert found.texts[0].endswith("word")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "x"}\n{"text": ', "a.jsonl:2: is not JSON"),
        ("a.jsonl", '{"text": "x"}\n{"texts": "y"}', 'a.jsonl:2: has no "text"\n  → each line: {"text": "..."}'),
        ("a.jsonl", "[1]", 'a.jsonl:1: has no "text"'),
        ("a.txt", "only one", "1 texts to measure forgetting on, at least 20 are needed\n"),
        ("missing.txt", None, "missing.txt: cannot be read: No such file or directory\n"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    path = tmp_path / name if content is None else texts(tmp_path, name, content)
    with pytest.raises(DataError) as error:
        load_retention(path)
    assert message in str(error.value)


def test_a_latin_1_file_is_named_with_the_place(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("abcé".encode("latin-1"))
    with pytest.raises(DataError, match=r"is not UTF-8 at byte 3\n  → save it as UTF-8"):
        load_retention(path)


def test_texts_that_were_all_trained_on_are_said(tmp_path: Path) -> None:
    path = texts(tmp_path, "own.txt", "\n".join(f"{NINE} {i}" for i in range(25)))
    with pytest.raises(DataError, match=r"0 texts .* 25 of 25 share eight words in a row with the training rows"):
        load_retention(path, [NINE])
