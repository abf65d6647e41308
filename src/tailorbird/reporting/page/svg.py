"""Small SVG pictures by hand: scales, ticks and escaped elements. Colours come from the page's style sheet.

A chart is drawn twice, wide and narrow, and the style sheet shows the one that fits: scaled-down text is not readable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from markupsafe import Markup, escape

WIDE, NARROW = 720, 340
CHARACTER = 6.9  # average width of a character of the charts' 12 px text


class Picture:
    """Collects elements; coordinates in CSS pixels of the viewBox."""

    def __init__(self, width: float, height: float, title: str, description: str, name: str, css: str = "") -> None:
        self.width, self.height, self.css = width, height, css
        self.title, self.description, self.name = title, description, name
        self.parts: list[Markup] = []

    def add(self, tag: str, text: str | None = None, **attributes: object) -> None:
        named = Markup(" ").join(
            Markup('{}="{}"').format(key.rstrip("_").replace("_", "-"), number(value))
            for key, value in attributes.items()
        )
        if text is None:
            self.parts.append(Markup("<{} {}/>").format(Markup(tag), named))
        else:
            self.parts.append(Markup("<{} {}>{}</{}>").format(Markup(tag), named, text, Markup(tag)))

    def line(self, x1: float, y1: float, x2: float, y2: float, css: str) -> None:
        self.add("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=css)

    def text(self, x: float, y: float, text: str, css: str = "", anchor: str = "start") -> None:
        self.add("text", text, x=x, y=y, class_=f"t {css}".strip(), text_anchor=anchor)

    def mark(self, x: float, y: float, kind: str, css: str = "", size: float = 5) -> None:
        """Shape and colour both tell the kind: circle = technique, diamond = imported, square = reference."""
        css = f"mark {kind} {css}".strip()
        if kind == "imported":
            d = size * 1.25
            self.add(
                "path",
                d=f"M{x:.1f} {y - d:.1f}L{x + d:.1f} {y:.1f}L{x:.1f} {y + d:.1f}L{x - d:.1f} {y:.1f}Z",
                class_=css,
            )
        elif kind == "reference":
            s = size * 0.92
            self.add("rect", x=x - s, y=y - s, width=2 * s, height=2 * s, rx=1, class_=css)
        else:
            self.add("circle", cx=x, cy=y, r=size, class_=css)

    def whiskers(self, x1: float, x2: float, y: float, css: str, *, cut: bool = False) -> None:
        """An interval with its two ends; `cut`: it goes on beyond the left edge, so no end is drawn there."""
        self.line(x1, y, x2, y, css)
        for x in (x2,) if cut else (x1, x2):
            self.line(x, y - 3.5, x, y + 3.5, css)

    def path(self, points: Sequence[tuple[float, float]], css: str) -> None:
        if points:
            self.add("path", d="M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points), class_=css)

    def markup(self) -> Markup:
        head = Markup(
            '<svg class="{}" viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-labelledby="{n}-t {n}-d">'
            '<title id="{n}-t">{}</title><desc id="{n}-d">{}</desc>'
        ).format(
            self.css, number(self.width), number(self.height), number(self.width), number(self.height),
            self.title, self.description, n=self.name,
        )  # fmt: skip
        return head + Markup("").join(self.parts) + Markup("</svg>")


def both(draw: Callable[[float, str], Picture]) -> Markup:
    """A chart in its two widths; `draw(width, css)` makes one."""
    return draw(WIDE, "wide").markup() + draw(NARROW, "narrow").markup()


def number(value: object) -> object:
    """Coordinates with one decimal keep the page small."""
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else value


def nice_step(span: float, about: int) -> float:
    """1, 2 or 5 times a power of ten, so that `about` steps cover `span`."""
    raw = span / max(1, about)
    power = 10.0 ** math.floor(math.log10(raw)) if raw > 0 else 1.0
    return next(step * power for step in (1, 2, 5, 10) if step * power >= raw * 0.999)


def ticks(low: float, high: float, about: int) -> list[float]:
    if not high > low:
        return [low]
    step = nice_step(high - low, about)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def linear(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    span = (high - low) or 1.0
    return lambda value: start + (min(max(value, low), high) - low) / span * (end - start)


def logarithmic(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    scale = linear(math.log10(low), math.log10(high), start, end)
    return lambda value: scale(math.log10(max(value, low)))


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, and 2 and 5 between them where there are few."""
    powers = [10.0**k for k in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    inside = [p for p in powers if low <= p <= high]
    if len(inside) > 2:
        return inside[:: max(1, len(inside) // 6)]
    return [m * p for p in powers for m in (1, 2, 5) if low <= m * p <= high]


def fitted(text: str, pixels: float) -> str:
    """Text cut to a width; the whole of it stands in the table."""
    room = max(3, int(pixels / CHARACTER))
    return text if len(text) <= room else text[: room - 1] + "…"


__all__ = ["Markup", "Picture", "both", "escape", "fitted", "linear", "log_ticks", "logarithmic", "ticks"]
