"""chrF of one answer against its reference, by sacrebleu (character 6-grams, beta 2), in [0, 1].

Popović 2015, "chrF: character n-gram F-score for automatic MT evaluation". Reported is the mean over rows, so that the
figure belongs to the same rows as its interval; sacrebleu's corpus figure pools the n-grams and differs a little.
"""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def _metric() -> Any:
    from sacrebleu.metrics.chrf import CHRF  # here: sacrebleu takes a while to import and `check` does not need it

    return CHRF()


def chrf(expected: str, given: str) -> float:
    if not expected.strip() or not given.strip():
        return float(expected.strip() == given.strip())
    return float(_metric().sentence_score(given, [expected]).score) / 100.0
