"""Parquet: the rows of the same JSON, streamed by batches; types by rule; damaged files refused by name."""

from __future__ import annotations

import datetime
import decimal
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tailorbird.data import Dataset, read, read_inputs
from tailorbird.data import parquet as module
from tailorbird.errors import DataError, SafetyError

from .rows import sentence

pyarrow = pytest.importorskip("pyarrow")
Read = Callable[..., Dataset]


def parquet(rows: list[dict[str, Any]], **options: Any) -> bytes:
    from pyarrow import parquet as format

    out = pyarrow.BufferOutputStream()
    format.write_table(pyarrow.Table.from_pylist(rows), out, **options)
    return bytes(out.getvalue())


def asked(count: int) -> list[dict[str, Any]]:
    return [{"prompt": sentence(n), "completion": f"answer {n}", "n": n} for n in range(count)]


def test_rows_are_those_of_the_same_json_in_their_order(read_bytes: Read) -> None:
    rows = asked(700)  # several row groups, several batches in one
    data = read_bytes("rows.parquet", parquet(rows, row_group_size=300))
    lines = read_bytes("rows.jsonl", "\n".join(map(json.dumps, rows)).encode())
    assert [row.id for row in data.rows] == [row.id for row in lines.rows]
    assert [row.place.line for row in data.rows] == list(range(1, 701))
    assert (data.facts.files[0].format, data.facts.shape) == ("parquet", "prompt_completion")


def test_conversations_are_lists_of_structs(read_bytes: Read) -> None:
    turns = [{"role": "user", "content": "what now?"}, {"role": "assistant", "content": "this"}]
    data = read_bytes("rows.parquet", parquet([{"messages": turns}]))
    assert [m.as_dict() for m in data.rows[0].messages] == turns


def test_faults_are_found_at_their_row(read_bytes: Read) -> None:
    rows = asked(4)
    rows[1]["completion"] = None
    rows[2]["prompt"] = " "
    data = read_bytes("rows.parquet", parquet(rows))
    assert [(r.place.line, r.field, r.code) for r in data.rejected] == [(2, "completion", "D17"), (3, "prompt", "D25")]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (datetime.date(2024, 5, 31), "2024-05-31"),
        (datetime.datetime(2024, 5, 31, 14, 5), "2024-05-31 14:05:00"),
        (datetime.time(14, 5), "14:05:00"),
        (decimal.Decimal("12.50"), "12.50"),
        (b"bytes of text", "bytes of text"),
        (2**63 - 1, str(2**63 - 1)),
    ],
)
def test_values_become_text_by_rule(value: Any, text: str, read_bytes: Read) -> None:
    data = read_bytes("rows.parquet", parquet([{"text": sentence(1), "label": value}]), classify=True)
    assert data.rows[0].label == text


def test_a_number_that_is_missing_is_null_and_bytes_that_are_no_text_reject_their_row(read_bytes: Read) -> None:
    rows = [{"text": sentence(n), "label": "a", "weight": w} for n, w in enumerate((float("nan"), 2.0))]
    data = read_bytes("rows.parquet", parquet(rows), columns={"prompt": "text", "label": "label", "weight": "weight"})
    assert [row.weight for row in data.rows] == [1.0, 2.0]
    bad = read_bytes(
        "rows.parquet",
        parquet(
            [{"text": sentence(1), "label": "a", "raw": b"\xff\xfe"}, {"text": sentence(2), "label": "b", "raw": b"x"}]
        ),
    )
    assert [(r.place.line, r.field, r.code) for r in bad.rejected] == [(1, "raw", "D06")]


def test_damaged_files_are_refused_by_name(read_bytes: Read) -> None:
    content = parquet(asked(50))
    for broken in (content[:-20], content[:4] + bytes(60), b"PAR1"):
        with pytest.raises(DataError, match=r"rows.parquet: the Parquet file is damaged: .* \(D44\)"):
            read_bytes("rows.parquet", broken)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.parquet", b"text,label\na,b\n", "is named .parquet but does not hold a Parquet file (D44)"),
        ("rows.csv", parquet(asked(3)), "holds Parquet, but is named .csv (D44)"),
        ("rows", parquet(asked(3)), "holds Parquet, but is named (no ending) (D44)"),
        ("rows.parquet", parquet([{"text": "a", "Text": "b"}]), "two columns are called 'text' (D09)"),
    ],
)
def test_name_and_content_must_agree(name: str, content: bytes, message: str, read_bytes: Read) -> None:
    with pytest.raises(DataError) as error:
        read_bytes(name, content)
    assert message in str(error.value)


def test_groups_that_unpack_to_too_much_are_refused_before_they_do(
    read_bytes: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_GROUP_BYTES", 100)
    with pytest.raises(SafetyError, match=r"a row group unpacks to .* \(D45\)"):
        read_bytes("rows.parquet", parquet(asked(50)))


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(parquet(asked(600)))
    item = module._item

    def touched(*words: Any) -> Any:
        import os

        os.utime(path, (1, 1))
        return item(*words)

    monkeypatch.setattr(module, "_item", touched)
    with pytest.raises(DataError, match="changed while it was read"):
        read(["rows.parquet"], root=tmp_path)


def test_a_folder_gives_its_tables_and_inputs_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.parquet").write_bytes(parquet(asked(3)))
    (tmp_path / "d" / "b.jsonl").write_text(json.dumps({"prompt": "other", "completion": "x"}), encoding="utf-8")
    assert len(read(["d"], root=tmp_path).rows) == 4
    assert [row.request_messages[-1].content for row in read_inputs("d/a.parquet", root=tmp_path)] == [
        sentence(n) for n in range(3)
    ]
