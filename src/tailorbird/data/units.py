"""Units (rows that stay together) to splits: random by seed and content, exact in size wherever the units allow it."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from tailorbird.data.near import Union
from tailorbird.data.sizes import CARVED, quotas
from tailorbird.data.subset import fill
from tailorbird.types import Row, SplitName

TRAIN: SplitName = "train"
NOTHING: Mapping[SplitName, Collection[str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Unit:
    """Rows that stay together, by their numbers; `id` and `label` (the commonest) decide where they go."""

    id: str
    members: tuple[int, ...]
    label: str

    @property
    def size(self) -> int:
        return len(self.members)


def random_order(seed: int, purpose: str, identity: str) -> bytes:
    """A place in a random order that depends on seed, purpose and content alone."""
    return hashlib.sha256(f"tailorbird split|{seed}|{purpose}|{identity}".encode()).digest()


def units_of(rows: Sequence[Row], union: Union, stratify: bool) -> list[Unit]:
    """`label` of a unit: its source and, with `stratify`, its label, of which each split has its part."""
    units = []
    for members in union.sets():
        labels = Counter(f"{rows[i].source or ''}\0{(rows[i].label or '') if stratify else ''}" for i in members)
        label = min(labels, key=lambda name: (-labels[name], name))
        units.append(Unit(min(rows[i].id for i in members), tuple(members), label))
    return units


def assign(
    units: Sequence[Unit],
    asked: Mapping[SplitName, int | None],
    seed: int,
    stratify: bool,
    barred: Mapping[SplitName, Collection[str]] = NOTHING,
) -> dict[SplitName, list[int]]:
    """Row numbers of each split, in order. A split of size None gets what the others leave (train), of size 0
    nothing. `barred`: ids of units that a split cannot have."""
    left = {unit.id: unit for unit in sorted(units, key=lambda u: random_order(seed, "units", u.id))}
    taken: dict[SplitName, list[Unit]] = {}
    for name in (*CARVED, TRAIN):
        size = asked[name]
        pool = [unit for unit in left.values() if unit.id not in barred.get(name, ())]
        taken[name] = pool if size is None else _take(pool, size, stratify, keep_one=name != TRAIN) if size else []
        for unit in taken[name]:
            del left[unit.id]
    return {name: sorted(i for unit in found for i in unit.members) for name, found in taken.items()}


def _take(pool: Sequence[Unit], size: int, stratify: bool, *, keep_one: bool) -> list[Unit]:
    """Units of `size` rows in all, if any choice gives that; else as near below as any does.

    First by each label's share, in random order; then from any label; last by any choice of sizes that fits. When
    even the smallest unit is larger than `size` it is taken all the same.
    """
    by_label: dict[str, list[Unit]] = defaultdict(list)
    for unit in pool:
        by_label[unit.label].append(unit)
    share = quotas({label: sum(u.size for u in found) for label, found in by_label.items()}, size)
    chosen: dict[str, Unit] = {}
    for label, found in sorted(by_label.items()):
        room = share[label]
        most = len(found) - 1 if keep_one and stratify else len(found)  # a label keeps a unit to be learned from
        count = 0
        for unit in found:
            if unit.size <= room and count < most:
                chosen[unit.id] = unit
                room, count = room - unit.size, count + 1
    rest = size - sum(u.size for u in chosen.values())
    spare = Counter({label: len(found) for label, found in by_label.items()})
    spare.subtract(u.label for u in chosen.values())
    for unit in pool:
        enough = not (keep_one and stratify) or spare[unit.label] > 1
        if rest and unit.id not in chosen and unit.size <= rest and enough:
            chosen[unit.id] = unit
            rest -= unit.size
            spare[unit.label] -= 1
    if not rest:
        return list(chosen.values())
    best = fill(pool, set(chosen), size)
    return best or [min(pool, key=lambda u: u.size)] if pool else []  # rather too many rows than none
