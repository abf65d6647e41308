"""Files to a data set: each record becomes a row, a duplicate, or a rejection with its place and reason. None is
lost."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from tailorbird.data import facts as fact
from tailorbird.data.collections import Source
from tailorbird.data.examine import Examined, examine
from tailorbird.data.facts import DataFacts, FileFacts
from tailorbird.data.files import SHEET_SUFFIXES, SourceFile, resolve
from tailorbird.data.json_rows import json_array, json_lines
from tailorbird.data.parquet import parquet_rows
from tailorbird.data.records import BadRow, Item, Record, Remark, Repair
from tailorbird.data.rows import RowReader
from tailorbird.data.shapes import SAMPLE, Shape, understand
from tailorbird.data.spreadsheets import sheet_rows
from tailorbird.data.stream import MAX_LINE_BYTES
from tailorbird.data.tables import table_rows
from tailorbird.data.text import printable
from tailorbird.errors import DataError
from tailorbird.types import Place, Rejected, Row

CheckRow = Callable[[Row], tuple[str, str, str] | None]

CODES = {
    "D03": "cut off or not JSON",
    "D06": "not UTF-8",
    "D08": "several records on one line",
    "D09": "a field twice",
    "D10": "not a finite number",
    "D11": "half a surrogate pair",
    "D12": "nested too deep",
    "D13": "a number of too many digits",
    "D14": "too long a line",
    "D15": "not an object",
    "D16": "a field is missing",
    "D17": "wrong type",
    "D19": "role unknown or out of order",
    "D21": "no text in a turn",
    "D22": "two answers in a row",
    "D25": "empty input",
    "D28": "input longer than the context",
    "D29": "answer longer than the context",
    "D30": "empty answer",
    "D35": "unknown label",
    "D43": "cells do not fit the header",
}


@dataclass(frozen=True, slots=True)
class Dataset:
    rows: tuple[Row, ...]
    rejected: tuple[Rejected, ...]
    facts: DataFacts

    def rejected_records(self) -> Iterator[dict[str, Any]]:
        """What stands in rejected.jsonl; every text can be written as UTF-8."""
        return map(rejected_record, self.rejected)


def rejected_record(rejected: Rejected) -> dict[str, Any]:
    field_name = printable(rejected.field) if rejected.field is not None else None
    return {
        "file": printable(rejected.place.file),
        "line": rejected.place.line,
        "field": field_name,
        "code": rejected.code,
        "reason": printable(rejected.reason),
    }


def items(examined: Examined, *, cap: int = MAX_LINE_BYTES, sheet: str | None = None) -> Iterator[Item]:
    """The records of a file, whatever its format. `sheet`: of a workbook; None is the first that is shown."""
    if examined.format == "sheet":
        return sheet_rows(examined, cap=cap, sheet=sheet)
    readers = {"jsonl": json_lines, "json": json_array, "csv": table_rows, "text": text_lines, "parquet": parquet_rows}
    return readers[examined.format](examined, cap=cap)


def text_lines(examined: Examined, *, cap: int = MAX_LINE_BYTES) -> Iterator[Item]:
    """The lines of a plain text file as records {"text": line}; only inputs to be answered come so."""
    from tailorbird.data.stream import BOM, chunks, lines

    for line in lines(chunks(examined.file, sha256=examined.sha256), newline=examined.newline, cap=cap):
        place = Place(examined.file.shown, line.number)
        if line.data is None:
            yield BadRow(None, "D14", f"longer than {cap:,} bytes").at(place)
        elif not (data := line.data.removeprefix(BOM) if line.number == 1 else line.data).strip():
            yield Repair("D04")
        else:
            try:
                yield Record(place, {"text": data.decode("utf-8")})
            except UnicodeDecodeError as error:
                yield BadRow(None, "D06", f"byte 0x{data[error.start]:02X} is not UTF-8").at(place)


def read(
    paths: Iterable[str | os.PathLike[str] | Source],
    *,
    root: Path,
    shape: str | None = None,
    columns: Mapping[str, str] | None = None,
    group: str | None = None,
    slices: Sequence[str] = (),
    max_bad_share: float = 0.01,
    check_row: CheckRow | None = None,
    classify: bool = False,
    labels: Collection[str] | None = None,
    sheet: str | None = None,
    supervise: Literal["all", "last"] = "all",
    max_line_bytes: int = MAX_LINE_BYTES,
) -> Dataset:
    """All rows of the files, folders and globs in `paths`, which start at `root` when relative. A `Source` among them
    has its own shape and columns, and describes its rows.

    `check_row` gives (field, code, reason) for a row that must not be taken (too long for the base, ...). `classify`:
    the answer of a row is its label, whatever the shape; `labels`: the only ones allowed. `sheet`: of the workbooks.
    `supervise`: which answers of a conversation are learned.
    """
    named = list(paths)
    sources = [one for one in named if isinstance(one, Source)]
    plain = [one for one in named if not isinstance(one, Source)]
    taking = _Taking(check_row)
    options = _Options(shape, columns, group, tuple(slices), classify, labels, sheet, supervise, max_line_bytes)
    for part, source in [*([(plain, None)] if plain or not sources else []), *(([s.path], s) for s in sources)]:
        found = resolve(part, root)
        taking.warnings.extend(found.notes)
        for file in found.files:
            taking.file(examine(file), options if source is None else options.of(source), source)
        own = sheet if source is None else source.sheet
        if own is not None and not any(file.suffix in SHEET_SUFFIXES for file in found.files):
            where = ", ".join(file.shown for file in found.files[:3])
            raise DataError(
                f"sheet {own!r} is named, and there is no workbook", where=where, remedy="leave `sheet` out"
            )
    return taking.dataset(max_bad_share)


def detect(path: str | os.PathLike[str], *, root: Path | None = None) -> Shape:
    """What a file (or the first file of a folder or glob) looks like, from its first records."""
    return understand_file(examine(resolve([path], root or Path.cwd()).files[0]), None, None)[0]


def understand_file(
    examined: Examined,
    shape: str | None,
    columns: Mapping[str, str] | None,
    named: Iterable[str] = (),
    cap: int = MAX_LINE_BYTES,
    sheet: str | None = None,
) -> tuple[Shape, Iterator[Item]]:
    """The shape of a file and all its items; the first `SAMPLE` records decide."""
    where = examined.file.shown
    stream = items(examined, cap=cap, sheet=sheet)
    first, sample = sample_of(stream)
    if not sample:
        bad = [item for item in first if isinstance(item, Rejected)]
        if bad:
            what = f"no record can be read: {bad[0].reason} ({bad[0].code})"
            remedy = "each record must be an object with named fields, like {"
            raise DataError(what, where=str(bad[0].place), remedy=remedy + '"prompt": ..., "completion": ...}')
        remedy = (
            "put rows below the header"
            if examined.format in ("csv", "sheet")
            else "put rows into it, or name another file"
        )
        raise DataError("there are no rows in the file (D02)", where=where, remedy=remedy)
    understood = understand(sample, where, shape=shape, columns=columns, named=named)
    return replace(understood, format=examined.format, notes=examined.notes), chain(first, stream)


def sample_of(stream: Iterator[Item]) -> tuple[list[Item], list[dict[str, Any]]]:
    """The first items of a stream, up to `SAMPLE` records or bad records, and the records among them."""
    first: list[Item] = []
    sample: list[dict[str, Any]] = []
    bad = 0
    while len(sample) < SAMPLE and bad < 1000 and (item := next(stream, None)) is not None:
        first.append(item)
        if isinstance(item, Record):
            sample.append(item.value)
        bad += isinstance(item, Rejected)
    return first, sample


@dataclass(frozen=True, slots=True)
class _Options:
    shape: str | None
    columns: Mapping[str, str] | None
    group: str | None
    slices: tuple[str, ...]
    classify: bool
    labels: Collection[str] | None
    sheet: str | None
    supervise: Literal["all", "last"]
    cap: int

    def of(self, source: Source) -> _Options:
        """The source's own shape and columns before those of the whole collection."""
        own = bool(source.shape or source.columns)
        shape, columns = (source.shape, source.columns) if own else (self.shape, self.columns)
        return replace(self, shape=shape, columns=columns, sheet=source.sheet)


@dataclass(slots=True)
class _Taking:
    """What has been read so far."""

    check_row: CheckRow | None
    rows: dict[str, Row] = field(default_factory=dict)
    rejected: list[Rejected] = field(default_factory=list)
    files: list[FileFacts] = field(default_factory=list)
    shapes: list[Shape] = field(default_factory=list)
    fixed: Counter[str] = field(default_factory=Counter)
    special: Counter[str] = field(default_factory=Counter)
    unused: Counter[str] = field(default_factory=Counter)
    keys: dict[str, Place] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    duplicates: int = 0

    def file(self, examined: Examined, options: _Options, source: Source | None = None) -> None:
        named = [*options.slices, *([options.group] if options.group else [])]
        shape, stream = understand_file(
            examined, options.shape, options.columns, named, options.cap, sheet=options.sheet
        )
        last_only = options.supervise == "last"
        reader = RowReader(shape, options.group, options.slices, options.classify, options.labels, last_only)
        known = {*shape.columns.values(), *named}
        count = 0
        for item in stream:
            if isinstance(item, Repair):
                self.fixed[item.code] += item.count
                continue
            if isinstance(item, Remark):
                self.warnings.append(item.text)
                continue
            count += 1
            if isinstance(item, Rejected):
                self.rejected.append(item)
            else:
                self.unused.update(item.value.keys() - known)
                self._record(item, reader, source)
        self.fixed["D04"] += examined.repairs
        self.fixed.update(reader.fixed)
        self.special.update(reader.special)
        self.shapes.append(shape)
        self.warnings.extend(shape.notes)
        self.files.append(_file_facts(examined, shape, count))

    def _record(self, record: Record, reader: RowReader, source: Source | None) -> None:
        try:
            row = reader.row(record)
            row = row if source is None else source.described(row)
            if self.check_row is not None and (problem := self.check_row(row)) is not None:
                raise BadRow(*problem)
        except BadRow as bad:
            self.rejected.append(bad.at(record.place))
            return
        if row.id in self.rows:
            self.duplicates += 1
            return
        if row.key is not None and row.key in self.keys:
            self.fixed["same id"] += 1
        elif row.key is not None:
            self.keys[row.key] = row.place
        self.rows[row.id] = row

    def dataset(self, max_bad_share: float) -> Dataset:
        total = len(self.rows) + len(self.rejected) + self.duplicates
        self._check_share(total, max_bad_share)
        rows = tuple(self.rows.values())
        return Dataset(rows, tuple(self.rejected), self._facts(rows, total))

    def _check_share(self, total: int, max_bad_share: float) -> None:
        bad = len(self.rejected)
        if not bad or (bad <= max_bad_share * total and self.rows):
            return
        top = Counter(r.code for r in self.rejected).most_common(5)
        examples = {r.code: r for r in reversed(self.rejected)}
        lines = [f"  {code} {CODES.get(code, '')}: {count:,}, first {_example(examples[code])}" for code, count in top]
        share = f"{100 * bad / total:.1f} %"
        what = f"{bad:,} of {total:,} rows ({share}) cannot be used, at most {100 * max_bad_share:g} % may (D48)"
        places = ", ".join(f.path for f in self.files[:3]) + (" ..." if len(self.files) > 3 else "")
        remedy = "mend these rows, or raise max_bad_share in the spec to go on without them"
        raise DataError("\n".join([what, *lines]), where=places, remedy=remedy)

    def _facts(self, rows: Sequence[Row], total: int) -> DataFacts:
        fixed = {**self.fixed, "D31": self.duplicates}
        same_id = fixed.pop("same id", 0)
        contradictions = fact.contradictions(rows)
        warnings = [*self.warnings, *fact.label_warnings(rows)]
        if contradictions:
            first = ", ".join(contradictions[0]["places"][:3])
            warnings.append(f"{len(contradictions):,} input(s) stand with different answers (D32), first: {first}")
        if self.unused:
            named = ", ".join(f"{printable(k)} ({n:,})" for k, n in self.unused.most_common(8))
            warnings.append(f"columns that nothing reads (D18): {named}" + (" ..." if len(self.unused) > 8 else ""))
        if same_id:
            warnings.append(
                f"{same_id:,} row(s) have an id that an earlier row has: answers files cannot tell them apart by it"
            )
        return DataFacts(
            files=tuple(self.files),
            rows=total,
            accepted=len(rows),
            rejected=dict(sorted(Counter(r.code for r in self.rejected).items())),
            fixed={code: count for code, count in sorted(fixed.items()) if count},
            duplicates=self.duplicates,
            contradictions=tuple(contradictions[: fact.SHOWN_CONTRADICTIONS]),
            contradiction_count=len(contradictions),
            labels=fact.label_counts(rows),
            characters=fact.characters(rows),
            special_tokens=dict(self.special.most_common()),
            groups=len({row.group for row in rows if row.group is not None}),
            columns=self.shapes[0].columns,
            shape=self.shapes[0].name,
            warnings=tuple(warnings),
        )


def _example(rejected: Rejected) -> str:
    field_name = f"{printable(rejected.field)}: " if rejected.field else ""
    return f"{printable(str(rejected.place))}: {field_name}{printable(rejected.reason)}"


def _file_facts(examined: Examined, shape: Shape, count: int) -> FileFacts:
    source: SourceFile = examined.file
    return FileFacts(
        path=source.shown,
        size=source.size,
        sha256=examined.sha256,
        rows=count,
        shape=shape.name,
        encoding=examined.encoding,
        format=examined.format,
        columns=dict(shape.columns),
    )
