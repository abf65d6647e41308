"""Per-label recall and macro-F1 of label answers. Pure functions of lists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def recalls(expected: Sequence[str], given: Sequence[str]) -> dict[str, float]:
    """Share of each label's rows that got it; only labels that occur among `expected`, sorted."""
    rows = Counter(expected)
    right = Counter(e for e, g in zip(expected, given, strict=True) if e == g)
    return {label: right[label] / rows[label] for label in sorted(rows)}


def macro_f1(expected: Sequence[str], given: Sequence[str]) -> float:
    """Mean F1 over the labels that occur among `expected`; a label never given rightly counts 0.

    Labels (or other texts) that only occur among `given` lower the precision of nothing and the recall of the label
    they stood in for; they are not averaged over, as no row asks for them.
    """
    rows, said = Counter(expected), Counter(given)
    right = Counter(e for e, g in zip(expected, given, strict=True) if e == g)
    if not rows:
        raise ValueError("macro_f1 of no rows")
    return sum(2 * right[label] / (rows[label] + said[label]) for label in rows) / len(rows)
