"""Units of several rows to a sum of exactly so many rows: the subset-sum fallback, when taking in random order
misses."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Protocol, TypeVar


class Sized(Protocol):
    @property
    def size(self) -> int: ...
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=Sized)


def fill(pool: Sequence[T], preferred: Collection[str], size: int) -> list[T]:
    """Units of the pool whose sizes sum to `size`, or to the greatest sum below; of equal ones first those in
    `preferred` (by id), then in the pool's order.

    Bounded subset sum over distinct sizes (few): for each sum that can be reached, how many units of the last size it
    took.
    """
    by_size: dict[int, list[T]] = defaultdict(list)
    for unit in sorted(pool, key=lambda u: u.id not in preferred):  # stable: the pool's order within each part
        by_size[unit.size].append(unit)
    steps: list[tuple[int, dict[int, int]]] = []  # (unit size, sum -> units of that size in it)
    reached = {0}
    for unit_size in sorted(by_size):
        counts = _extend(reached, unit_size, len(by_size[unit_size]), size)
        steps.append((unit_size, counts))
        reached = set(counts)
    total = max(reached)
    chosen: list[T] = []
    for unit_size, counts in reversed(steps):
        count = counts[total]
        chosen.extend(by_size[unit_size][:count])
        total -= count * unit_size
    return chosen


def _extend(reached: set[int], unit_size: int, available: int, limit: int) -> dict[int, int]:
    """Sums reachable with up to `available` further units of one size, each with the fewest such units."""
    counts = dict.fromkeys(reached, 0)
    for total in range(limit + 1):
        before = counts.get(total - unit_size)
        if total not in counts and before is not None and before < available:
            counts[total] = before + 1
    return counts
