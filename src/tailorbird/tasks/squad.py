"""Exact match and token F1 of short answers, as SQuAD's official evaluation script computes them.

Rajpurkar et al. 2016, "SQuAD: 100,000+ Questions for Machine Comprehension of Text" (arXiv:1606.05250); empty
answers as in the script of SQuAD 2.0. Normalization: lower case, ASCII punctuation away, the words a/an/the away,
blanks folded.
"""

from __future__ import annotations

import re
import string
from collections import Counter

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    without = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", without).split())


def exact_match(expected: str, given: str) -> float:
    """1.0 if both are the same after normalization, else 0.0."""
    return float(normalize_answer(expected) == normalize_answer(given))


def token_f1(expected: str, given: str) -> float:
    """Harmonic mean of precision and recall over the bag of normalized tokens; in [0, 1]."""
    gold, said = normalize_answer(expected).split(), normalize_answer(given).split()
    if not gold or not said:
        return float(gold == said)
    common = sum((Counter(gold) & Counter(said)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(said), common / len(gold)
    return 2 * precision * recall / (precision + recall)
