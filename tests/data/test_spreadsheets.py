"""Workbooks: rows with the place a user sees, cells as predictable text, and nothing that a hostile file asks for."""

from __future__ import annotations

import contextlib
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tailorbird.data import Dataset, read, read_answers, read_inputs
from tailorbird.data import spreadsheets as module
from tailorbird.errors import DataError, SafetyError, TailorbirdError

from .rows import sentence
from .workbooks import cell_xml, members, ods, packed, sheet_xml, xlsx

Read = Callable[..., Dataset]
FIXTURES = Path(__file__).parents[1] / "fixtures" / "workbooks"
ROWS = [["text", "label"], *[[sentence(n), "ab"[n % 2]] for n in range(6)]]


@pytest.mark.parametrize(("name", "make"), [("rows.xlsx", xlsx), ("rows.ods", ods)])
def test_a_sheet_is_read_as_the_same_table_would_be(name: str, make: Callable[[Any], bytes], read_bytes: Read) -> None:
    data = read_bytes(name, make(ROWS))
    table = read_bytes("rows.csv", "\n".join(",".join(row) for row in ROWS).encode())
    assert [row.id for row in data.rows] == [row.id for row in table.rows]
    assert [str(row.place) for row in data.rows] == [f"{name}:{n}" for n in range(2, 8)]
    assert (data.facts.shape, data.facts.files[0].format, data.facts.files[0].encoding) == (
        "text_label",
        "sheet",
        "binary",
    )


def test_an_old_workbook_is_read_too() -> None:
    data = read(["old.xls"], root=FIXTURES)
    assert [(row.input_text, row.label) for row in data.rows[:2]] == [
        ("the old workbook says number 1", "b"),
        ("the old workbook says number 2", "a"),
    ]
    assert any("old.xls has 2 sheets; 'Rows' was read" in text for text in data.facts.warnings)


def test_rows_count_as_the_sheet_does_and_faults_name_theirs(read_bytes: Read) -> None:
    rows = [ROWS[0], ROWS[1], [None, None], ["", "a"], [sentence(9), None], ROWS[2]]
    data = read_bytes("rows.xlsx", xlsx(rows, first=3))  # a title could stand above: here two empty rows do
    assert [row.place.line for row in data.rows] == [4, 8]
    assert [(r.place.line, r.field, r.code) for r in data.rejected] == [(6, "text", "D25"), (7, "label", "D30")]
    assert data.facts.fixed["D04"] == 1


def test_numbers_dates_and_truth_become_text_by_rule(read_bytes: Read) -> None:
    cells: list[tuple[Any, int, str]] = [
        (12, 0, "12"),
        (2.5, 0, "2.5"),
        (0.1, 0, "0.1"),
        (999999999999999, 0, "999999999999999"),
        (12345678901234567890, 0, "1.2345678901234567e+19"),  # a sheet has kept 15 digits of it
        (True, 0, "TRUE"),
        (45443, 1, "2024-05-31"),
        (45443.586805555555, 2, "2024-05-31 14:05:00"),
    ]
    rows = "".join(
        f'<row r="{r}">{cell_xml(f"{sentence(r)}", f"A{r}")}{cell_xml(cell, f"B{r}", style)}</row>'
        for r, (cell, style, _) in enumerate(cells, start=2)
    )
    head = sheet_xml([["text", "label"]])
    data = read_bytes("rows.xlsx", packed(members({"Rows": head + rows})))
    assert [row.label for row in data.rows] == [text for _, _, text in cells]


def test_a_sheet_is_named_or_it_is_the_first_that_is_shown(read_bytes: Read) -> None:
    sheets = {
        "Notes": sheet_xml([["nothing"]]),
        "Day": sheet_xml(ROWS),
        "Night": sheet_xml([ROWS[0], [sentence(50), "a"]]),
    }
    content = packed(members(sheets, hidden=["Notes"]))
    assert len(read_bytes("rows.xlsx", content).rows) == 6
    assert len(read_bytes("rows.xlsx", content, sheet="Night").rows) == 1
    with pytest.raises(DataError) as error:
        read_bytes("rows.xlsx", content, sheet="Nigth")
    assert str(error.value) == "rows.xlsx: there is no sheet 'Nigth' (D16)\n  → did you mean 'Night'?"
    with pytest.raises(DataError, match=r"rows.csv: sheet 'Day' is named, and there is no workbook"):
        read_bytes("rows.csv", b"text,label\na b c,x\n", sheet="Day")


def test_answers_and_inputs_come_from_workbooks_too(tmp_path: Path) -> None:
    (tmp_path / "today.xlsx").write_bytes(xlsx([["text", "label", "score"], [sentence(1), "a", 0.5]]))
    answers = read_answers("today.xlsx", root=tmp_path)
    assert [(a.label, dict(a.numbers)) for a in answers.by_input.values()] == [("a", {"score": 0.5})]
    (given,) = read_inputs("today.xlsx", root=tmp_path)
    assert given.request_messages[-1].content == sentence(1)


def refused(read_bytes: Read, name: str, content: bytes) -> TailorbirdError:
    with pytest.raises(TailorbirdError) as error:
        read_bytes(name, content)
    return error.value


def test_a_password_is_said() -> None:
    with pytest.raises(DataError, match=r"password.xlsx: the workbook is protected by a password \(D44\)"):
        read(["password.xlsx"], root=FIXTURES)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.xlsx", b"text,label\na,b\n", r"is named .xlsx but does not hold an Excel workbook \(D44\)"),
        (
            "rows.ods",
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
            r"is named .ods but does not hold an OpenDocument spreadsheet",
        ),
        ("rows.xlsx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", r"of that kind \(D44\)\n.*rename it to .xls"),
        ("rows.csv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", r"holds an old Office file, but is named .csv \(D44\)"),
        ("rows.xlsx", b"", r"the file is empty \(D02\)"),
        ("rows.xlsx", xlsx([["text", "label"]]), r"there are no rows in the file \(D02\)\n.*below the header"),
        ("rows.xlsx", xlsx([["text", "Text"], ["a", "b"]]), r"rows.xlsx:1: two columns are called 'text' \(D09\)"),
        ("rows.xlsx", xlsx(ROWS)[:-30], r"the workbook is damaged"),
        ("rows.xlsx", packed({"word/document.xml": "<w/>"}), r"the workbook cannot be opened"),
        ("rows.xlsx", packed({**members({"Rows": ""}), "xl/vbaProject.bin": b"x"}), r"with macros is not read \(D44\)"),
        ("rows.xlsm", xlsx(ROWS), r"an Excel workbook with macros cannot be read"),
    ],
)
def test_what_is_no_whole_workbook_is_refused_by_name(
    name: str, content: bytes, message: str, read_bytes: Read
) -> None:
    error = refused(read_bytes, name, content)
    assert error.exit_code == 2
    assert re.search(message, str(error))


def test_a_flipped_byte_anywhere_is_an_error_or_the_rows(read_bytes: Read) -> None:
    content = xlsx(ROWS)
    for at in range(0, len(content), max(1, len(content) // 12)):
        changed = bytearray(content)
        changed[at] ^= 0xFF
        with contextlib.suppress(DataError, SafetyError):
            read_bytes("rows.xlsx", bytes(changed))


def test_what_unpacks_to_too_much_is_refused_whatever_it_says_of_its_size(
    read_bytes: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_UNPACKED_BYTES", 1 << 20)
    content = bytearray(packed({**members({"Rows": ""}), "xl/media/zeros.bin": bytes(4 << 20)}))
    error = refused(read_bytes, "rows.xlsx", bytes(content))
    assert (error.exit_code, "unpacks to more than 1 MB (D45)" in str(error)) == (7, True)
    size = (4 << 20).to_bytes(4, "little")
    assert content.count(size) >= 2
    lied = bytes(content).replace(size, (10).to_bytes(4, "little"))
    assert refused(read_bytes, "rows.xlsx", lied).exit_code == 7


def test_too_many_members_are_refused(read_bytes: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MEMBERS", 20)
    error = refused(read_bytes, "rows.xlsx", packed({**members({"Rows": ""}), **{f"x/{n}": "" for n in range(30)}}))
    assert (error.exit_code, "members" in str(error)) == (7, True)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_declared_entities_are_refused(encoding: str, read_bytes: Read) -> None:
    laughs = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>'
    sheet = f"{laughs}<worksheet><sheetData/></worksheet>".encode(encoding)
    error = refused(read_bytes, "rows.xlsx", packed({**members({"Rows": ""}), "xl/worksheets/sheet1.xml": sheet}))
    assert (error.exit_code, "declares entities (D45)" in str(error)) == (7, True)


@pytest.mark.skipif(os.name == "nt", reason="memory of a process is not limited there")
def test_a_cell_at_the_far_corner_ends_the_reading_and_not_the_program(read_bytes: Read) -> None:
    corner = sheet_xml(ROWS) + '<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>'
    error = refused(read_bytes, "rows.xlsx", packed(members({"Rows": corner})))
    assert isinstance(error, SafetyError)
    assert "asks for more than it may have to be opened" in str(error)


def test_a_workbook_that_never_opens_is_given_up(read_bytes: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.001)
    error = refused(read_bytes, "rows.xlsx", xlsx(ROWS))
    assert (error.exit_code, "seconds to open (D45)" in str(error)) == (7, True)


def test_the_helpers_make_archives(tmp_path: Path) -> None:
    (tmp_path / "rows.xlsx").write_bytes(xlsx(ROWS))
    assert zipfile.ZipFile(tmp_path / "rows.xlsx").testzip() is None
