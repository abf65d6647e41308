"""Records of a workbook's sheet (.xlsx, .xls, .ods), with the row each stands in.

What is packed in the file is looked at before anything is parsed: how much it unpacks to, and whether its XML declares
entities. Then `sheet_reader.py` parses it in a process of its own. Nothing in a workbook is run; one with macros is
refused.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tailorbird.data.examine import Examined
from tailorbird.data.records import BadRow, Item, Record, Remark, Repair
from tailorbird.data.stream import MAX_LINE_BYTES, chunks
from tailorbird.data.tables import column_names
from tailorbird.data.text import suggest
from tailorbird.errors import DataError, SafetyError
from tailorbird.types import Place

MAX_BYTES = 100 << 20
MAX_UNPACKED_BYTES = 200 << 20
MAX_MEMBERS = 10_000
SECONDS = 90  # for the parsing of one file; its processor time is limited to less
_CHUNK = 1 << 16
_DECLARES = re.compile(rb"<!(DOCTYPE|ENTITY)", re.IGNORECASE)
_ENCRYPTED = "EncryptedPackage".encode("utf-16-le")  # the name of a stream in the OLE file that holds it
_UNPACK = "open it in a spreadsheet program and save the sheet as CSV (UTF-8)"


def sheet_rows(examined: Examined, *, cap: int = MAX_LINE_BYTES, sheet: str | None = None) -> Iterator[Item]:
    """One record for each row below the header of the sheet (the first that is not hidden when none is named)."""
    shown = examined.file.shown
    told = _parsed(examined, sheet)
    first = next(told)
    if "error" in first:
        raise _error(first, shown, sheet)
    if sheet is None and len(first["sheets"]) > 1:
        many = f"{shown} has {len(first['sheets'])} sheets; {first['sheet']!r} was read"
        yield Remark(f"{many} (`sheet: NAME` reads another)")
    header: list[str] = []
    for number, cells in enumerate(told, start=1):
        place = Place(shown, number)
        if not any(cell.strip() for cell in cells):
            if header:
                yield Repair("D04")
        elif not header:
            header = column_names(cells, str(place))
        elif sum(len(cell) for cell in cells) > cap:
            yield BadRow(None, "D14", f"longer than {cap:,} characters").at(place)
        else:
            named = zip(header, cells, strict=False)
            yield Record(place, {n: cell for n, cell in named if cell or not n.startswith("(column ")})


def _protected(shown: str) -> DataError:
    return DataError(
        "the workbook is protected by a password (D44)", where=shown, remedy="save a copy without a password"
    )


def _error(told: dict[str, Any], shown: str, sheet: str | None) -> DataError:
    match told["error"]:
        case "password":
            return _protected(shown)
        case "sheet":
            names = ", ".join(map(repr, told["detail"])) or "none"
            near = suggest(str(sheet), told["detail"])
            remedy = f"did you mean {near!r}?" if near else f"the sheets are {names}"
            return DataError(f"there is no sheet {sheet!r} (D16)", where=shown, remedy=remedy)
        case "empty":
            return DataError(
                "the workbook has no sheet that is shown (D02)", where=shown, remedy="name one: sheet: NAME"
            )
        case _:
            return DataError(f"the workbook cannot be opened: {told['detail']} (D44)", where=shown, remedy=_UNPACK)


def _parsed(examined: Examined, sheet: str | None) -> Iterator[Any]:
    """What the process says, line by line; SafetyError when it was ended by its limits."""
    shown = examined.file.shown
    if examined.file.size > MAX_BYTES:
        raise DataError(f"the workbook is larger than {MAX_BYTES >> 20} MB (D14)", where=shown, remedy=_UNPACK)
    content = b"".join(chunks(examined.file, sha256=examined.sha256))
    if content.startswith(b"PK"):
        look_inside(content, shown)
    elif examined.file.suffix == ".xlsx":
        if _ENCRYPTED in content:
            raise _protected(shown)
        what = "is named .xlsx but does not hold an Excel workbook of that kind (D44)"
        raise DataError(what, where=shown, remedy="if it is an old workbook, rename it to .xls")
    # -P: this folder's modules must not hide those of the standard library
    command = [sys.executable, "-P", str(Path(__file__).with_name("sheet_reader.py")), *([sheet] if sheet else [])]
    with tempfile.TemporaryFile() as out:
        try:
            done = subprocess.run(command, input=content, stdout=out, stderr=subprocess.PIPE, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            raise SafetyError(
                f"the workbook takes more than {SECONDS} seconds to open (D45)", where=shown, remedy=_UNPACK
            ) from None
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").splitlines()
            reason = next((line.strip() for line in said if "memory" in line.casefold()), "it was ended")
            raise SafetyError(
                f"the workbook asks for more than it may have to be opened: {reason[:120]} (D45)",
                where=shown,
                remedy=_UNPACK,
            )
        out.seek(0)
        yield from map(json.loads, out)


def look_inside(content: bytes, shown: str) -> None:
    """DataError for what is no whole archive or has macros; SafetyError for one that unpacks to too much or declares
    entities. Members are inflated here for their true size: what an archive says of itself may be a lie."""
    try:
        members = zipfile.ZipFile(io.BytesIO(content)).infolist()
        if len(members) > MAX_MEMBERS:
            raise SafetyError(f"has {len(members):,} members, at most {MAX_MEMBERS:,} may be (D45)", where=shown)
        left = MAX_UNPACKED_BYTES
        for member in members:
            if member.filename.casefold().endswith("vbaproject.bin"):
                raise DataError(
                    "a workbook with macros is not read (D44)", where=shown, remedy="save it as .xlsx or CSV"
                )
            left = _inflate(content, member, left, shown)
    except (zipfile.BadZipFile, zlib.error, ValueError, OverflowError, NotImplementedError) as error:
        raise DataError(f"the workbook is damaged: {error} (D44)", where=shown, remedy=_UNPACK) from None


def _inflate(content: bytes, member: zipfile.ZipInfo, left: int, shown: str) -> int:
    """Walks over a member's unpacked bytes; returns how many more may follow."""
    if member.flag_bits & 1:
        raise _protected(shown)
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"an unknown way of packing ({member.compress_type})")
    start = member.header_offset
    names = int.from_bytes(content[start + 26 : start + 28], "little")
    extra = int.from_bytes(content[start + 28 : start + 30], "little")
    packed = content[start + 30 + names + extra :][: member.compress_size]
    inflater = zlib.decompressobj(-zlib.MAX_WBITS) if member.compress_type == zipfile.ZIP_DEFLATED else None
    is_xml, tail = member.filename.casefold().endswith((".xml", ".rels")), b""
    for at in range(0, len(packed), _CHUNK):
        piece = packed[at : at + _CHUNK]
        while piece:
            plain = piece if inflater is None else inflater.decompress(piece, 1 << 20)
            piece = b"" if inflater is None else inflater.unconsumed_tail
            left -= len(plain)
            if left < 0:
                raise SafetyError(
                    f"unpacks to more than {MAX_UNPACKED_BYTES >> 20} MB (D45)", where=shown, remedy=_UNPACK
                )
            seen = tail + plain.replace(b"\0", b"")  # UTF-16 hides it from a plain look
            if is_xml and _DECLARES.search(seen):
                raise SafetyError(f"{member.filename} declares entities (D45)", where=shown, remedy=_UNPACK)
            tail = seen[-16:]
    return left
