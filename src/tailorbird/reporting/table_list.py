"""A prompt table as a table for people."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from tailorbird.types import JSON


def rows(listed: JSON) -> Table:
    """One line a version; an older version is named by its hash."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    numbers = ("tokens", "bytes", "score", "n", "forgets")  # bits per byte on general texts
    for head in ("task", "technique", *numbers, "identity", "made"):
        # In a narrow terminal these go over lines; nothing is cut: names and hashes are typed again.
        wraps = head in ("task", "technique", "score")
        table.add_column(
            head,
            justify="right" if head in numbers else "left",
            no_wrap=not wraps,
            overflow="fold" if wraps else "ellipsis",
        )
    newest = {row["task"]: row["version"] for row in listed["tasks"]}
    for row in listed["tasks"]:
        name = row["task"] if row["version"] == newest[row["task"]] else row["name"]
        identity = row["identity"].removeprefix("sha256:")[:12]
        cells = [name, row["technique"], f"{row['virtual_tokens']}", f"{row['bytes']:,}", _score(row)]
        cells += [_number(row["n"], "d"), _number(row["forgetting"], "+.3f"), identity]
        table.add_row(*(Text(cell) for cell in (*cells, str(row["made_at"] or row["added_at"])[:10])))
    return table


def _score(row: JSON) -> str:
    if row["score"] is None:
        return "not measured"
    low, high = (_number(row[end], ".2f") for end in ("low", "high"))
    return f"{row['score']:.2f} [{low}, {high}] {row['split']}"


def _number(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)
