"""The first pass over a file: its hash, whether it is UTF-8, which format it has. The second pass must see the same
bytes.

Format is decided by content, the name only breaks ties: a JSON array called `.jsonl` is an array. Parquet and workbooks
must have both, name and content. Formats that are not read (archives, PDF, ...) are refused by name.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

from tailorbird.data.files import OTHER_SUFFIXES, READABLE, ROW_SUFFIXES, TEXT_SUFFIXES, SourceFile
from tailorbird.data.stream import BOM, CHUNK_BYTES, MAX_LINE_BYTES, chunks, lines
from tailorbird.errors import DataError

Format = Literal["jsonl", "json", "csv", "text", "parquet", "sheet"]
WRAPPERS = ("data", "examples", "rows", "records")
_PARQUET, _ZIP, _OLE = b"PAR1", b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_BINARY: dict[str, tuple[Format, str, tuple[bytes, ...]]] = {  # a workbook with a password is an OLE file, too
    ".parquet": ("parquet", "a Parquet file", (_PARQUET,)),
    ".xlsx": ("sheet", "an Excel workbook", (_ZIP, _OLE)),
    ".xls": ("sheet", "an Excel workbook", (_OLE, _ZIP)),
    ".ods": ("sheet", "an OpenDocument spreadsheet", (_ZIP,)),
}
_MAGIC = (
    (b"ARROW1", ".arrow"),
    (_ZIP, ".zip"),
    (b"\x1f\x8b", ".gz"),
    (b"(\xb5/\xfd", ".zst"),
    (b"BZh", ".bz2"),
    (b"\xfd7zXZ\x00", ".xz"),
    (b"%PDF-", ".pdf"),
    (b"\x80\x04\x95", ".pkl"),
)
_WIDE = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
_RECODE = "save it as UTF-8, for example: iconv -f {} -t UTF-8 {} > utf8-copy"
_BLANKS = (" ", "\t", "\r", "\n")
_JSON_IN_TABLE = re.compile(rb'^\s*(?:\[\s*)?\{\s*"')
_WRAPPER_START = re.compile(rb'^\{\s*(?:"[^"\\]{0,200}"\s*:\s*[\[{]?\s*)?$|^\{.*[\[{,]$')


@dataclass(frozen=True, slots=True)
class Examined:
    file: SourceFile
    sha256: str
    format: Format
    encoding: str  # "utf-8", "utf-8 with BOM" or, where it is no text, "binary"
    newline: bytes  # b"\n", or b"\r" for files of the old Mac kind
    repairs: int  # beginning-of-file mark, CRLF: put right without a word in the rows
    notes: tuple[str, ...] = ()

    @property
    def has_bom(self) -> bool:
        return self.encoding == "utf-8 with BOM"


@dataclass(slots=True)
class _Seen:
    """What the pass collects while the bytes go by."""

    head: bytes = b""
    line_feeds: bool = False
    returns: bool = False
    pairs: bool = False
    valid: int = 0  # lines with well-formed multi-byte characters
    broken: tuple[int, int, int] | None = None  # line, offset, byte of the first malformed character
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    def watch(self, stream: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in stream:
            self.digest.update(chunk)
            if len(self.head) < CHUNK_BYTES:
                self.head += chunk[: CHUNK_BYTES - len(self.head)]
            self.line_feeds = self.line_feeds or b"\n" in chunk
            self.returns = self.returns or b"\r" in chunk
            self.pairs = self.pairs or b"\r\n" in chunk
            yield chunk


def examine(file: SourceFile, *, plain_text: bool = False) -> Examined:
    """Reads the file once. `plain_text`: a `.txt` file is lines of text (inputs to be answered), not refused."""
    seen = _Seen()
    stream = seen.watch(chunks(file))
    first = next(stream, b"")
    if kind := _binary_format(file, first):
        deque(stream, maxlen=0)  # to its end, for the hash
        return Examined(file, f"sha256:{seen.digest.hexdigest()}", kind, "binary", b"", 0)
    for line in lines(chain([first], stream), cap=MAX_LINE_BYTES):
        if line.data is None or line.data.isascii():
            continue
        try:
            line.data.decode("utf-8")
            seen.valid += 1
        except UnicodeDecodeError as error:
            seen.broken = seen.broken or (line.number, line.offset + error.start, line.data[error.start])
    _refuse_other_formats(file, seen.head)
    _refuse_other_encodings(file, seen)
    body = seen.head.removeprefix(BOM)
    if not body.strip():
        raise DataError("the file is empty (D02)", where=file.shown, remedy="put rows into it, or name another file")
    newline = b"\r" if seen.returns and not seen.line_feeds else b"\n"
    kind, notes = _format(file, body, newline, plain_text, whole=len(seen.head) == file.size)
    has_bom = seen.head.startswith(BOM)
    return Examined(
        file=file,
        sha256=f"sha256:{seen.digest.hexdigest()}",
        format=kind,
        encoding="utf-8 with BOM" if has_bom else "utf-8",
        newline=newline,
        repairs=has_bom + (seen.pairs or newline == b"\r"),
        notes=notes,
    )


def _binary_format(file: SourceFile, head: bytes) -> Format | None:
    """Parquet or a workbook, by name and content; DataError when only one of the two says so."""
    named = _BINARY.get(file.suffix)
    if named is not None:
        kind, name, magics = named
        if not head:
            raise DataError("the file is empty (D02)", where=file.shown, remedy="name another file")
        if not head.startswith(magics):
            what = f"is named {file.suffix} but does not hold {name} (D44)"
            raise DataError(what, where=file.shown, remedy="give it the ending of what it is, or save it again")
        return kind
    if file.suffix not in OTHER_SUFFIXES and head.startswith((_PARQUET, _OLE)):
        is_parquet = head.startswith(_PARQUET)
        what = f"holds {'Parquet' if is_parquet else 'an old Office file'}, but is named {file.suffix or '(no ending)'}"
        remedy = f"rename it to .{'parquet' if is_parquet else 'xls'}, if it is one"
        raise DataError(f"{what} (D44)", where=file.shown, remedy=remedy)
    return None


def _refuse_other_formats(file: SourceFile, head: bytes) -> None:
    suffix = file.suffix if file.suffix in OTHER_SUFFIXES else None
    by_content = next((s for magic, s in _MAGIC if head.startswith(magic)), None)
    if by_content == ".zip" and suffix in (".xlsm", ".xlsb", ".docx"):
        by_content = suffix
    if suffix := by_content or suffix:
        name, remedy = OTHER_SUFFIXES[suffix]
        raise DataError(f"{name} cannot be read, {READABLE} can (D44)", where=file.shown, remedy=remedy)


def _refuse_other_encodings(file: SourceFile, seen: _Seen) -> None:
    wide = next((name for mark, name in _WIDE if seen.head.startswith(mark)), None)
    sample = seen.head[:4096]
    if wide is None and sample:
        zeros = max(sample[0::2].count(0), sample[1::2].count(0))
        wide = "UTF-16" if zeros > 0.2 * len(sample) else None
    if wide:
        what = f"the file is {wide}, not UTF-8: byte 0x{seen.head[0]:02X} at offset 0 (D05)"
        raise DataError(what, where=file.shown, remedy=_RECODE.format(wide, file.shown))
    if seen.broken and not seen.valid:
        line, offset, byte = seen.broken
        raise DataError(
            f"not UTF-8: byte 0x{byte:02X} at offset {offset}; it looks like Windows-1252 or Latin-1 (D05)",
            where=f"{file.shown}:{line}",
            remedy=_RECODE.format("WINDOWS-1252", file.shown),
        )


def _format(
    file: SourceFile, body: bytes, newline: bytes, plain_text: bool, *, whole: bool
) -> tuple[Format, tuple[str, ...]]:
    """By content; `whole` says that `body` is the file and not only its beginning."""
    text = body.lstrip()
    is_json = text[:1] in (b"{", b"[")
    if file.suffix in (".csv", ".tsv"):
        if not _JSON_IN_TABLE.match(text):
            return "csv", ()
        return _json_format(file, text, newline, whole), (
            f"{file.shown} is named {file.suffix} but holds JSON; read as JSON",
        )
    if file.suffix == ".txt" and plain_text:
        return "text", ()
    if is_json or file.suffix in TEXT_SUFFIXES:
        return _json_format(file, text, newline, whole), ()
    what = f"cannot tell the format from the name {file.suffix or '(no ending)'!r} (D44)"
    raise DataError(what, where=file.shown, remedy=f"give it the ending of what it is: {', '.join(ROW_SUFFIXES)}")


def _json_format(file: SourceFile, text: bytes, newline: bytes, whole: bool) -> Literal["jsonl", "json"]:
    first, _, rest = text.partition(newline)
    first, rest = first.strip(), rest.strip()
    complete = whole or bool(rest)
    value = _parse(first) if complete else None
    if text.startswith(b"["):
        return "jsonl" if isinstance(value, list) and rest else "json"
    if not text.startswith(b"{"):
        return "jsonl"
    if isinstance(value, dict):
        return "json" if not rest and whole and _is_wrapper(value) else "jsonl"
    if not complete:  # the first line is longer than what was looked at
        return "json" if array_start(first) is not None else "jsonl"
    if rest.startswith(b"{"):
        return "jsonl"
    if file.suffix == ".json":
        return "json"
    return "json" if _WRAPPER_START.match(first) else "jsonl"


def _parse(line: bytes) -> object:
    try:
        value: object = json.loads(line.decode("utf-8"), strict=False, parse_int=len)
        return value
    except (ValueError, RecursionError):
        return None


def _is_wrapper(value: dict[str, object]) -> bool:
    lists = [value[k] for k in WRAPPERS if isinstance(value.get(k), list)]
    return any(all(isinstance(row, dict) for row in rows) for rows in lists if isinstance(rows, list))


def array_start(head: bytes) -> int | None:
    """Where the rows of a JSON document begin: just after the `[` of the array, or of the one under "data".

    Bytes are looked at as Latin-1, one character a byte, so that positions hold; JSON's structure is ASCII.
    """
    text = head.decode("latin-1")
    decoder = json.JSONDecoder(strict=False, parse_int=len)
    at = _past_blank(text, 0)
    if text[at : at + 1] == "[":
        return at + 1
    if text[at : at + 1] != "{":
        return None
    try:
        while True:
            key, at = decoder.raw_decode(text, _past_blank(text, at + 1))
            colon = _past_blank(text, at)
            if text[colon : colon + 1] != ":":
                return None
            start = _past_blank(text, colon + 1)
            if isinstance(key, str) and key in WRAPPERS and text[start : start + 1] == "[":
                return start + 1
            _, at = decoder.raw_decode(text, start)
            at = _past_blank(text, at)
            if text[at : at + 1] != ",":
                return None
    except (ValueError, RecursionError):
        return None


def _past_blank(text: str, at: int) -> int:
    while text[at : at + 1] in _BLANKS:
        at += 1
    return at
