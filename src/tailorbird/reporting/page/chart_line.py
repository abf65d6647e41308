"""A figure along a number: one line of points, each with its interval where it has one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tailorbird.reporting.page.svg import CHARACTER, Markup, Picture, linear, logarithmic, ticks

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 340.0, 200.0, 60.0, 326.0, 14.0, 164.0
FAR_APART = 10.0  # largest over smallest: from there on the axis is logarithmic


@dataclass(frozen=True)
class Point:
    at: float
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class LineChart:
    """`name`: unique on the page. `along`: what is written below the axis; `at_tick` and `tick` write its numbers and
    the figure's. `floor`, `ceiling`: what the figure cannot pass. `named`: the axis has the points' own numbers, and is
    logarithmic where they lie far apart; else it begins at 0.
    """

    name: str
    title: str
    along: str
    points: Sequence[Point]
    at_tick: Callable[[float], str]
    tick: Callable[[float], str]
    floor: float = 0.0
    ceiling: float | None = None
    named: bool = False


def chart(line: LineChart) -> Markup | None:
    """None for fewer than two points."""
    points = sorted(line.points, key=lambda p: p.at)
    if len(points) < 2:
        return None
    told = "; ".join(f"{line.at_tick(p.at)}: {line.tick(round(p.value, 3))}" for p in points)
    picture = Picture(WIDTH, HEIGHT, line.title, told, line.name)
    low, high = _bounds(line)
    x, y = _across(line, points), linear(low, high, BOTTOM, TOP)
    for value in ticks(low, high, 4):
        picture.line(LEFT, y(value), RIGHT, y(value), "grid")
        picture.text(LEFT - 6, y(value) + 4, line.tick(value), "tick", "end")
    free = 0.0
    for value in sorted({p.at for p in points}) if line.named else ticks(0.0, points[-1].at, 5):
        text = line.at_tick(value)
        if x(value) - len(text) * CHARACTER / 2 >= free:
            picture.text(x(value), BOTTOM + 16, text, "tick", "middle")
            free = x(value) + len(text) * CHARACTER / 2 + 4
    along = f"{line.along}, logarithmic" if _far_apart(line, points) else line.along
    picture.text((LEFT + RIGHT) / 2, HEIGHT - 6, along, "tick", "middle")
    picture.path([(x(p.at), y(p.value)) for p in points], "curve tuning")
    for p in points:
        if p.low is not None and p.high is not None:
            picture.line(x(p.at), y(p.low), x(p.at), y(p.high), "whisker technique")
            for end in (p.low, p.high):
                picture.line(x(p.at) - 3.5, y(end), x(p.at) + 3.5, y(end), "whisker technique")
        picture.mark(x(p.at), y(p.value), "technique", "", 4.4)
    return picture.markup()


def _bounds(line: LineChart) -> tuple[float, float]:
    ends = [v for p in line.points for v in (p.value, p.low, p.high) if v is not None]
    air = 0.05 * (max(ends) - min(ends) or abs(max(ends)) or 1.0)
    high = max(ends) + air
    return max(line.floor, min(ends) - air), high if line.ceiling is None else min(line.ceiling, high)


def _far_apart(line: LineChart, points: Sequence[Point]) -> bool:
    return line.named and points[0].at > 0 and points[-1].at / points[0].at >= FAR_APART


def _across(line: LineChart, points: Sequence[Point]) -> Callable[[float], float]:
    first, last = points[0].at, points[-1].at
    if not line.named:
        return linear(0.0, last, LEFT, RIGHT - 12)
    if _far_apart(line, points):
        return logarithmic(first, last, LEFT + 12, RIGHT - 12)
    return linear(first, last, LEFT + 12, RIGHT - 12)
