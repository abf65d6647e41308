"""Charts with one row a contestant: a value with its interval on a common axis (scores, differences, forgetting)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tailorbird.reporting.page.svg import CHARACTER, NARROW, Markup, Picture, both, fitted, linear, ticks

ROW, NARROW_ROW, HEAD, FOOT = 34, 50, 26, 30


@dataclass(frozen=True)
class Reading:
    """One value with its interval; `css` says which split or meaning it has."""

    value: float
    low: float | None = None
    high: float | None = None
    css: str = ""


@dataclass(frozen=True)
class Line:
    """A contestant's row. `told` is the number written at its end."""

    label: str
    kind: str
    readings: Sequence[Reading]
    told: str
    chosen: bool = False


@dataclass(frozen=True)
class Guide:
    """A vertical line or band of the axis with its name."""

    at: float
    name: str
    until: float | None = None


@dataclass(frozen=True)
class Rows:
    """All that one chart of rows needs. `tick` writes an axis number; the axis stays inside floor and ceiling."""

    name: str
    title: str
    description: str
    lines: Sequence[Line]
    tick: Callable[[float], str]
    guides: Sequence[Guide] = ()
    floor: float | None = None
    ceiling: float | None = None


def chart(rows: Rows) -> Markup:
    return both(lambda width, css: draw(rows, width, css))


def bounds(rows: Rows) -> tuple[float, float]:
    """The axis: all values, intervals and guides, with a little air, inside what is possible."""
    values = [v for line in rows.lines for r in line.readings for v in (r.value, r.low, r.high) if v is not None]
    values += [*(g.at for g in rows.guides), *(g.until for g in rows.guides if g.until is not None)]
    low, high = min(values, default=0.0), max(values, default=1.0)
    air = 0.04 * (high - low or 1.0)
    low, high = low - air, high + air
    if rows.floor is not None:
        low = max(low, rows.floor)
    if rows.ceiling is not None:
        high = min(high, rows.ceiling)
    return low, high


def draw(rows: Rows, width: float, css: str) -> Picture:
    narrow = width == NARROW
    pitch = NARROW_ROW if narrow else ROW
    longest = max((len(line.label) for line in rows.lines), default=0)
    told = max((len(line.told) for line in rows.lines), default=0) * CHARACTER + 10
    left = 8.0 if narrow else min(190.0, longest * CHARACTER + 28)
    right = width - (10.0 if narrow else told + 6)
    height = HEAD + pitch * len(rows.lines) + FOOT
    picture = Picture(width, height, rows.title, rows.description, f"{rows.name}-{css}", css)
    low, high = bounds(rows)
    scale = linear(low, high, left + 4, right - 4)
    for index, line in enumerate(rows.lines):
        if line.chosen:
            picture.add("rect", x=0, y=HEAD + index * pitch + 1, width=width, height=pitch - 2, rx=5, class_="chosen")
    axis(picture, rows, scale, low, high, left, right, height, narrow)
    for index, line in enumerate(rows.lines):
        top = HEAD + index * pitch
        middle = top + (34 if narrow else pitch / 2)
        name_y = top + 16 if narrow else middle + 4
        room = right - told if narrow else left - 26
        picture.mark(9, name_y - 4, line.kind, size=3.6)
        picture.text(20, name_y, fitted(line.label, room), "name strong over" if line.chosen else "name halo")
        picture.text(width - 6, name_y, line.told, "value", "end")
        for place, reading in enumerate(line.readings):
            y = middle + (place - (len(line.readings) - 1) / 2) * 11
            if reading.value < low:  # left of the axis: an arrow, not a point where it does not belong
                x = scale(low)
                picture.path([(x + 8, y - 5), (x, y), (x + 8, y + 5)], f"arrow {line.kind}")
                continue
            if reading.low is not None and reading.high is not None:
                css_class, cut = f"whisker {line.kind} {reading.css}", reading.low < low
                picture.whiskers(scale(reading.low), scale(reading.high), y, css_class, cut=cut)
            picture.mark(scale(reading.value), y, line.kind, reading.css, 4.4)
    return picture


def axis(
    picture: Picture, rows: Rows, scale: Callable[[float], float], low: float, high: float, left: float, right: float,
    height: float, narrow: bool,
) -> None:  # fmt: skip
    bottom = height - FOOT + 4
    for guide in rows.guides:
        if guide.until is not None:
            x1, x2 = sorted((scale(guide.at), scale(guide.until)))
            picture.add("rect", x=x1, y=HEAD - 4, width=x2 - x1, height=bottom - HEAD + 4, class_="band")
    for value in ticks(low, high, 4 if narrow else 7):
        x = scale(value)
        picture.line(x, HEAD - 4, x, bottom, "grid")
        anchor = "start" if x < left + 12 else "end" if x > right - 12 and narrow else "middle"
        picture.text(x, height - 10, rows.tick(value), "tick", anchor)
    for guide in rows.guides:
        x = scale(guide.at if guide.until is None else (guide.at + guide.until) / 2)
        if guide.until is None:
            picture.line(x, HEAD - 6, x, bottom, "guide")
        half = len(guide.name) * CHARACTER / 2
        anchor = "start" if x - half < left else "end" if x + half > picture.width else "middle"
        picture.text(x, 14, guide.name, "tick", anchor)
