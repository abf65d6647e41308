"""Inputs for `apply`: streamed, each line once, the user's own record kept, a bad line with its reason."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from tailorbird.data import InputRow, read_inputs
from tailorbird.errors import DataError


def rows_of(folder: Path, name: str, content: str, columns: Mapping[str, str] | None = None) -> list[InputRow]:
    (folder / name).write_text(content, encoding="utf-8")
    return list(read_inputs(name, columns, root=folder))


def turns(row: InputRow) -> list[tuple[str, str]]:
    return [(m.role.value, m.content) for m in row.request_messages]


KINDS: dict[str, tuple[str, str, list[tuple[str, str]]]] = {
    "text column": ("a.csv", "ticket,text\n1,hello\n", [("user", "hello")]),
    "text and label": ("a.csv", "text,label\nhello,x\n", [("user", "hello")]),
    "one column of any name": ("a.csv", "whatever\nhello\n", [("user", "hello")]),
    "plain lines": ("a.txt", "hello\n", [("user", "hello")]),
    "question over a passage": ("a.jsonl", '{"context": "c", "question": "q"}', [("user", "c\n\nq")]),
    "instruction and input": ("a.jsonl", '{"instruction": "i", "input": "x"}', [("user", "i\n\nx")]),
    "messages": ("a.jsonl", '{"messages": [{"role": "user", "content": "q"}]}', [("user", "q")]),
    "messages with an answer": (
        "a.jsonl",
        json.dumps({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}),
        [("user", "q")],
    ),
    "system": ("a.csv", "system,prompt\ns,hello\n", [("system", "s"), ("user", "hello")]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_are_understood_without_answers(kind: str, tmp_path: Path) -> None:
    name, content, expected = KINDS[kind]
    (row,) = rows_of(tmp_path, name, content)
    assert turns(row) == expected
    assert row.problem is None


def test_the_users_own_columns_are_kept(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, "a.csv", "id,text,note\n7,hello,mine\n")
    assert row.record == {"id": "7", "text": "hello", "note": "mine"}
    assert (row.key, str(row.place)) == ("7", "a.csv:2")


def test_each_line_comes_once_and_a_bad_one_with_its_reason(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "a.jsonl", '{"text": "a"}\nnonsense\n\n{"text": 5}\n{"text": "a"}\n')
    assert [(r.place.line, r.problem and r.problem.code) for r in rows] == [
        (1, None),
        (2, "D03"),
        (4, "D17"),
        (5, None),
    ]
    assert [r.request_messages == () for r in rows] == [False, True, True, False]
    assert rows[2].record == {"text": 5}


def test_a_mapping_goes_first(tmp_path: Path) -> None:
    content = "text,body,ref\na,b,9\n"
    (row,) = rows_of(tmp_path, "a.csv", content, {"prompt": "body", "id": "ref", "label": "not here, not needed"})
    assert (turns(row), row.key) == ([("user", "b")], "9")
    with pytest.raises(DataError, match="there is no column 'bdy'"):
        rows_of(tmp_path, "a.csv", content, {"prompt": "bdy"})


def test_an_unclear_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        rows_of(tmp_path, "a.csv", "foo,bar\n1,2\n")
    assert str(error.value) == (
        "a.csv: cannot tell which column is the input; the columns are foo, bar (D16)\n"
        "  → say it: `--column prompt=COLUMN` with apply, `columns: {prompt: COLUMN}` under `data` in a spec"
    )


def test_a_long_file_is_streamed(tmp_path: Path) -> None:
    """The first rows come before the last ones are looked at twice, and memory stays small."""
    import tracemalloc

    with (tmp_path / "a.jsonl").open("w") as file:
        for i in range(20_000):
            file.write(json.dumps({"text": f"input {i} " + "x" * 200}) + "\n")
    tracemalloc.start()
    count = sum(1 for _ in read_inputs("a.jsonl", root=tmp_path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 20_000
    assert peak < 4 << 20
