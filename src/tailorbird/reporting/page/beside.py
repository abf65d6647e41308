"""Contestants of one technique that differ in a single numeric setting: score, size and latency along it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from tailorbird.reporting import numbers
from tailorbird.reporting.contestants import done, in_order, measured, metric_name
from tailorbird.reporting.page.chart_line import LineChart, Point, chart
from tailorbird.reporting.text import printable
from tailorbird.types import JSON

Group = tuple[str, str, list[JSON]]
FIGURES: tuple[tuple[str, Callable[[float], str], Callable[[JSON], Any]], ...] = (
    ("To deploy beyond the base", numbers.size, lambda cost: cost.get("deployed_bytes")),
    (
        "Latency of one request alone, median",
        numbers.milliseconds,
        lambda cost: (cost.get("latency_ms") or {}).get("median"),
    ),
)


def groups(comparison: JSON) -> list[Group]:
    """(technique, setting, contestants): what was asked of these is the same but for that setting, whose effective
    values are numbers and not all one. What follows from it, as a width from a rank, may differ, too."""
    rows = [row for row in in_order(comparison) if done(row) and row["technique"] and not row.get("tuning")]
    found: dict[tuple[str, str, str], list[JSON]] = {}
    for row in rows:
        asked, effective = (row["settings"].get(name) or {} for name in ("asked", "effective"))
        for name in (n for n, value in effective.items() if numbers.is_number(value)):
            others = {key: value for key, value in asked.items() if key != name}
            rest = json.dumps([row.get("after"), others], sort_keys=True, default=str)
            found.setdefault((row["technique"], name, rest), []).append(row)
    several = {key: one for key, one in found.items() if len({_at(row, key[1]) for row in one}) > 1}
    return [(technique, name, one) for (technique, name, _), one in several.items()]


def _at(row: JSON, name: str) -> float:
    return float(row["settings"]["effective"][name])


def beside(comparison: JSON, score_tick: Callable[[float], str]) -> list[dict[str, Any]]:
    """For the page: {"technique", "setting", "labels", "pictures": [(caption, chart)]} of each group."""
    shown = []
    for number, (technique, name, rows) in enumerate(groups(comparison)):
        pictures = []
        for place, (caption, tick, points, ceiling) in enumerate(_figures(comparison, rows, name, score_tick)):
            title, unique = f"{caption} of {technique} along {name}", f"beside-{number}-{place}"
            line = LineChart(unique, title, name, points, numbers.setting, tick, ceiling=ceiling, named=True)
            if (picture := chart(line)) is not None:
                pictures.append((caption, picture))
        if pictures:
            labels = [printable(row["label"]) for row in sorted(rows, key=lambda row: _at(row, name))]
            shown.append({"technique": technique, "setting": name, "labels": labels, "pictures": pictures})
    return shown


def _figures(
    comparison: JSON, rows: list[JSON], name: str, score_tick: Callable[[float], str]
) -> Iterator[tuple[str, Callable[[float], str], list[Point], float | None]]:
    """(caption, how its numbers are written, points, what they cannot pass)"""
    yield f"Score on Validation ({metric_name(comparison['metric'])})", score_tick, _scores(rows, name), 1.0
    for caption, tick, read in FIGURES:
        costs = [(_at(row, name), read(row.get("cost") or {})) for row in rows]
        yield caption, tick, [Point(at, value) for at, value in costs if numbers.is_number(value)], None


def _scores(rows: list[JSON], name: str) -> list[Point]:
    points = []
    for row in rows:
        found = measured(row, "validation")
        if found:
            low, high = (found[end] if numbers.is_number(found.get(end)) else None for end in ("low", "high"))
            points.append(Point(_at(row, name), found["score"], low, high))
    return points
