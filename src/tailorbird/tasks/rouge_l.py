"""ROUGE-L: F1 of the longest common subsequence of tokens, one reference a row.

Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries" (section 3.1, sentence level, beta = 1). On ASCII
text equal to the package `rouge-score` without stemming; that package drops every other letter, so we take Unicode
words, and single characters of scripts that are written without blanks.
"""

from __future__ import annotations

import re

# Han, Hiragana, Katakana, Thai, Lao, Myanmar, Khmer: a "word" between blanks would be a whole sentence.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")


def tokens(text: str) -> list[str]:
    return _TOKEN.findall(text.lower())


def common_subsequence(a: list[str], b: list[str]) -> int:
    """Length of the longest common subsequence, bit-parallel: O(len(b)) operations on integers of len(a) bits.

    Hyyrö 2004, "Bit-parallel LCS-length computation revisited": the zeros of V count the length.
    """
    places: dict[str, int] = {}
    for i, token in enumerate(a):
        places[token] = places.get(token, 0) | (1 << i)
    full = (1 << len(a)) - 1
    v = full
    for token in b:
        u = v & places.get(token, 0)
        v = ((v + u) | (v - u)) & full
    return len(a) - v.bit_count()


def rouge_l(expected: str, given: str) -> float:
    """F1 in [0, 1]; two texts without any token agree only if both are empty of tokens."""
    gold, said = tokens(expected), tokens(given)
    if not gold or not said:
        return float(gold == said)
    common = common_subsequence(gold, said)
    return 2 * common / (len(gold) + len(said))
