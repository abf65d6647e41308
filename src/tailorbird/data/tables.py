"""Records of CSV and TSV files, with the line each starts on.

The standard library's csv module parses each record; where a record ends is decided here, line by line, because a
stray quote would otherwise swallow the rest of the file: a record that does not parse is rejected at its first line,
and reading goes on at the second.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from tailorbird.data.examine import Examined
from tailorbird.data.records import BadRow, Item, Record, Repair
from tailorbird.data.stream import BOM, MAX_LINE_BYTES, Line, chunks, lines
from tailorbird.data.text import fold_name, printable
from tailorbird.errors import DataError
from tailorbird.types import Place

DELIMITERS = (",", ";", "\t")
_NAMES = {",": "comma", ";": "semicolon", "\t": "tab"}
SNIFFED_LINES = 200


@dataclass(frozen=True, slots=True)
class _Text:
    number: int
    text: str | None  # None: could not be decoded, or over the cap; `bad` says which
    bad: BadRow | None = None


def table_rows(examined: Examined, *, cap: int = MAX_LINE_BYTES) -> Iterator[Item]:
    """One record for each row below the header; blank lines are skipped and counted."""
    shown = examined.file.shown
    source = (
        _decode(line, cap)
        for line in lines(chunks(examined.file, sha256=examined.sha256), newline=examined.newline, cap=cap)
    )
    texts = _Pushback(source)
    delimiter = sniff(texts.peek(SNIFFED_LINES), examined)
    header = _header(texts, delimiter, shown, cap)
    while (first := texts.next()) is not None:
        if first.text is not None and not first.text.strip(" \t"):
            yield Repair("D04")
            continue
        place = Place(shown, first.number)
        try:
            cells = _cells(first, texts, delimiter, len(header), cap)
            yield Record(place, dict(zip(header, cells, strict=True)))
        except BadRow as bad:
            yield bad.at(place)


class _Pushback:
    """An iterator over lines that can be looked into and given lines back."""

    def __init__(self, source: Iterator[_Text]) -> None:
        self.source, self.waiting = source, deque[_Text]()

    def next(self) -> _Text | None:
        return self.waiting.popleft() if self.waiting else next(self.source, None)

    def back(self, texts: list[_Text]) -> None:
        self.waiting.extendleft(reversed(texts))

    def peek(self, count: int) -> list[str]:
        taken = list(islice(self.source, count))
        self.waiting.extend(taken)
        return [t.text for t in taken if t.text is not None]


def _decode(line: Line, cap: int) -> _Text:
    if line.data is None:
        return _Text(line.number, None, BadRow(None, "D14", f"longer than {cap:,} bytes"))
    data = line.data.removeprefix(BOM) if line.number == 1 else line.data
    try:
        return _Text(line.number, data.decode("utf-8"))
    except UnicodeDecodeError as error:
        byte = data[error.start]
        return _Text(line.number, None, BadRow(None, "D06", f"byte 0x{byte:02X} at place {error.start} is not UTF-8"))


def sniff(sample: list[str], examined: Examined) -> str:
    """The delimiter under which most lines have as many cells as the header (more than one); a comma when none has."""
    header, *rest = [line for line in sample if line.strip()] or [""]
    best = "\t" if examined.file.suffix == ".tsv" else ","
    best_score = (0.0, 0)
    for delimiter in DELIMITERS:
        width = len(_split(header, delimiter) or ())
        if width < 2:
            continue
        same = sum(len(_split(line, delimiter) or ()) == width for line in rest)
        score = (same / len(rest) if rest else 1.0, width)
        if score > best_score or (score == best_score and delimiter == best):
            best, best_score = delimiter, score
    return best


def _split(text: str, delimiter: str, *, strict: bool = True) -> list[str] | None:
    try:
        return next(csv.reader([text], delimiter=delimiter, strict=strict), [])
    except csv.Error:
        return None


def _header(texts: _Pushback, delimiter: str, shown: str, cap: int) -> list[str]:
    first = texts.next()
    while first is not None and first.text is not None and not first.text.strip():
        first = texts.next()
    if first is None or first.bad is not None:
        reason = first.bad.reason if first is not None and first.bad is not None else "nothing in it"
        raise DataError(f"no header line: {reason} (D02)", where=shown, remedy="the first line must name the columns")
    try:
        names = _cells(first, texts, delimiter, None, cap)
    except BadRow as bad:
        raise DataError(
            f"the header cannot be read: {bad.reason} ({bad.code})", where=f"{shown}:{first.number}"
        ) from None
    return column_names(names, f"{shown}:{first.number}")


def column_names(cells: Sequence[str], where: str) -> list[str]:
    """The names in a header, "(column 3)" where there is none; DataError when two are alike or all are empty."""
    names = [name.strip() for name in cells]
    folded = [fold_name(n) for n in names if n]
    twice = next((n for n in names if n and folded.count(fold_name(n)) > 1), None)
    if twice is not None:
        what = f"two columns are called {printable(twice)!r} (D09)"
        raise DataError(what, where=where, remedy="give each column its own name")
    if not any(names):
        raise DataError("the header names no column (D02)", where=where, remedy="name the columns in it")
    return [name or f"(column {i})" for i, name in enumerate(names, start=1)]


def _cells(first: _Text, texts: _Pushback, delimiter: str, width: int | None, cap: int) -> list[str]:
    """The cells of the record that starts at `first`, taking further lines while a quoted cell is open."""
    if first.bad is not None:
        raise first.bad
    taken: list[_Text] = []
    record = first.text or ""
    size = len(record)
    quoted, at = _open_after(record, delimiter, False)
    parts = [record]
    while quoted:
        more = texts.next()
        size += len(more.text) + 1 if more is not None and more.text is not None else 0
        if more is None or more.text is None or size > cap:
            texts.back(taken + ([more] if more is not None else []))
            return _alone(record, delimiter, width, f"a quote opened at character {at + 1} is never closed")
        taken.append(more)
        parts.append(more.text)
        quoted, _ = _open_after(more.text, delimiter, True)
    cells = _split("\n".join(parts), delimiter) if not taken else _join(parts, delimiter)
    if cells is not None and (width is None or len(cells) == width):
        return cells
    texts.back(taken)
    if cells is None or taken:
        return _alone(
            record, delimiter, width, f"a stray quote near character {at + 1}: write it twice inside a quoted cell"
        )
    raise BadRow(None, "D43", f"{len(cells)} cells, the header has {width} ({_NAMES[delimiter]}-separated)")


def _join(parts: list[str], delimiter: str) -> list[str] | None:
    try:
        return next(csv.reader([p + "\n" for p in parts[:-1]] + [parts[-1]], delimiter=delimiter, strict=True), [])
    except csv.Error:
        return None


def _alone(record: str, delimiter: str, width: int | None, reason: str) -> list[str]:
    """In tab-separated files quotes are mostly plain characters: the line is taken as it stands when it fits the
    header."""
    if delimiter == "\t" and width is not None and len(cells := record.split("\t")) == width:
        return cells
    raise BadRow(None, "D43", reason)


def _open_after(text: str, delimiter: str, quoted: bool) -> tuple[bool, int]:
    """Whether a quoted cell is still open at the end of the line, and where the last quoted cell began (0-based)."""
    at = opened = 0
    if not quoted and '"' not in text:
        return False, 0
    while True:
        if quoted:
            at = text.find('"', at)
            if at < 0:
                return True, opened
            if text[at + 1 : at + 2] == '"':
                at += 2
                continue
            quoted = False
            at += 1
        elif text[at : at + 1] == '"':
            quoted, opened = True, at
            at += 1
            continue
        at = text.find(delimiter, at)
        if at < 0:
            return False, opened
        at += 1
