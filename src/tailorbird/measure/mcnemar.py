"""Exact McNemar test: are the discordant rows split evenly?

McNemar 1947; the exact conditional form is a two-sided binomial test of min(b, c) of b + c at one half.
"""

from __future__ import annotations

from math import comb


def mcnemar(b: int, c: int) -> float:
    """Two-sided p. `b`: rows right for A alone, `c`: for B alone. 1.0 without discordant rows."""
    n = b + c
    tail = sum(comb(n, k) for k in range(min(b, c) + 1))
    return min(1.0, 2 * tail / 2**n)  # exact integers: no underflow at any n
