"""How far a confidence can be trusted: calibration error and coverage at a wished accuracy. Pure functions of lists."""

from __future__ import annotations

from collections.abc import Sequence

BINS = 10


def calibration_error(confidence: Sequence[float], correct: Sequence[float], bins: int = BINS) -> float:
    """Expected calibration error over `bins` bins of equal mass: sum of |accuracy - mean confidence| x share of rows.

    Rows are sorted by confidence and cut into bins whose sizes differ by at most one (Nguyen and O'Connor 2015; equal
    widths leave most bins empty when a model is sure of everything). Equal confidences across a cut are averaged over
    first, so that the order of the rows has no say. In [0, 1].
    """
    n = len(confidence)
    if n == 0 or n != len(correct):
        raise ValueError("calibration_error needs as many confidences as answers, and at least one")
    pairs = _average_ties(sorted(zip(confidence, correct, strict=True)))
    bins = min(bins, n)
    total = 0.0
    for b in range(bins):
        part = pairs[b * n // bins : (b + 1) * n // bins]
        total += abs(sum(right - sure for sure, right in part))
    return total / n


def _average_ties(pairs: list[tuple[float, float]]) -> list[tuple[float, float]]:
    averaged: list[tuple[float, float]] = []
    start = 0
    while start < len(pairs):
        end = start
        while end < len(pairs) and pairs[end][0] == pairs[start][0]:
            end += 1
        mean = sum(right for _, right in pairs[start:end]) / (end - start)
        averaged += [(pairs[start][0], mean)] * (end - start)
        start = end
    return averaged


def coverage_at(accuracy: float, confidence: Sequence[float], correct: Sequence[float]) -> float:
    """The largest share of rows that can be answered with at least `accuracy` right when the least sure are left to
    people.

    Rows of equal confidence are taken or left together: no threshold can part them. Chosen on the same rows it is
    reported for, so a little hopeful when they are few.
    """
    n = len(confidence)
    if n == 0 or n != len(correct):
        raise ValueError("coverage_at needs as many confidences as answers, and at least one")
    pairs = sorted(zip(confidence, correct, strict=True), reverse=True)
    best, right = 0, 0.0
    for taken, (sure, was_right) in enumerate(pairs, start=1):
        right += was_right
        last_of_its_confidence = taken == n or pairs[taken][0] != sure
        if last_of_its_confidence and right >= accuracy * taken - 1e-9:
            best = taken
    return best / n
