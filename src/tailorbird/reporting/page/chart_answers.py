"""An answer curve: the score against the number of Train rows, each point with its interval."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tailorbird.reporting.numbers import count, is_number
from tailorbird.reporting.page.svg import Markup, Picture, linear, ticks
from tailorbird.types import JSON

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 340.0, 200.0, 48.0, 326.0, 14.0, 164.0


def chart(label: str, number: int, curve: JSON, tick: Callable[[float], str]) -> Markup | None:
    """None for fewer than two points. `tick` writes a score."""
    points: list[dict[str, Any]] = [
        p for p in curve.get("points") or [] if all(is_number(p.get(k)) for k in ("rows", "score", "low", "high"))
    ]
    if len(points) < 2:
        return None
    told = "; ".join(f"{count(p['rows'])} rows {tick(round(p['score'], 3))}" for p in points)
    picture = Picture(WIDTH, HEIGHT, f"Score of {label} against the rows it learned from", told, f"answers-{number}")
    low, high = min(p["low"] for p in points), max(p["high"] for p in points)
    air = 0.05 * (high - low or 1.0)
    most = max(p["rows"] for p in points)
    x, y = linear(0.0, most, LEFT, RIGHT - 12), linear(max(0.0, low - air), min(1.0, high + air), BOTTOM, TOP)
    for value in ticks(max(0.0, low - air), min(1.0, high + air), 4):
        picture.line(LEFT, y(value), RIGHT, y(value), "grid")
        picture.text(LEFT - 6, y(value) + 4, tick(value), "tick", "end")
    for value in ticks(0.0, most, 5):
        picture.text(x(value), BOTTOM + 16, count(value), "tick", "middle")
    picture.text((LEFT + RIGHT) / 2, HEIGHT - 2, "Train rows", "tick", "middle")
    picture.path([(x(p["rows"]), y(p["score"])) for p in points], "curve tuning")
    for p in points:
        at = x(p["rows"])
        picture.line(at, y(p["low"]), at, y(p["high"]), "whisker technique")
        for end in (p["low"], p["high"]):
            picture.line(at - 3.5, y(end), at + 3.5, y(end), "whisker technique")
        picture.mark(at, y(p["score"]), "technique", "", 4.4)
    return picture.markup()
