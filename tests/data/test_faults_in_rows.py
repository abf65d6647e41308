"""One bad row among good ones: it is set aside with file, line, field, code and reason; the good ones are taken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tailorbird.data import Dataset, read
from tailorbird.errors import DataError

Read = Callable[..., Dataset]
Lines = Callable[[int], list[bytes]]


def messages(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


# the bad line -> field, code, reason
JSON_LINES: dict[str, tuple[bytes, str | None, str, str]] = {
    "torn": (b'{"prompt": "half a', None, "D03", "the record is cut off: the file ends inside it"),
    "two records on a line": (
        b'{"prompt": "a", "completion": "b"} {"prompt": "c", "completion": "d"}',
        None,
        "D08",
        "more than one JSON value on one line (at character 36); put each record on its own line",
    ),
    "a field twice": (
        b'{"prompt": "a", "completion": "b", "prompt": "c"}',
        "prompt",
        "D09",
        "the field stands twice in one record; which one counts is not defined",
    ),
    "not a number": (b'{"prompt": "a", "completion": "b", "x": NaN}', None, "D10", "NaN is not JSON"),
    "infinite": (b'{"prompt": "a", "completion": "b", "x": -Infinity}', None, "D10", "-Infinity is not JSON"),
    "too large": (b'{"prompt": "a", "completion": "b", "x": 1e999}', None, "D10", "a number too large for a float"),
    "half a pair": (
        b'{"prompt": "a\\ud800", "completion": "b"}',
        None,
        "D11",
        "holds half of a surrogate pair (\\ud800-\\udfff), which is no character",
    ),
    "nested": (b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", None, "D12", "nested deeper than 100 levels"),
    "digits": (
        b'{"prompt": "a", "completion": "b", "x": ' + b"9" * 5000 + b"}",
        None,
        "D13",
        "a whole number of 5000 digits",
    ),
    "a list": (b'["a", "b"]', None, "D15", "the record is a list, an object with named fields is needed"),
    "a text": (b'"a"', None, "D15", "the record is a text, an object with named fields is needed"),
    "a number": (b"5", None, "D15", "the record is a number, an object with named fields is needed"),
    "null": (b"null", None, "D15", "the record is null, an object with named fields is needed"),
    "missing": (b'{"prompt": "a"}', "completion", "D16", "the field is missing"),
    "misspelt": (
        b'{"promt": "a", "completion": "b"}',
        "prompt",
        "D16",
        "the field is missing; did you mean it by 'promt'?",
    ),
    "a number as answer": (b'{"prompt": "a", "completion": 5}', "completion", "D17", "is a number, text is needed"),
    "a list as prompt": (b'{"prompt": ["a"], "completion": "b"}', "prompt", "D17", "is a list, text is needed"),
    "null as prompt": (b'{"prompt": null, "completion": "b"}', "prompt", "D17", "is null, text is needed"),
    "blank": (b'{"prompt": " \\n\\t", "completion": "b"}', "prompt", "D25", "is empty or holds nothing visible"),
    "zero width": (
        '{"prompt": "\u200b\ufeff\u00ad", "completion": "b"}'.encode(),
        "prompt",
        "D25",
        "is empty or holds nothing visible",
    ),
    "controls only": (
        b'{"prompt": "\\u0001\\u0002", "completion": "b"}',
        None,
        "D25",
        "the user turn holds nothing but control characters",
    ),
    "no answer": (b'{"prompt": "a", "completion": "  "}', "completion", "D30", "is empty or holds nothing visible"),
}


@pytest.mark.parametrize("kind", JSON_LINES)
def test_a_bad_json_line_is_set_aside_with_its_reason(kind: str, read_bytes: Read, good_lines: Lines) -> None:
    bad, field, code, reason = JSON_LINES[kind]
    data = read_bytes("rows.jsonl", b"\n".join([*good_lines(20), bad]))
    assert len(data.rows) == 20
    assert [(str(r.place), r.field, r.code, r.reason) for r in data.rejected] == [
        ("rows.jsonl:21", field, code, reason)
    ]
    assert data.facts.rejected == {code: 1}


MESSAGES: dict[str, tuple[dict[str, Any], str | None, str, str]] = {
    "unknown role": (
        messages(("usr", "a"), ("assistant", "b")),
        "messages[0].role",
        "D19",
        "unknown role 'usr'; did you mean 'user'?",
    ),
    "ShareGPT role": (
        messages(("human", "a"), ("assistant", "b")),
        "messages[0].role",
        "D19",
        "unknown role 'human'; did you mean 'user'?",
    ),
    "tool": (messages(("user", "a"), ("tool", "b")), "messages[1].role", "D19", "'tool': turns of tools are not read"),
    "ends with user": (
        messages(("user", "a"), ("assistant", "b"), ("user", "c")),
        "messages",
        "D19",
        "ends with a user turn: there is no answer to learn",
    ),
    "two users": (
        messages(("user", "a"), ("user", "b"), ("assistant", "c")),
        "messages[1]",
        "D19",
        "user where assistant must stand",
    ),
    "late system": (
        messages(("user", "a"), ("system", "s"), ("assistant", "b")),
        "messages[1]",
        "D19",
        "a system turn that is not the first",
    ),
    "system only": (messages(("system", "s")), "messages", "D19", "no user turn"),
    "two answers": (
        messages(("user", "a"), ("assistant", "b"), ("assistant", "c")),
        "messages[2]",
        "D22",
        "two assistant turns in a row; make them one",
    ),
    "empty": ({"messages": []}, "messages", "D21", "the list of messages is empty"),
    "null content": (messages(("user", None), ("assistant", "b")), "messages[0].content", "D21", "is null"),
    "tool calls": (
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [{}]}]},
        "messages[1]",
        "D21",
        "a turn with tool calls; only turns of text are read",
    ),
    "no content": (
        {"messages": [{"role": "user", "contents": "a"}]},
        "messages[0]",
        "D16",
        "'content' is missing; did you mean that by 'contents'?",
    ),
    "a text": ({"messages": "a"}, "messages", "D17", "is text, a list of messages is needed"),
    "a picture": (
        messages(("user", [{"type": "image_url", "image_url": "x"}]), ("assistant", "b")),
        "messages[0].content",
        "D17",
        "has parts that are not text; only text is read",
    ),
    "empty answer": (
        messages(("user", "a"), ("assistant", "")),
        "messages[1].content",
        "D30",
        "is empty or holds nothing visible",
    ),
    "unweighted end": (
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]},
        "messages",
        "D19",
        "the last answer has weight 0: nothing to learn or to measure at the end",
    ),
}


@pytest.mark.parametrize("kind", MESSAGES)
def test_a_bad_conversation_is_set_aside_with_its_reason(kind: str, read_bytes: Read) -> None:
    bad, field, code, reason = MESSAGES[kind]
    good = [messages(("user", f"question {i}"), ("assistant", f"answer {i}")) for i in range(20)]
    data = read_bytes("rows.jsonl", "\n".join(map(json.dumps, [*good, bad])).encode())
    assert len(data.rows) == 20
    assert [(r.place.line, r.field, r.code, r.reason) for r in data.rejected] == [(21, field, code, reason)]


def test_a_line_with_a_foreign_byte_among_utf8_lines_is_set_aside(read_bytes: Read, good_lines: Lines) -> None:
    lines = [
        *good_lines(3),
        '{"prompt": "café", "completion": "ja"}'.encode(),
        b'{"prompt": "caf\xe9", "completion": "ja"}',
    ]
    data = read_bytes("rows.jsonl", b"\n".join(lines))
    assert len(data.rows) == 4
    assert [(r.place.line, r.code, r.reason) for r in data.rejected] == [
        (5, "D06", "byte 0xE9 at place 15 is not UTF-8")
    ]


def test_a_giant_line_is_set_aside_in_constant_memory(tmp_path: Path, good_lines: Lines) -> None:
    import tracemalloc

    with (tmp_path / "rows.jsonl").open("wb") as file:
        file.write(b"\n".join(good_lines(3)) + b'\n{"prompt": "')
        for _ in range(30):
            file.write(b"x" * (1 << 20))
        file.write(b'", "completion": "b"}\n' + good_lines(5)[4])
    tracemalloc.start()
    data = read(["rows.jsonl"], root=tmp_path, max_bad_share=1.0, max_line_bytes=1 << 16)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [(r.place.line, r.code, r.reason) for r in data.rejected] == [(4, "D14", "longer than 65,536 bytes")]
    assert [row.place.line for row in data.rows] == [1, 2, 3, 5]
    assert peak < 12 << 20, "a line of 30 MB was held in memory"


def test_a_giant_element_of_an_array_is_set_aside_too(read_bytes: Read) -> None:
    content = (
        b'[{"prompt": "a", "completion": "b"},\n{"prompt": "'
        + b"x" * 500_000
        + b'"},\n{"prompt": "c", "completion": "d"}]'
    )
    data = read_bytes("rows.json", content, max_line_bytes=1000)
    assert [row.place.line for row in data.rows] == [1, 3]
    assert [(r.place.line, r.code) for r in data.rejected] == [(2, "D14")]


TABLES: dict[str, tuple[bytes, list[tuple[int, str]], list[str]]] = {
    "ragged": (b"text,label\none,a\ntwo\nthree,b,c\nfour,b\n", [(3, "D43"), (4, "D43")], ["one", "four"]),
    "a quote never closed": (b'text,label\none,a\n"two,b\nthree,a\nfour,b\n', [(3, "D43")], ["one", "three", "four"]),
    "text after a quote": (b'text,label\n"one" more,a\ntwo,b\n', [(2, "D43")], ["two"]),
    "a quote inside a word": (b'text,label\na 5" pipe,a\ntwo,b\n', [], ['a 5" pipe', "two"]),
    "several lines in a cell": (b'text,label\n"one\n\nmore",a\ntwo,b\n', [], ["one\n\nmore", "two"]),
    "a formula": (b'text,label\n=1+1,a\n"@SUM(A1)",b\n', [], ["=1+1", "@SUM(A1)"]),
    "semicolons": (b"text;label\none, with comma;a\ntwo;b\n", [], ["one, with comma", "two"]),
    "tabs": (b"text\tlabel\none, two; three\ta\nfour\tb\n", [], ["one, two; three", "four"]),
    "a tab file's quotes are plain": (b'text\tlabel\n"one\ta\ntwo\tb\n', [], ['"one', "two"]),
    "empty cell": (b"text,label\n,a\ntwo,\nthree,b\n", [(2, "D25"), (3, "D30")], ["three"]),
    "a foreign byte": ("text,label\ncafé,a\n".encode() + b"caf\xe9,b\nthree,b\n", [(3, "D06")], ["café", "three"]),
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_loses_the_bad_rows_only(kind: str, read_bytes: Read) -> None:
    content, rejected, texts = TABLES[kind]
    data = read_bytes("rows.csv", content)
    assert [(r.place.line, r.code) for r in data.rejected] == rejected
    assert [row.input_text for row in data.rows] == texts


def test_reasons_of_a_table_name_what_was_counted(read_bytes: Read) -> None:
    data = read_bytes("rows.csv", b'text,label\nthree,b,c\n"two,b\nfour,b\n')
    assert [r.reason for r in data.rejected] == [
        "3 cells, the header has 2 (comma-separated)",
        "a quote opened at character 1 is never closed",
    ]


def test_a_label_that_was_not_declared_is_set_aside_with_the_nearest(read_bytes: Read) -> None:
    data = read_bytes("rows.csv", b"text,label\none,Refund\ntwo,refund\nthree,card\n", labels=["refund", "card"])
    assert [(r.field, r.code, r.reason) for r in data.rejected] == [
        ("label", "D35", "'Refund' is not one of the 2 labels of the task; did you mean 'refund'?")
    ]


def test_a_check_from_outside_can_set_a_row_aside(read_bytes: Read, good_lines: Lines) -> None:
    data = read_bytes(
        "rows.jsonl",
        b"\n".join(good_lines(3)),
        check_row=lambda row: ("prompt", "D28", "too long") if row.answer == "answer 1" else None,
    )
    assert [(r.place.line, r.field, r.code, r.reason) for r in data.rejected] == [(2, "prompt", "D28", "too long")]


def test_more_bad_rows_than_allowed_stop_with_the_commonest_reasons(tmp_path: Path, good_lines: Lines) -> None:
    bad = [b'{"prompt": "a"}', b'{"prompt": "b"}', b"null"]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join([*good_lines(97), *bad]))
    with pytest.raises(DataError) as error:
        read(["rows.jsonl"], root=tmp_path)
    assert str(error.value) == (
        "rows.jsonl: 3 of 100 rows (3.0 %) cannot be used, at most 1 % may (D48)\n"
        "  D16 a field is missing: 2, first rows.jsonl:98: completion: the field is missing\n"
        "  D15 not an object: 1, first rows.jsonl:100: the record is null, an object with named fields is needed\n"
        "  → mend these rows, or raise max_bad_share in the spec to go on without them"
    )
    assert len(read(["rows.jsonl"], root=tmp_path, max_bad_share=0.03).rows) == 97


def test_rejected_records_can_always_be_written(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b'{"prompt": "a", "completion": "b"}\n{"\\ud800": 1, "\\ud800": 2}')
    data = read(["rows.jsonl"], root=tmp_path, max_bad_share=1.0)
    (record,) = data.rejected_records()
    assert json.dumps(record, ensure_ascii=False).encode("utf-8")
    assert record["file"] == "rows.jsonl"
    assert (record["line"], record["code"]) == (2, "D09")
    assert record["field"] == "\\ud800"
