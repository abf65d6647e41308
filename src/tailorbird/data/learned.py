"""Rows that a customization has learned from, known again by what they ask: they are never measured on later.

A customization keeps a hash of each such row, not its text. What is compared is the folded text of the turns before the
answer, system turns left out, so that a row is known again in another file, with another label, under another system
turn. Rows that are near to it, or of its group, go with it where it is among the rows itself; alone they are not known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from tailorbird.data.overlap import shared
from tailorbird.data.text import normalize
from tailorbird.data.units import Unit
from tailorbird.errors import DataError
from tailorbird.types import Role, Row, SplitName

SHOWN = 10


@dataclass(frozen=True)
class Learned:
    """Hash of a row (`input_hash`) -> the customization that met it. `tuned`: only looked at while that was trained,
    to choose the best point."""

    trained: Mapping[str, str] = field(default_factory=dict)
    tuned: Mapping[str, str] = field(default_factory=dict)

    def by(self, row: Row) -> str | None:
        """Who has met it, in whichever way."""
        key = input_hash(row)
        return self.trained.get(key) or self.tuned.get(key)


NOTHING = Learned()


def input_hash(row: Row) -> str:
    """16 hex digits of what a row asks."""
    text = " ".join(normalize(m.content) for m in row.prompt if m.role is not Role.SYSTEM)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def met(train: Iterable[Row], tuning: Iterable[Row]) -> dict[str, list[str]]:
    """The hashes of a training's rows."""
    return {"train": sorted({input_hash(row) for row in train}), "tuning": sorted({input_hash(row) for row in tuning})}


@dataclass(frozen=True)
class Barred:
    """Ids of units with a row that was `trained` on, which stay in Train, and of those with one that was only `tuned`
    on, which go to Train or Tuning; how many rows each has, and who has met them."""

    trained: Set[str]
    tuned: Set[str]
    trained_rows: int
    tuned_rows: int
    who: Sequence[str]

    @staticmethod
    def of(learned: Learned, rows: Sequence[Row], units: Iterable[Unit]) -> Barred:
        found: dict[bool, list[Unit]] = {True: [], False: []}
        who: set[str] = set()
        for unit in units if learned != NOTHING else ():
            keys = {input_hash(rows[number]) for number in unit.members}
            by = {name for key in keys for name in (learned.trained.get(key), learned.tuned.get(key)) if name}
            if by:
                found[bool(keys & learned.trained.keys())].append(unit)
                who |= by
        ids = {trained: frozenset(unit.id for unit in of) for trained, of in found.items()}
        counts = {trained: sum(unit.size for unit in of) for trained, of in found.items()}
        return Barred(ids[True], ids[False], counts[True], counts[False], sorted(who))

    @property
    def rows(self) -> int:
        return self.trained_rows + self.tuned_rows

    @property
    def splits(self) -> dict[SplitName, Set[str]]:
        """For each split the units that it cannot have."""
        return {"tuning": self.trained, "validation": self.trained | self.tuned, "test": self.trained | self.tuned}


def refuse_met(learned: Learned, given: Mapping[SplitName, Sequence[Row]], examples: Sequence[Row]) -> None:
    """DataError for a given test or validation set that a customization has learned from, or of which a row shares its
    near-duplicate or its group with an example that it has learned from: leaving that one out would unlearn nothing."""
    if learned == NOTHING:
        return
    known = [(row, who) for row in examples if (who := learned.by(row))]
    for name, rows in given.items():
        lines = {number: f"  {row.place} (met by {who})" for number, row in enumerate(rows) if (who := learned.by(row))}
        both = [row for row, _ in known] + list(rows)
        for pair in shared(both, [0] * len(known) + [1] * len(rows)) if known else ():
            row, (other, who) = both[pair.b], known[pair.a]
            lines.setdefault(pair.b - len(known), f"  {row.place} ~ {other.place} ({pair.why}; met by {who})")
        if lines:
            told = [lines[number] for number in sorted(lines)]
            more = [f"  and {len(told) - SHOWN:,} more"] if len(told) > SHOWN else []
            what = (
                f"{len(told):,} row(s) of the given {name} set were learned from already, so scores would be too good"
            )
            raise DataError(
                "\n".join([f"{what} (D34)", *told[:SHOWN], *more]), where=name, remedy="remove them from it"
            )
