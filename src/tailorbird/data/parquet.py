"""Records of a Parquet file, streamed by row group in batches, with their 1-based number as place."""

from __future__ import annotations

import datetime
import decimal
import math
import os
from collections.abc import Iterator
from typing import Any

from tailorbird.data.examine import Examined
from tailorbird.data.records import BadRow, Item, Record
from tailorbird.data.stream import MAX_LINE_BYTES
from tailorbird.data.text import fold_name, printable
from tailorbird.errors import DataError, SafetyError
from tailorbird.types import Place

BATCH_ROWS = 256
MAX_GROUP_BYTES = 4 << 30  # unpacked, of one row group: what must be held at once in the worst case
_DAMAGED = "write it again, or export its rows as JSONL"


def parquet_rows(examined: Examined, *, cap: int = MAX_LINE_BYTES, sheet: str | None = None) -> Iterator[Item]:
    """One record a row. Dates are ISO text, decimals and bytes of UTF-8 text; a missing value is null."""
    import pyarrow
    from pyarrow import parquet

    shown = examined.file.shown
    try:
        with open(examined.file.path, "rb") as stream, parquet.ParquetFile(stream) as file:
            _check(file, shown)
            number = 0
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                for value in batch.to_pylist():
                    number += 1
                    yield _item(value, Place(shown, number), cap)
            now = os.fstat(stream.fileno())
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"the Parquet file is damaged: {reason} (D44)", where=shown, remedy=_DAMAGED) from None
    if (now.st_size, now.st_mtime_ns) != (examined.file.size, examined.file.mtime_ns):
        raise DataError(
            "changed while it was read (D47)", where=shown, remedy="wait until it is written, then start again"
        )


def _check(file: Any, shown: str) -> None:
    """Before a row is unpacked: the size of its groups, and names that tell the columns apart."""
    metadata = file.metadata
    largest = max((metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)), default=0)
    if largest > MAX_GROUP_BYTES:
        raise SafetyError(
            f"a row group unpacks to {largest / 1e9:.1f} GB, at most {MAX_GROUP_BYTES / 1e9:.1f} GB may be (D45)",
            where=shown,
            remedy="write it with smaller row groups",
        )
    names = list(file.schema_arrow.names)
    folded = [fold_name(name) for name in names]
    if twice := next((n for n in names if folded.count(fold_name(n)) > 1), None):
        what = f"two columns are called {printable(twice)!r} (D09)"
        raise DataError(what, where=shown, remedy="give each column its own name")


def _item(value: dict[str, Any], place: Place, cap: int) -> Item:
    try:
        plain = {name: _plain(cell, name) for name, cell in value.items()}
    except BadRow as bad:
        return bad.at(place)
    if sum(len(cell) for cell in plain.values() if isinstance(cell, str)) > cap:
        return BadRow(None, "D14", f"longer than {cap:,} characters").at(place)
    return Record(place, plain)


def _plain(cell: Any, name: str) -> Any:
    """A cell in JSON's terms. NaN is how tables write a missing value."""
    if isinstance(cell, float):
        return None if math.isnan(cell) else cell
    if isinstance(cell, list | tuple):
        return [_plain(one, name) for one in cell]
    if isinstance(cell, dict):
        return {key: _plain(one, name) for key, one in cell.items()}
    if isinstance(cell, bytes):
        try:
            return cell.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadRow(name, "D06", f"byte 0x{cell[error.start]:02X} at place {error.start} is not UTF-8") from None
    if isinstance(cell, datetime.datetime):
        midnight = cell.time() == datetime.time() and cell.tzinfo is None
        return cell.date().isoformat() if midnight else cell.isoformat(sep=" ")
    if isinstance(cell, datetime.date | datetime.time):
        return cell.isoformat()
    if isinstance(cell, datetime.timedelta | decimal.Decimal):
        return str(cell)
    return cell
