"""Whatever bytes a file holds: a data set in which every record is accounted for, or one clear error with exit code
2."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tailorbird.data import Dataset, read, read_answers, read_inputs
from tailorbird.errors import TailorbirdError

NAMES = [
    *("rows.jsonl", "rows.json", "rows.csv", "rows.tsv", "rows.txt", "rows", "rows.ndjson"),
    *("rows.xlsx", "rows.ods", "rows.parquet"),
]
FIELDS = [
    "prompt",
    "completion",
    "text",
    "label",
    "question",
    "answer",
    "instruction",
    "input",
    "output",
    "messages",
    "id",
    "data",
]

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["user", "assistant", "a b"])
)
turns = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system", "tool"]), "content": scalars}),
    max_size=4,
)
records = st.dictionaries(st.sampled_from(FIELDS), scalars | turns | st.lists(scalars, max_size=3), max_size=5)
documents = st.lists(records | scalars, max_size=6)


def as_json(document: Any, style: int) -> bytes:
    if style == 0:
        return "\n".join(json.dumps(r) for r in document).encode()
    if style == 1:
        return json.dumps(document, indent=1).encode()
    return json.dumps({"data": document}).encode()


tokens = st.sampled_from(
    [
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b",",
        b":",
        b"\n",
        b"\r\n",
        b"\\",
        b'"text"',
        b'"label"',
        b'"a"',
        b"text,label",
        b"\t",
        b";",
        b"\xe9",
        b"\xc3\xa9",
        b"\x00",
        b"\xef\xbb\xbf",
        b"\\ud800",
        b"1e999",
        b"NaN",
        b'{"text": "a", "label": "b"}',
        b"a,b",
        b" ",
    ]
)
contents = st.one_of(
    st.binary(max_size=200),
    st.lists(tokens, max_size=30).map(b"".join),
    st.builds(as_json, documents, st.integers(0, 2)),
    st.builds(lambda rows: b"text,label\n" + b"\n".join(rows), st.lists(st.binary(max_size=12), max_size=8)),
    st.builds(lambda doc, cut: as_json(doc, 0)[:cut], documents, st.integers(0, 200)),
)


def written(folder: str, name: str, content: bytes) -> Path:
    path = Path(folder, name)
    path.write_bytes(content)
    return path


def read_or_none(path: Path, **options: Any) -> Dataset | None:
    try:
        return read([path.name], root=path.parent, **options)
    except TailorbirdError as refused:
        error = refused
    assert error.exit_code in (2, 7), error
    assert str(error).encode("utf-8"), "can be printed"
    assert error.where, "says where"
    return None


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(NAMES), contents)
@example("rows.json", b'[{"text": "a", "label": "b"}')
@example("rows.json", b'{"data": [')
@example("rows.csv", b'"')
@example("rows.jsonl", b"[" * 200_000)
@example("rows.json", b"[" * 200_000)
@example("rows.json", b'{"a": ' * 5000)
@example("rows.csv", b'text,label\n"a\n"b,c\n"d')
def test_any_bytes_give_rows_or_one_clear_error(name: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = read_or_none(written(folder, name, content), max_bad_share=1.0)
        if data is not None:
            assert data.rows
            assert len(data.rows) + len(data.rejected) + data.facts.duplicates == data.facts.rows
            assert sum(f.rows for f in data.facts.files) == data.facts.rows
            assert sum(data.facts.rejected.values()) == len(data.rejected)
            for record in data.rejected_records():
                json.dumps(record, ensure_ascii=False).encode("utf-8")
            json.dumps(data.facts.as_dict(), ensure_ascii=False).encode("utf-8")


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(NAMES), contents)
def test_any_bytes_as_inputs_or_answers_give_results_or_one_clear_error(name: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = written(folder, name, content)
        for reader in (read_answers, lambda p: list(read_inputs(p))):
            exit_code = 0
            try:
                reader(path)
            except TailorbirdError as error:
                exit_code = error.exit_code
            assert exit_code in (0, 2, 7)


@settings(max_examples=60, deadline=None)
@given(documents, st.integers(1, 400))
def test_a_json_file_has_the_same_rows_in_every_layout_and_however_it_is_chunked(
    document: list[Any], chunk: int
) -> None:
    from tailorbird.data import stream

    before, found = stream.CHUNK_BYTES, []
    with tempfile.TemporaryDirectory() as folder:
        for style in range(3):
            for stream.CHUNK_BYTES in (before, chunk):  # type: ignore[misc]
                data = read_or_none(written(folder, "rows.json", as_json(document, style)), max_bad_share=1.0)
                found.append(data and ([r.id for r in data.rows], [r.code for r in data.rejected], data.facts.rows))
            stream.CHUNK_BYTES = before
    # a list of one list, or an object that is itself a wrapper, may be told apart by layout only: rows must agree
    with_rows = [f for f in found if f is not None]
    assert all(f == with_rows[0] for f in with_rows)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.text(st.characters(codec="utf-8"), max_size=20), st.text(max_size=5)), max_size=6),
    st.sampled_from([",", ";", "\t"]),
)
def test_what_the_csv_module_writes_is_read_back(rows: list[tuple[str, str]], delimiter: str) -> None:
    import csv
    import io

    from tailorbird.data.text import clean, is_blank

    def fit(text: str) -> bool:
        return (
            not is_blank(clean(text)[0]) and "\r" not in text and "\x00" not in text and not text.startswith("\ufeff")
        )

    kept = list(dict.fromkeys((a, b) for a, b in rows if fit(a) and fit(b) and b.isprintable()))
    if not kept:
        return
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=delimiter).writerows([("text", "label"), *kept])
    with tempfile.TemporaryDirectory() as folder:
        data = read_or_none(written(folder, "rows.csv", buffer.getvalue().encode("utf-8")))
    assert data is not None
    assert len(data.rows) + data.facts.duplicates == len(kept)
    assert data.rows[0].input_text == clean(kept[0][0])[0]
