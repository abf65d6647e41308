"""The ranked table of a comparison: in a terminal (80 to 120 columns) and as Markdown for tickets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tailorbird.reporting import numbers, repeats
from tailorbird.reporting.contestants import best_technique, done, in_order, measured, metric_name, short
from tailorbird.reporting.text import markdown_cell, printable
from tailorbird.reporting.verdict import verdict
from tailorbird.types import JSON

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult

__all__ = ["RankedTable", "markdown", "ranked_table", "verdict"]

Cell = tuple[str, str]  # main line, quieter second line


@dataclass(frozen=True)
class Column:
    """One column: its heading, what it shows of a row, and the terminal width from which it is shown."""

    heading: str
    cell: Callable[[JSON, JSON], Cell]
    from_width: int = 0
    second_from: int = 0  # the width from which the second line is shown
    right: bool = True


def score_cell(split: str) -> Callable[[JSON, JSON], Cell]:
    def cell(row: JSON, comparison: JSON) -> Cell:
        found, metric = measured(row, split), comparison["metric"]
        if not found:
            return "", ""
        return numbers.score(found["score"], metric), numbers.interval(found.get("low"), found.get("high"), metric)

    return cell


def label_cell(row: JSON, comparison: JSON) -> Cell:
    chosen = (comparison.get("recommendation") or {}).get("label") == row["label"]
    kept = (comparison.get("recommendation") or {}).get("kept") == row["label"]
    after = " (after Test)" if row.get("after_test") else ""
    return ("▶ " if chosen or kept else "  ") + printable(row["label"]), "  " + printable(what_it_is(row)) + after


def what_it_is(row: JSON) -> str:
    """A few words; of a contestant with several seeds how many, which its interval speaks of."""
    return repeats.seeds_of(row) or short(row)


def against_best(row: JSON) -> JSON | None:
    """The Validation difference to the best technique, as every table and chart shows it."""
    found = (row.get("versus_best") or {}).get("validation")
    return found if isinstance(found, dict) and numbers.is_number(found.get("difference")) else None


def difference_cell(row: JSON, comparison: JSON) -> Cell:
    best = best_technique(comparison)
    if best is not None and best["label"] == row["label"]:
        return "best", ""
    found, metric = against_best(row), comparison["metric"]
    if found is None:
        return "", ""
    low, high = numbers.difference(found.get("low"), metric), numbers.difference(found.get("high"), metric)
    return numbers.difference(found["difference"], metric), f"{low}…{high}"


def forgetting_cell(row: JSON, comparison: JSON) -> Cell:
    found = row.get("forgetting") or {}
    change = found.get("bits_per_byte") or {}
    if found.get("state") != "measured" or not numbers.is_number(change.get("change")):
        return numbers.UNKNOWN, ""
    if change["change"] == 0:
        return "0", "exactly"
    return numbers.bits(change["change"]), ""


def latency_cell(row: JSON, comparison: JSON) -> Cell:
    latency = (row.get("cost") or {}).get("latency_ms") or {}
    if not numbers.is_number(latency.get("median")):
        return numbers.UNKNOWN, ""
    return numbers.milliseconds(latency["median"]), f"p95 {numbers.milliseconds(latency.get('p95'))}"


def size_cell(row: JSON, comparison: JSON) -> Cell:
    return numbers.size((row.get("cost") or {}).get("deployed_bytes")), ""


def train_cell(row: JSON, comparison: JSON) -> Cell:
    cost = row.get("cost") or {}
    memory = cost.get("peak_memory_mb")
    peak = numbers.scaled(memory * 1e6, "B") if numbers.is_number(memory) else ""
    return numbers.seconds(cost.get("train_seconds")), peak


def prompt_cell(row: JSON, comparison: JSON) -> Cell:
    tokens = (row.get("cost") or {}).get("prompt_tokens")
    return (numbers.count(tokens), "tokens") if numbers.is_number(tokens) else (numbers.UNKNOWN, "")


COLUMNS = (
    Column("contestant", label_cell, right=False),
    Column("Validation", score_cell("validation")),
    Column("Test", score_cell("test")),
    Column("to best", difference_cell),
    Column("forgets", forgetting_cell),
    Column("latency", latency_cell, second_from=100),
    Column("size", size_cell),
    Column("training", train_cell, from_width=92),
    Column("prompt", prompt_cell, from_width=104),
)


class RankedTable:
    """A rich renderable that chooses its columns by the width it is given."""

    def __init__(self, comparison: JSON) -> None:
        self.comparison = comparison

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.table(options.max_width)
        yield from self.footnotes()

    def table(self, width: int) -> Any:
        from rich import box
        from rich.table import Table

        columns = [column for column in COLUMNS if width >= column.from_width]
        table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False, header_style="bold")
        for column in columns:
            justify: JustifyMethod = "right" if column.right else "left"
            table.add_column(column.heading, justify=justify, no_wrap=True, overflow="ellipsis")
        for row in in_order(self.comparison):
            table.add_row(*self.cells(row, columns, width))
        return table

    def cells(self, row: JSON, columns: list[Column], width: int) -> list[Any]:
        from rich.text import Text

        if done(row):
            return [self.text(column, row, width) for column in columns]
        state = Text(row["state"], style="red" if row["state"] == "failed" else "dim")
        return [self.text(columns[0], row, width), state, *[""] * (len(columns) - 2)]

    def text(self, column: Column, row: JSON, width: int) -> Any:
        from rich.text import Text

        main, second = column.cell(row, self.comparison)
        chosen = main.startswith("▶")
        text = Text(main, style="bold green" if chosen else ("" if main != numbers.UNKNOWN else "dim"))
        if second.strip() and width >= column.second_from:
            text.append("\n" + second, style="dim not bold")
        return text

    def footnotes(self) -> list[Any]:
        from rich.text import Text

        notes = [Text(line, style="dim") for line in footnotes(self.comparison)]
        return [Text(""), *notes]


def ranked_table(comparison: JSON) -> RankedTable:
    """The comparison as a table for `rich.print`; two lines a row: the number, and under it its interval."""
    return RankedTable(comparison)


def footnotes(comparison: JSON) -> list[str]:
    """What the columns mean, and why a row has no numbers."""
    metric = comparison["metric"]
    unit = "percentage points" if metric in numbers.SHARES else "units of the score"
    sizes = comparison.get("splits", {})
    lines = [
        f"Score: {metric_name(metric)} with its 95 % interval; "
        f"Validation {sizes.get('validation', '?')} rows, Test {sizes.get('test', '?')} rows.",
        f"To best: Validation difference to the best technique, {unit}, 95 % interval.",
        "Forgets: more bits per byte of general text than the base. Latency: one request, median. "
        "Size: beyond the base.",
    ]
    lines += repeats.seeds(comparison)
    for row in in_order(comparison):
        if sentence := repeats.more_labels(row, comparison):
            lines.append(f"{printable(row['label'])}: {sentence}")
        if row.get("note"):
            lines.append(f"{printable(row['label'])}, {row['state']}: {printable(row['note'])}")
    return lines


def markdown(comparison: JSON, folder: str | None = None) -> str:
    """The table and the verdict for an issue or a ticket; cell text is escaped, so that it stays text."""
    heads = ["", "contestant", "what it is", "Validation", "Test", "to best", "forgets", "latency", "size", "training"]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * 3 + " ---: |" * 7]
    chosen = comparison.get("recommendation") or {}
    for row in in_order(comparison):
        mark = "▶" if row["label"] in (chosen.get("label"), chosen.get("kept")) else ""
        cells = [
            mark,
            f"**{markdown_cell(row['label'])}**" if mark else markdown_cell(row["label"]),
            markdown_cell(", ".join(part for part in (short(row), repeats.seeds_of(row)) if part)),
        ]
        cells += [markdown_cell(text) for text in markdown_numbers(row, comparison)]
        lines.append("| " + " | ".join(cells) + " |")
    notes = [f"- {markdown_cell(line)}" for line in footnotes(comparison)]
    said = [
        markdown_cell(line)
        for line in verdict(comparison, folder, commands=False, width=None).splitlines()
        if line.strip()
    ]
    first, rest = said[0], [" ".join(line.split()) for line in said[1:]]
    return "\n".join([f"**{first}**", "", *[f"{line}  " for line in rest], "", *lines, "", *notes, ""])


def markdown_numbers(row: JSON, comparison: JSON) -> list[str]:
    if not done(row):
        return [row["state"], *[""] * 6]

    def cell(parts: Cell, pattern: str = "{} ({})") -> str:
        return pattern.format(*parts) if parts[1] else parts[0]

    return [
        cell(score_cell("validation")(row, comparison)),
        cell(score_cell("test")(row, comparison)),
        cell(difference_cell(row, comparison)),
        cell(forgetting_cell(row, comparison)),
        cell(latency_cell(row, comparison)),
        size_cell(row, comparison)[0],
        train_cell(row, comparison)[0],
    ]
