"""Proof that no two splits share a row: exact, and by another way than the one the clusters were made by.

All pairs with Jaccard >= 0.85 are found by prefix filtering (Chaudhuri, Ganti, Kaushik 2006): two sets that similar
share an element among the first |x| - ceil(0.85 |x|) + 1 of each, when all are ordered by how rare their elements
are.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tailorbird.data.near import THRESHOLD, comparable, jaccard, shingle_sets
from tailorbird.types import Place, Row, Splits

Why = Literal["same text", "nearly the same text", "same group"]


@dataclass(frozen=True, slots=True)
class Shared:
    """Two rows on different sides (numbers of their places in the order given) that must not be."""

    a: int
    b: int
    why: Why


@dataclass(frozen=True, slots=True)
class Overlap:
    """Two rows of different splits that share what no two splits may share."""

    a: Place
    b: Place
    why: Why

    def __str__(self) -> str:
        return f"{self.a} ~ {self.b} ({self.why})"


def check_no_overlap(splits: Splits) -> tuple[Overlap, ...]:
    """Every pair of rows of different splits that share text, near-duplicate text or group. Empty is the promise."""
    return tuple(Overlap(a.place, b.place, why) for a, b, why in overlaps(splits))


def overlaps(splits: Splits) -> list[tuple[Row, Row, Why]]:
    parts = (splits.train, splits.tuning, splits.validation, splits.test)
    rows = [row for part in parts for row in part]
    sides = [number for number, part in enumerate(parts) for _ in part]
    return [(rows[pair.a], rows[pair.b], pair.why) for pair in shared(rows, sides)]


def shared(rows: Sequence[Row], sides: Sequence[int]) -> Iterator[Shared]:
    """All pairs of rows of different sides that share something, each once for its first reason. Of rows with equal
    texts or groups the first of each side speaks for them."""
    texts = comparable(rows)
    found: set[tuple[int, int]] = set()
    for pair in _all_pairs(rows, sides, texts):
        if (pair.a, pair.b) not in found:
            found.add((pair.a, pair.b))
            yield pair


def _all_pairs(rows: Sequence[Row], sides: Sequence[int], texts: Sequence[str]) -> Iterator[Shared]:
    for a, b in _equal(texts, sides):
        yield Shared(a, b, "same text")
    for a, b in _equal([row.group for row in rows], sides):
        yield Shared(a, b, "same group")
    # one row of each (text, side) speaks for its equals
    firsts: dict[tuple[str, int], int] = {}
    for number, (text, side) in enumerate(zip(texts, sides, strict=True)):
        firsts.setdefault((text, side), number)
    numbers = sorted(firsts.values())
    for a, b in _similar([texts[n] for n in numbers], [sides[n] for n in numbers]):
        yield Shared(numbers[a], numbers[b], "nearly the same text")


def _equal(values: Sequence[str | None], sides: Sequence[int]) -> Iterator[tuple[int, int]]:
    first: dict[str, dict[int, int]] = defaultdict(dict)  # value -> side -> first row
    for number, (value, side) in enumerate(zip(values, sides, strict=True)):
        if value is None:
            continue
        for other_side, other in first[value].items():
            if other_side != side:
                yield other, number
        first[value].setdefault(side, number)


def _similar(texts: Sequence[str], sides: Sequence[int]) -> Iterator[tuple[int, int]]:
    both = [shingle_sets(text) for text in texts]
    for kind in (0, 1):
        members = [n for n, sets in enumerate(both) if sets[kind] is not None]
        sets = {n: found for n in members if (found := both[n][kind]) is not None}
        counts = Counter(shingle for found in sets.values() for shingle in found)
        index: dict[str, list[int]] = defaultdict(list)
        for n in sorted(members, key=lambda m: (len(sets[m]), m)):
            yield from ((min(n, o), max(n, o)) for o in _partners(n, sets, sides, counts, index))


def _partners(
    n: int,
    sets: dict[int, frozenset[str]],
    sides: Sequence[int],
    counts: Counter[str],
    index: dict[str, list[int]],
) -> Iterator[int]:
    """Earlier (not larger) sets of other sides that are similar to set n; then n is put into the index."""
    own = sets[n]
    prefix = sorted(own, key=lambda s: (counts[s], s))[: len(own) - math.ceil(THRESHOLD * len(own)) + 1]
    tried: set[int] = set()
    for shingle in prefix:
        for other in index[shingle]:
            if sides[other] == sides[n] or other in tried:
                continue
            tried.add(other)
            if len(sets[other]) >= THRESHOLD * len(own) and jaccard(sets[other], own) >= THRESHOLD:
                yield other
        index[shingle].append(n)
