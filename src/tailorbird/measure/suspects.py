"""Rows whose label all good contestants contradict with one and the same answer: look at the label first.

A contestant is *good* here if its Validation score is at most 10 points below the best one's, and the lower bound of
its interval is above both one half and the share of the commonest label: worse ones agree on mistakes of their own.
There must be at least two, as one contestant's contradiction is its error more often than the label's. Nothing is
dropped or relabelled: it is a list to read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tailorbird.types import Outcome, Score

BELOW_BEST = 0.10
LEAST_LOW = 0.5


def good_contestants(outcomes: Mapping[str, Sequence[Outcome]], scores: Mapping[str, Score]) -> list[str]:
    """Labels of the good contestants, in the order given. `scores` are the Validation scores."""
    known = [label for label in outcomes if label in scores and outcomes[label]]
    if not known:
        return []
    expected = Counter(o.expected for o in outcomes[known[0]])
    chance = max(expected.values()) / sum(expected.values())
    best = max(scores[label].score for label in known)
    return [
        label
        for label in known
        if scores[label].score >= best - BELOW_BEST and scores[label].low > max(LEAST_LOW, chance)
    ]


def suspects(outcomes: Mapping[str, Sequence[Outcome]], scores: Mapping[str, Score]) -> list[dict[str, Any]]:
    """[{row, label, suggested, contestants, confidence}] of one split's outcomes, the surest first.

    `confidence`: mean of what the good contestants report for the answer; None when none of them reports one.
    """
    good = good_contestants(outcomes, scores)
    if len(good) < 2:
        return []
    by_row = [{o.row: o for o in outcomes[label]} for label in good]
    found = []
    for row, first in by_row[0].items():
        said = [rows[row] for rows in by_row if row in rows]
        agree = len(said) == len(good) and first.given and all(o.given == first.given for o in said)
        if agree and all(o.score == 0.0 for o in said):
            sure = [o.confidence for o in said if o.confidence is not None]
            found.append(
                {
                    "row": row,
                    "label": first.expected,
                    "suggested": first.given,
                    "contestants": good,
                    "confidence": sum(sure) / len(sure) if sure else None,
                }
            )
    return sorted(found, key=lambda s: -1.0 if s["confidence"] is None else s["confidence"], reverse=True)
