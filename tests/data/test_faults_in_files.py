"""A file or path that cannot be used: one message with what, where and remedy; exit code 2, or 7 where it is unsafe."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tailorbird.data import Dataset, read
from tailorbird.data.examine import examine
from tailorbird.data.files import resolve
from tailorbird.data.reading import items
from tailorbird.errors import DataError, SafetyError

Read = Callable[..., Dataset]

CONTENT: dict[str, tuple[str, bytes, str]] = {
    "empty": (
        "rows.jsonl",
        b" \n\n",
        "rows.jsonl: the file is empty (D02)\n  → put rows into it, or name another file",
    ),
    "only a header": (
        "rows.csv",
        b"text,label\n\n",
        "rows.csv: there are no rows in the file (D02)\n  → put rows below the header",
    ),
    "UTF-16": (
        "rows.csv",
        "text,label\none,a\n".encode("utf-16"),
        "rows.csv: the file is UTF-16, not UTF-8: byte 0xFF at offset 0 (D05)\n"
        "  → save it as UTF-8, for example: iconv -f UTF-16 -t UTF-8 rows.csv > utf8-copy",
    ),
    "UTF-16 without mark": (
        "rows.csv",
        "text,label\none,a\n".encode("utf-16-le"),
        "rows.csv: the file is UTF-16, not UTF-8: byte 0x74 at offset 0 (D05)\n"
        "  → save it as UTF-8, for example: iconv -f UTF-16 -t UTF-8 rows.csv > utf8-copy",
    ),
    "Latin-1": (
        "rows.csv",
        "text,label\none,a\ncafé,b\n".encode("latin-1"),
        "rows.csv:3: not UTF-8: byte 0xE9 at offset 20; it looks like Windows-1252 or Latin-1 (D05)\n"
        "  → save it as UTF-8, for example: iconv -f WINDOWS-1252 -t UTF-8 rows.csv > utf8-copy",
    ),
    "Arrow": (
        "rows.arrow",
        b"ARROW1....",
        "rows.arrow: an Arrow file cannot be read, JSONL, JSON, CSV, TSV, Parquet, Excel or ODS can (D44)\n"
        "  → export its rows as JSONL and name that file",
    ),
    "Excel with macros": (
        "rows.xlsm",
        b"PK\x03\x04....",
        "rows.xlsm: an Excel workbook with macros cannot be read, JSONL, JSON, CSV, TSV, Parquet, Excel or ODS can "
        "(D44)\n  → save it as .xlsx and name that file",
    ),
    "Excel called CSV": (
        "rows.csv",
        b"PK\x03\x04....",
        "rows.csv: a ZIP archive cannot be read, JSONL, JSON, CSV, TSV, Parquet, Excel or ODS can (D44)\n"
        "  → unpack it and name the file inside",
    ),
    "no known ending": (
        "rows.dat",
        b"hello",
        "rows.dat: cannot tell the format from the name '.dat' (D44)\n"
        "  → give it the ending of what it is: .jsonl, .ndjson, .json, .csv, .tsv, "
        ".parquet, .xlsx, .xls, .ods",
    ),
    "pairs": (
        "rows.jsonl",
        b'{"prompt": "a", "chosen": "b", "rejected": "c"}',
        "rows.jsonl: these are preference pairs (chosen, rejected), which are not read yet\n"
        "  → to train on the preferred answers, say columns: {prompt: prompt, answer: chosen}",
    ),
    "an object without rows": (
        "rows.json",
        b'{"version": 1,\n "name": "x"}',
        'rows.json: the JSON is neither a list of records nor an object with one under "data" (D07)\n'
        '  → write [{...}, {...}], {"data": [{...}]} or one record on each line (.jsonl)',
    ),
    "misspelt column": (
        "rows.jsonl",
        b'{"promt": "a", "completion": "b"}\n{"promt": "c", "completion": "d"}',
        "rows.jsonl: no column for the prompt (prompt_completion); the columns are promt, completion (D16)\n"
        "  → is 'promt' meant as 'prompt'? Rename it, or say which column is which, "
        "for example columns: {prompt: COLUMN, answer: COLUMN}",
    ),
    "strange columns": (
        "rows.csv",
        b"foo,bar\n1,2\n",
        "rows.csv: cannot tell what to read from the columns foo, bar (D16)\n"
        "  → say which column is which, for example columns: {prompt: COLUMN, answer: COLUMN}",
    ),
    "a column twice": (
        "rows.csv",
        b"text,label,Text\none,a,b\n",
        "rows.csv:1: two columns are called 'text' (D09)\n  → give each column its own name",
    ),
}


@pytest.mark.parametrize("kind", CONTENT)
def test_a_file_that_cannot_be_used_is_refused_with_a_remedy(kind: str, read_bytes: Read) -> None:
    name, content, message = CONTENT[kind]
    with pytest.raises(DataError) as error:
        read_bytes(name, content)
    assert str(error.value) == message
    assert error.value.exit_code == 2


def test_a_missing_file_is_named_with_the_one_that_was_meant(tmp_path: Path) -> None:
    (tmp_path / "banking.csv").write_text("text,label\n")
    with pytest.raises(DataError) as error:
        read(["bankin.csv"], root=tmp_path)
    assert (
        str(error.value) == "bankin.csv: no such file (D01)\n  → did you mean 'banking.csv'? It is in the same folder"
    )


@pytest.mark.parametrize("path", ["", "a\0b", "x" * 5000, "nowhere/rows.csv", "*.csv", "empty"])
def test_a_path_to_nothing_is_a_data_error(path: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="D01"):
        read([path], root=tmp_path)


@pytest.mark.parametrize(
    "url", ["http://example.org/rows.csv", "https://a/b", "s3://bucket/rows", "hf://x", "file:///etc/passwd"]
)
def test_a_url_is_not_followed(url: str, tmp_path: Path) -> None:
    with pytest.raises(SafetyError, match="a URL is not followed") as error:
        read([url], root=tmp_path)
    assert error.value.exit_code == 7


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("text,label\none,a\ntwo,b\n")
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "link.csv").symlink_to(secret)
    (root / "sub" / "link.csv").symlink_to(secret)
    (root / "door").symlink_to(tmp_path)
    (root / "inside.csv").write_text("text,label\none,a\ntwo,b\n")
    (root / "sub" / "fine.csv").symlink_to(root / "inside.csv")
    for path in ("link.csv", "sub/link.csv", "door/secret.csv", "sub", ".", "*.csv", str(root / "link.csv")):
        with pytest.raises(SafetyError, match="a link that leads out of its folder is not followed"):
            read([path], root=root)
    assert len(read(["sub/fine.csv"], root=root).rows) == 2
    assert len(read([str(secret)], root=root).rows) == 2, "a path named outright is the user's own choice"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_a_pipe_or_socket_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.csv"))
        for name in ("pipe.csv", "socket.csv"):
            with pytest.raises(SafetyError, match="not a regular file but a device, pipe or socket"):
                read([name], root=tmp_path)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs devices")
def test_a_device_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SafetyError, match="not a regular file"):
        read(["/dev/zero"], root=tmp_path)


def test_a_broken_link_and_a_loop_are_data_errors(tmp_path: Path) -> None:
    (tmp_path / "broken.csv").symlink_to(tmp_path / "gone.csv")
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    for name in ("broken.csv", "loop.csv"):
        with pytest.raises(DataError, match="D01"):
            read([name], root=tmp_path)


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\none,a\ntwo,b\n")
    examined = examine(resolve(["rows.csv"], tmp_path).files[0])
    path.write_text("text,label\none,a\nTWO,b\n")  # same size
    os.utime(path, ns=(examined.file.mtime_ns, examined.file.mtime_ns))  # and same time: only the hash tells
    with pytest.raises(DataError) as error:
        list(items(examined))
    assert (
        str(error.value) == "rows.csv: changed while it was read (D47)\n  → wait until it is written, then start again"
    )


def test_a_file_that_grows_while_it_is_looked_at_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\none,a\n")
    source = resolve(["rows.csv"], tmp_path).files[0]
    writer = threading.Thread(target=lambda: path.write_text("text,label\none,a\ntwo,b\n"))
    writer.start()
    writer.join()
    with pytest.raises(DataError, match="D47"):
        examine(source)


def test_folders_and_globs_are_read_in_the_order_of_names_each_file_once(tmp_path: Path) -> None:
    for name, text in {"b.csv": "text,label\nfrom b,a\n", "a.jsonl": '{"text": "from a", "label": "b"}'}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "notes.docx").write_bytes(b"PK\x03\x04")
    (tmp_path / "~$open.xlsx").write_bytes(b"held by a spreadsheet program")
    (tmp_path / "README.md").write_text("not data")
    data = read([".", "b.csv", "*.csv"], root=tmp_path)
    assert [row.input_text for row in data.rows] == ["from a", "from b"]
    assert [str(row.place) for row in data.rows] == ["a.jsonl:1", "b.csv:2"]
    assert any("notes.docx was left out: a Word document" in w for w in data.facts.warnings)
    assert sum("named twice" in w for w in data.facts.warnings) == 2
