"""Answers -> outcomes -> scores, intervals, paired tests, forgetting, cost, recommendation. Statistics are pure
functions.
"""

from __future__ import annotations

from tailorbird.measure.compare import compare, score
from tailorbird.measure.measure import measure

__all__ = ["compare", "measure", "score"]
