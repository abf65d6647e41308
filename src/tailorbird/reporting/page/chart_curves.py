"""Learning curves: one small picture a trained contestant, training loss as a line, Tuning loss as dots on a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tailorbird.reporting.numbers import count, is_number, plain
from tailorbird.reporting.page.svg import Markup, Picture, linear, ticks

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 340.0, 190.0, 40.0, 328.0, 14.0, 158.0
MOST_POINTS = 240  # more cannot be told apart in 288 pixels

Points = list[tuple[float, float]]


def series(curve: Sequence[Mapping[str, Any]], field: str) -> Points:
    """(step, value) where the value is a finite number."""
    return [(float(p["step"]), float(p[field])) for p in curve if is_number(p.get("step")) and is_number(p.get(field))]


def thinned(points: Points) -> Points:
    """Means of neighbouring points, so that a long run stays a small picture."""
    if len(points) <= MOST_POINTS:
        return points
    size = -(-len(points) // MOST_POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(s for s, _ in g) / len(g), sum(v for _, v in g) / len(g)) for g in groups]


def chart(label: str, number: int, curve: Sequence[Mapping[str, Any]]) -> Markup | None:
    """None when nothing finite was recorded."""
    loss, tuning = thinned(series(curve, "loss")), thinned(series(curve, "tuning_loss"))
    if not loss and not tuning:
        return None
    told = f"Training loss {plain(loss[0][1], 2)} at first, {plain(loss[-1][1], 2)} at the end." if loss else ""
    if tuning:
        best = min(tuning, key=lambda p: p[1])
        told += f" Lowest Tuning loss {plain(best[1], 2)} at step {count(best[0])}."
    picture = Picture(WIDTH, HEIGHT, f"Learning curve of {label}", told, f"curve-{number}")
    steps = [s for s, _ in loss + tuning]
    values = [v for _, v in loss + tuning]
    high = max(values) * 1.05 or 1.0
    low = min(0.0, min(values))
    x, y = linear(min(steps), max(steps), LEFT + 6, RIGHT - 6), linear(low, high, BOTTOM, TOP)
    for value in ticks(low, high, 4):
        picture.line(LEFT, y(value), RIGHT, y(value), "grid")
        picture.text(LEFT - 6, y(value) + 4, f"{value:g}", "tick", "end")
    for value in ticks(min(steps), max(steps), 4):
        if value == int(value):
            picture.text(x(value), BOTTOM + 16, count(value), "tick", "middle")
    picture.text((LEFT + RIGHT) / 2, HEIGHT - 2, "step", "tick", "middle")
    picture.path([(x(s), y(v)) for s, v in loss], "curve loss")
    picture.path([(x(s), y(v)) for s, v in tuning], "curve tuning")
    for s, v in tuning:
        picture.add("circle", cx=x(s), cy=y(v), r=2.8, class_="dot tuning")
    return picture.markup()
