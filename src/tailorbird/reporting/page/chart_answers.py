"""An answer curve: the score against the number of Train rows, each point with its interval."""

from __future__ import annotations

from collections.abc import Callable

from tailorbird.reporting.numbers import count, is_number
from tailorbird.reporting.page.chart_line import LineChart, Point
from tailorbird.reporting.page.chart_line import chart as line_chart
from tailorbird.reporting.page.svg import Markup
from tailorbird.types import JSON


def chart(label: str, number: int, curve: JSON, tick: Callable[[float], str]) -> Markup | None:
    """None for fewer than two points. `tick` writes a score."""
    points = [
        Point(p["rows"], p["score"], p["low"], p["high"])
        for p in curve.get("points") or []
        if all(is_number(p.get(k)) for k in ("rows", "score", "low", "high"))
    ]
    title = f"Score of {label} against the rows it learned from"
    return line_chart(LineChart(f"answers-{number}", title, "Train rows", points, count, tick, ceiling=1.0))
