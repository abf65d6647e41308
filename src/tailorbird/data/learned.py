"""Rows that a customization has learned from, known again by what they ask: they are never measured on later.

A customization keeps a hash of each such row, not its text. What is compared is the folded text of the turns before the
answer, system turns left out, so that a row is known again in another file, with another label, another instruction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

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


def barred(learned: Learned, rows: Sequence[Row], units: Iterable[Unit]) -> dict[SplitName, set[str]]:
    """For each split the ids of the units that it cannot have: what was trained on stays in Train, what was looked at
    goes to Train or Tuning."""
    trained, met = set[str](), set[str]()
    for unit in units:
        keys = {input_hash(rows[number]) for number in unit.members}
        if keys & learned.trained.keys():
            trained.add(unit.id)
        if keys & learned.trained.keys() or keys & learned.tuned.keys():
            met.add(unit.id)
    return {"tuning": trained, "validation": met, "test": met}


def refuse_met(learned: Learned, given: Mapping[SplitName, Sequence[Row]]) -> None:
    """DataError for a given test or validation set that a customization has learned from."""
    for name, rows in given.items():
        found = [(row, who) for row in rows if (who := learned.by(row))]
        if found:
            lines = [f"  {row.place} (met by {who})" for row, who in found[:SHOWN]]
            if len(found) > SHOWN:
                lines.append(f"  and {len(found) - SHOWN:,} more")
            what = (
                f"{len(found):,} row(s) of the given {name} set were learned from already, so scores would be too good"
            )
            raise DataError("\n".join([f"{what} (D34)", *lines]), where=name, remedy="remove them from it")
