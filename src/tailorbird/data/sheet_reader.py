"""A workbook's sheet as JSON lines, in a process of its own: `python -P sheet_reader.py [SHEET]`, the file on stdin.

A workbook of a few kilobytes can ask for more memory than there is (one cell at the far corner of a sheet is enough),
and the library then ends the process it runs in. So it runs here, under limits, and knows nothing of tailorbird.

First line: {"sheets": […], "sheet": name}, or {"error": "password" | "sheet" | "empty" | "broken", "detail": …}; then
one list of cells a row, from the sheet's first row on. Cells are text already:

    whole number    12            up to 15 digits, which is what a spreadsheet keeps; beyond that 1.23e+17
    other number    2.5           the shortest text that is the same number
    date, time      2024-05-31, 2024-05-31 14:05:00, 14:05:00; a duration 26:05:00
    truth           TRUE, FALSE, as a sheet shows them
    empty, error    (empty text)
"""

from __future__ import annotations

import datetime
import io
import json
import sys
from typing import Any

MEMORY_BYTES = 2 << 30
CPU_SECONDS = 60
EXACT = 10**15


def main() -> None:
    limit()
    content = sys.stdin.buffer.read()
    import python_calamine as calamine

    wanted = sys.argv[1] if len(sys.argv) > 1 else None
    try:
        book = calamine.CalamineWorkbook.from_object(io.BytesIO(content))
        names = [str(m.name) for m in book.sheets_metadata if str(m.typ).endswith("WorkSheet")]
        shown = [str(m.name) for m in book.sheets_metadata if str(m.visible).endswith(".Visible") and m.name in names]
        if wanted is not None and wanted not in names:
            return tell({"error": "sheet", "detail": names})
        if wanted is None and not shown:
            return tell({"error": "empty", "detail": names})
        name = wanted if wanted is not None else shown[0]
        rows = book.get_sheet_by_name(name).to_python(skip_empty_area=False)
    except calamine.PasswordError:
        return tell({"error": "password", "detail": ""})
    except (calamine.CalamineError, ValueError, OSError) as error:
        return tell({"error": "broken", "detail": f"{type(error).__name__}: {error}"[:200]})
    tell({"sheets": names, "sheet": name})
    for row in rows:
        tell([text(cell) for cell in row])
    return None


def limit() -> None:
    """Memory and processor time, where the system can limit them."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))


def text(cell: Any) -> str:
    if isinstance(cell, str):
        return cell
    if isinstance(cell, bool):
        return str(cell).upper()
    if isinstance(cell, int | float):
        whole = abs(cell) < EXACT and cell == int(cell)
        return str(int(cell)) if whole else repr(float(cell))
    if isinstance(cell, datetime.datetime):
        midnight = cell.time() == datetime.time()
        return cell.date().isoformat() if midnight else cell.isoformat(sep=" ", timespec="seconds")
    if isinstance(cell, datetime.date):
        return cell.isoformat()
    if isinstance(cell, datetime.time):
        return cell.isoformat(timespec="seconds")
    if isinstance(cell, datetime.timedelta):
        seconds = round(cell.total_seconds())
        hours, rest = divmod(abs(seconds), 3600)
        return f"{'-' if seconds < 0 else ''}{hours:02}:{rest // 60:02}:{rest % 60:02}"
    return ""


def tell(value: Any) -> None:
    sys.stdout.buffer.write(json.dumps(value).encode() + b"\n")


if __name__ == "__main__":
    main()
