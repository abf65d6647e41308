"""Several data sets as one: each described by an instruction, each with its part of the Train rows.

Described tasks side by side are what teaches a model to follow instructions (Wei et al. 2022, "Finetuned Language
Models Are Zero-Shot Learners", section 2.1: ten wordings a task; Chung et al. 2022 for the mixture). Which wording a
row has depends on what the row says alone, so that neither the seed nor a new row changes it.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from tailorbird.data.text import content_id
from tailorbird.data.units import random_order
from tailorbird.errors import DataError
from tailorbird.types import Message, Role, Row

SLICE = "source"


@dataclass(frozen=True, slots=True)
class Source:
    """One data set of a collection. `share`: its part of the Train rows, None = by its rows."""

    path: str | os.PathLike[str]
    name: str
    instructions: tuple[str, ...] = ()
    share: float | None = None
    shape: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    sheet: str | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Source:
        """From the spec's `ExampleSource` as a mapping."""
        said = given["instruction"]
        wordings = (said,) if isinstance(said, str) else tuple(said or ())
        return cls(
            given["path"], given["name"], wordings, given["share"], given["shape"], given["columns"], given["sheet"]
        )

    def described(self, row: Row) -> Row:
        """The row with its source's name and its wording of the instruction before its own system message."""
        named = replace(row, source=self.name, slices={**row.slices, SLICE: self.name})
        if not self.instructions:
            return named
        own = [m.content for m in row.messages if m.role is Role.SYSTEM]
        system = Message(Role.SYSTEM, "\n\n".join([self.wording(row.id), *own]))
        turns = [(m, s) for m, s in zip(row.messages, row.supervised, strict=True) if m.role is not Role.SYSTEM]
        messages, supervised = (system, *(m for m, _ in turns)), (False, *(s for _, s in turns))
        said = [(m.role.value, m.content, s) for m, s in zip(messages, supervised, strict=True)]
        return replace(named, id=content_id(said, row.label), messages=messages, supervised=supervised)

    def wording(self, row_id: str) -> str:
        """One of the instruction's wordings, by the content id that the row has in its file."""
        digest = hashlib.sha256(f"tailorbird instruction|{row_id}".encode()).digest()
        return self.instructions[int.from_bytes(digest[:8], "big") % len(self.instructions)]


@dataclass(frozen=True, slots=True)
class Mixed:
    """What a source gave: `available` Train rows of its own, of which `rows` are met (each `least` to `most` times)."""

    available: int
    rows: int
    share: float

    @property
    def least(self) -> int:
        return self.rows // self.available

    @property
    def most(self) -> int:
        return -(-self.rows // self.available)

    def as_dict(self) -> dict[str, float]:
        return {
            "available": self.available,
            "rows": self.rows,
            "share": self.share,
            "least_times": self.least,
            "most_times": self.most,
        }


def mix(
    rows: Sequence[Row], sources: Sequence[Source], *, total: int | None, seed: int
) -> tuple[list[Row], dict[str, Mixed]]:
    """Train rows in the parts that were asked for: `total` of them, or as many as there are.

    Of a source with more rows than its part a random part is taken; one with fewer is repeated whole, and the rest of
    its part is a random part of it: each of its rows is met q or q + 1 times. Parts are exact (largest remainders).
    """
    own = {s.name: [row for row in rows if row.source == s.name] for s in sources}
    total = len(rows) if total is None else total
    parts = _parts(sources, {name: len(found) for name, found in own.items()}, total)
    for name, count in parts.items():
        if count and not own[name]:
            what = f"no row of the source {name!r} is left for Train, where {count:,} are wanted (D37)"
            raise DataError(what, where="data.examples", remedy="add rows to it, or make the other splits smaller")
    taken = {name: take(own[name], count, seed, f"source {name}") for name, count in parts.items()}
    facts = {name: Mixed(len(own[name]), len(found), len(found) / total) for name, found in taken.items() if own[name]}
    return _in_turn(rows, [row for found in taken.values() for row in found]), facts


def _parts(sources: Sequence[Source], available: Mapping[str, int], total: int) -> dict[str, int]:
    """Rows of each source: its share of `total`, or its part by rows of what the shares leave."""
    asked = {s.name: Fraction(str(s.share)) for s in sources if s.share is not None}
    left = 1 - sum(asked.values(), Fraction(0))
    others = sum(count for name, count in available.items() if name not in asked)
    exact = {
        name: total * (asked[name] if name in asked else left * Fraction(count, max(1, others)))
        for name, count in available.items()
    }
    parts = {name: math.floor(value) for name, value in exact.items()}
    order = sorted(exact, key=lambda name: (parts[name] - exact[name], name))
    for name in order[: total - sum(parts.values())]:
        parts[name] += 1
    return parts


def take(rows: Sequence[Row], count: int, seed: int, purpose: str) -> list[Row]:
    """`count` of the rows: all of them as often as that goes, and a random part for the rest."""
    if not rows or not count:
        return []
    whole, rest = divmod(count, len(rows))
    drawn = sorted(rows, key=lambda row: random_order(seed, purpose, row.id))[:rest]
    return [*rows] * whole + drawn


def _in_turn(order: Iterable[Row], taken: Sequence[Row]) -> list[Row]:
    """The taken rows in their own order, once through, then those that are met a second time, and so on."""
    place = {id(row): number for number, row in enumerate(order)}
    seen: Counter[int] = Counter()
    keyed = []
    for row in taken:
        keyed.append((seen[id(row)], place[id(row)], row))
        seen[id(row)] += 1
    return [row for _, _, row in sorted(keyed, key=lambda item: item[:2])]
