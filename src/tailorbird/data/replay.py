"""Rows of general talk for a training to meet beside its own, so that it forgets less of what it could before.

Rehearsal of earlier data (Robins 1995, "Catastrophic Forgetting, Rehearsal and Pseudorehearsal"; for language models
Scialom et al. 2022, who find 1 % enough). They are no rows of the task: never held out, scored, shown in a prompt or
fitted to. What forgetting is measured on must not be among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction

from tailorbird.data.near import clusters
from tailorbird.data.overlap import shared
from tailorbird.data.text import shingles
from tailorbird.types import Row

WORDS = 8  # a run of so many normalized words in common is a text in common


def usable(
    rows: Sequence[Row], *, held_out: Sequence[Row], measured: Iterable[str]
) -> tuple[tuple[Row, ...], dict[str, int]]:
    """The rows that may be met in training, and how many were left out and why.

    `held_out`: rows of Tuning, Validation and Test; a row with the text of one of them, or nearly, is out. `measured`:
    texts that forgetting is measured on; a row that shares eight words in a row with one of them is out.
    """
    both = [*rows, *held_out]
    union, _ = clusters(both)
    for pair in shared(both, [0] * len(rows) + [1] * len(held_out)):  # those that MinHash missed
        union.join(pair.a, pair.b)
    apart = {union.find(number) for number in range(len(rows), len(both))}
    near = {number for number in range(len(rows)) if union.find(number) in apart}
    found: set[str] = set()
    for text in measured:
        found |= shingles(text, WORDS)
    told = {number for number, row in enumerate(rows) if any(found & shingles(m.content, WORDS) for m in row.messages)}
    kept = tuple(row for number, row in enumerate(rows) if number not in near | told)
    return kept, {"held_out": len(near), "measured_on": len(told - near)}


def replay_rows(train: int, share: float) -> int:
    """Rows of replay beside `train` rows, so that they are `share` of both together; one at least where any is asked.

    n / (train + n) = share gives n = train share / (1 - share), rounded half to even.
    """
    exact = Fraction(str(share))
    return max(1, round(train * exact / (1 - exact))) if share else 0
