"""Quality against cost: one point a contestant, cost on a logarithmic axis, the 95 % interval as a vertical bar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tailorbird.reporting.page.svg import (
    CHARACTER,
    NARROW,
    Markup,
    Picture,
    both,
    fitted,
    linear,
    log_ticks,
    logarithmic,
    ticks,
)

TOP, BOTTOM, LABEL_HEIGHT = 18, 46, 15


@dataclass(frozen=True)
class Point:
    label: str
    kind: str
    cost: float
    score: float
    low: float
    high: float
    chosen: bool = False


@dataclass(frozen=True)
class Cost:
    """`good_from`: the lowest score that still counts as close to the best (best minus margin), a dashed line."""

    title: str
    description: str
    unit: str
    points: Sequence[Point]
    cost_tick: Callable[[float], str]
    score_tick: Callable[[float], str]
    good_from: float | None = None


def chart(cost: Cost) -> Markup:
    return both(lambda width, css: draw(cost, width, css))


def draw(cost: Cost, width: float, css: str) -> Picture:
    narrow = width == NARROW
    height = 300.0 if narrow else 360.0
    picture = Picture(width, height, cost.title, cost.description, f"cost-{css}", css)
    left, right, bottom = 48.0, width - 14.0, height - BOTTOM
    low = min(p.cost for p in cost.points) / 2.2
    high = max(p.cost for p in cost.points) * 2.2
    x = logarithmic(low, high, left + 8, right - 8)
    ends = [v for p in cost.points for v in (p.low, p.high)] + ([cost.good_from] if cost.good_from is not None else [])
    bottom_score, top_score = max(0.0, min(ends) - 0.03), min(1.0, max(ends) + 0.03)
    y = linear(bottom_score, top_score, bottom, TOP)
    for value in ticks(bottom_score, top_score, 5):
        picture.line(left, y(value), right, y(value), "grid")
        picture.text(left - 8, y(value) + 4, cost.score_tick(value), "tick", "end")
    named = log_ticks(low, high)
    for index, value in enumerate(named):
        picture.line(x(value), TOP, x(value), bottom, "grid")
        if not narrow or len(named) <= 4 or index % 2 == 0:
            picture.text(x(value), bottom + 17, cost.cost_tick(value), "tick", "middle")
    picture.text((left + right) / 2, height - 6, fitted(cost.unit, right - left), "tick", "middle")
    if cost.good_from is not None:
        picture.line(left, y(cost.good_from), right, y(cost.good_from), "guide")
    for point in cost.points:
        px = x(point.cost)
        for v in (point.low, point.high):
            picture.line(px - 3.5, y(v), px + 3.5, y(v), f"whisker {point.kind}")
        picture.line(px, y(point.low), px, y(point.high), f"whisker {point.kind}")
    for point in cost.points:
        picture.mark(x(point.cost), y(point.score), point.kind, "big" if point.chosen else "", 7 if point.chosen else 5)
    guides = [cost.good_from] if cost.good_from is not None else []
    placed = places(cost.points, guides, x, y, left, right, bottom)
    for point, (tx, ty, anchor) in zip(cost.points, placed, strict=True):
        picture.text(tx, ty, fitted(point.label, 130), "name strong halo" if point.chosen else "name halo", anchor)
    return picture


Box = tuple[float, float, float, float]


def places(
    points: Sequence[Point], guides: Sequence[float], x: Callable[[float], float], y: Callable[[float], float],
    left: float, right: float, bottom: float,
) -> list[tuple[float, float, str]]:  # fmt: skip
    """Where each name goes: beside its point, moved up or down in small steps until it covers no other name or mark."""
    taken: list[Box] = [(x(p.cost) - 7, y(p.score) - 7, x(p.cost) + 7, y(p.score) + 7) for p in points]
    taken += [(x(p.cost) - 3, y(p.high), x(p.cost) + 3, y(p.low)) for p in points]
    taken += [(left, y(g) - 1, right, y(g) + 1) for g in guides]
    found: dict[int, tuple[float, float, str]] = {}
    for index in sorted(range(len(points)), key=lambda i: (not points[i].chosen, y(points[i].score))):
        point = points[index]
        px, py = x(point.cost), y(point.score)
        length = len(fitted(point.label, 130)) * CHARACTER
        options = [(px + 11, py + 4 + dy, "start") for dy in (0, -10, 10, -18, 18, -26, 26, -36, 36)]
        options += [(px - 11, py + 4 + dy, "end") for dy in (0, -10, 10, -18, 18, -26, 26, -36, 36)]
        best = options[0]
        for tx, ty, anchor in options:
            box = (tx, ty - 11, tx + length, ty + 4) if anchor == "start" else (tx - length, ty - 11, tx, ty + 4)
            inside = box[0] >= left and box[2] <= right + 10 and box[1] >= 0 and box[3] <= bottom + 2
            if inside and not any(overlaps(box, other) for other in taken):
                best = (tx, ty, anchor)
                taken.append(box)
                break
        found[index] = best
    return [found[i] for i in range(len(points))]


def overlaps(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
