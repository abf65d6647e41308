"""Records of JSON Lines and of JSON arrays, each parsed strictly: what Python's json lets through is refused here.

Arrays are cut into their elements while the bytes go by, so that a file of any size on one line needs the memory of one
element. Columns of `Rejected` codes: see `docs/data.md`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from tailorbird.data.examine import WRAPPERS, Examined, array_start
from tailorbird.data.records import BadRow, Item, Record, Repair
from tailorbird.data.stream import BOM, CHUNK_BYTES, MAX_LINE_BYTES, chunks, lines
from tailorbird.data.text import has_surrogate, printable
from tailorbird.errors import DataError
from tailorbird.types import Place

MAX_DEPTH = 100
MAX_DIGITS = 100
_IN_STRING = re.compile(rb'["\\]')
_OUTSIDE = re.compile(rb'["\[\]{},]')
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


def json_lines(examined: Examined, *, cap: int = MAX_LINE_BYTES) -> Iterator[Item]:
    """One record a line; blank lines are skipped and counted."""
    shown = examined.file.shown
    stream = chunks(examined.file, sha256=examined.sha256)
    for line in lines(stream, newline=examined.newline, cap=cap):
        place = Place(shown, line.number)
        data = line.data.removeprefix(BOM) if line.data is not None and line.number == 1 else line.data
        if data is not None and not data.strip():
            yield Repair("D04")
        else:
            yield _item(data, place, cap, torn=not line.ended)


def json_array(examined: Examined, *, cap: int = MAX_LINE_BYTES) -> Iterator[Item]:
    """The elements of a JSON array, or of the array under "data" in an object."""
    shown = examined.file.shown
    yield Repair("D07")
    for element in _elements(examined, cap):
        place = Place(shown, element.line)
        if element.after_end:
            yield BadRow(None, "D08", "text stands after the end of the array").at(place)
        elif element.torn and not element.size:
            yield BadRow(None, "D03", "the array is not closed: the file was cut off").at(place)
        elif not element.size:
            yield BadRow(None, "D03", "an empty place between two commas").at(place)
        else:
            yield _item(element.data, place, cap, torn=element.torn)


def _item(data: bytes | None, place: Place, cap: int, *, torn: bool) -> Item:
    try:
        if data is None:
            raise BadRow(None, "D14", f"longer than {cap:,} bytes")
        return Record(place, parse_object(data, torn=torn))
    except BadRow as bad:
        return bad.at(place)


def parse_object(data: bytes, *, torn: bool = False) -> dict[str, Any]:
    """A JSON object, or BadRow. `torn`: the file ends here, so an incomplete record was cut off rather than
    mistyped."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRow(None, "D06", f"byte 0x{data[error.start]:02X} at place {error.start} is not UTF-8") from None
    _check_depth(text)
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise _syntax(error, torn) from None
    except RecursionError:
        raise BadRow(None, "D12", f"nested deeper than {MAX_DEPTH} levels") from None
    if not isinstance(value, dict):
        kind = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}.get(type(value), "a number")
        raise BadRow(None, "D15", f"the record is {kind}, an object with named fields is needed")
    if "\\u" in text and _any_surrogate(value):
        raise BadRow(None, "D11", "holds half of a surrogate pair (\\ud800-\\udfff), which is no character")
    return value


def _syntax(error: json.JSONDecodeError, torn: bool) -> BadRow:
    where = f"at character {error.pos + 1}"
    if error.msg == "Extra data":
        return BadRow(None, "D08", f"more than one JSON value on one line ({where}); put each record on its own line")
    if torn:
        return BadRow(None, "D03", "the record is cut off: the file ends inside it")
    return BadRow(None, "D03", f"not JSON: {error.msg} {where}")


def _check_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for match in _BRACKETS.finditer(text):
        token = match.group()
        depth += (token in "[{") - (token in "]}")
        if depth > MAX_DEPTH:
            raise BadRow(None, "D12", f"nested deeper than {MAX_DEPTH} levels")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise BadRow(printable(twice), "D09", "the field stands twice in one record; which one counts is not defined")
    return value


def _constant(name: str) -> NoReturn:
    raise BadRow(None, "D10", f"{name} is not JSON")


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise BadRow(None, "D10", "a number too large for a float")
    return value


def _int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise BadRow(None, "D13", f"a whole number of {len(digits)} digits")
    return int(digits)


# strict=False: control characters inside strings are let through here, and removed and counted with the text (D26)
_DECODER = json.JSONDecoder(
    strict=False, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float, parse_int=_int
)


def _any_surrogate(value: Any) -> bool:
    if isinstance(value, str):
        return has_surrogate(value)
    if isinstance(value, dict):
        return any(has_surrogate(k) or _any_surrogate(v) for k, v in value.items())
    return isinstance(value, list) and any(map(_any_surrogate, value))


@dataclass(frozen=True, slots=True)
class _Element:
    line: int
    size: int  # without the blanks around it
    data: bytes | None
    torn: bool = False
    after_end: bool = False


@dataclass(slots=True)
class _Gathered:
    """The bytes of the current element, up to the cap; beyond it only their number."""

    cap: int
    line: int
    data: bytearray
    size: int = 0
    feeds: int = 0

    def add(self, part: bytes) -> None:
        self.feeds += part.count(b"\n")
        if not self.size:
            stripped = part.lstrip()
            self.line += part.count(b"\n", 0, len(part) - len(stripped))
            self.feeds -= part.count(b"\n", 0, len(part) - len(stripped))
            part = stripped
        self.size += len(part)
        if self.size <= self.cap:
            self.data += part
        else:
            self.data.clear()

    def take(self, *, torn: bool = False, after_end: bool = False) -> _Element:
        data = bytes(self.data).rstrip() if self.size <= self.cap else None
        size = self.size if data is None else len(data)
        element = _Element(self.line, size, data, torn, after_end)
        self.line += self.feeds
        self.size = self.feeds = 0
        self.data.clear()
        return element


def _elements(examined: Examined, cap: int) -> Iterator[_Element]:
    stream = chunks(examined.file, sha256=examined.sha256)
    head = b""
    while len(head) < CHUNK_BYTES and (chunk := next(stream, b"")):
        head += chunk
    start = array_start(head.removeprefix(BOM))
    if start is None:
        raise DataError(
            f'the JSON is neither a list of records nor an object with one under "{WRAPPERS[0]}" (D07)',
            where=examined.file.shown,
            remedy='write [{...}, {...}], {"data": [{...}]} or one record on each line (.jsonl)',
        )
    start += len(BOM) if examined.has_bom else 0
    gathered = _Gathered(cap, 1 + head.count(b"\n", 0, start), bytearray())
    wrapped = b"{" in head[:start]
    yield from _cut(_after(head[start:], stream), gathered, wrapped)


def _after(rest: bytes, stream: Iterator[bytes]) -> Iterator[bytes]:
    yield rest
    yield from stream


def _cut(stream: Iterable[bytes], gathered: _Gathered, wrapped: bool) -> Iterator[_Element]:
    """Cuts at the commas of the outermost level. Brackets are counted, not matched: json.loads judges each element."""
    depth, quoted, escaped, closed = 0, False, False, False
    for chunk in stream:
        begin = at = 0
        while at < len(chunk) and not closed:
            if escaped:
                escaped, at = False, at + 1
                continue
            found = (_IN_STRING if quoted else _OUTSIDE).search(chunk, at)
            if found is None:
                break
            sign, at = found.group(), found.end()
            if quoted:
                escaped, quoted = sign == b"\\", sign != b'"'
            elif sign == b'"':
                quoted = True
            elif sign in b"[{":
                depth += 1
            elif depth and sign in b"]}":
                depth -= 1
            elif not depth and sign in b",]":
                gathered.add(chunk[begin : at - 1])
                begin, closed = at, sign == b"]"
                if not closed or gathered.size:  # a comma before the end adds no element
                    yield gathered.take()
        gathered.add(chunk[begin:])
    if closed and (gathered.size == 0 or wrapped):
        return
    yield gathered.take(torn=not closed, after_end=closed)
