"""Scores of parts of a split: the user's slices and, for classify, the rows of each label. The worst one is shown.

The worst of many parts is partly bad luck; it stands there with its rows and its interval, and parts of fewer than
`LEAST_ROWS` rows are passed over while there is a larger one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tailorbird.measure.compare import score
from tailorbird.types import Outcome

LEAST_ROWS = 5


@dataclass(frozen=True)
class Slice:
    name: str  # "label=exchange rate", "language=de"
    score: float
    low: float
    high: float
    n: int


def slices(outcomes: Sequence[Outcome], *, by_label: bool) -> list[Slice]:
    """Every part, sorted by name. A column with one value all over is no part."""
    parts: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        for column, value in outcome.slices.items():
            parts.setdefault((column, value), []).append(outcome)
        if by_label:
            parts.setdefault(("label", outcome.expected), []).append(outcome)
    found = []
    for (column, value), part in sorted(parts.items()):
        if len(part) < len(outcomes):
            s = score(part)
            found.append(Slice(f"{column}={value}", s.score, s.low, s.high, s.n))
    return found


def worst(found: Sequence[Slice]) -> Slice | None:
    """The lowest score; of equal ones that with more rows, then by name. None without parts."""
    large = [s for s in found if s.n >= LEAST_ROWS] or list(found)
    return min(large, key=lambda s: (s.score, -s.n, s.name)) if large else None
