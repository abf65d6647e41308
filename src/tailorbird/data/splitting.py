"""Rows to Train, Tuning, Validation and Test, so that nothing a contestant learned from is measured.

Rows with the same normalized text, near-duplicates and rows of one group form a unit; a unit is never divided. Which
unit goes where depends on the seed and on what the rows say, not on the order of files or lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tailorbird.data.facts import label_counts, source_counts
from tailorbird.data.given import check_labels, part_of, without_given
from tailorbird.data.learned import NOTHING, Barred, Learned, refuse_met
from tailorbird.data.near import Union, clusters
from tailorbird.data.overlap import overlaps
from tailorbird.data.sizes import Sizes, wanted, wanted_of_known
from tailorbird.data.units import Unit, assign, units_of
from tailorbird.errors import DataError
from tailorbird.types import Row, SplitName, Splits, Test, Train, Tuning, Validation

NAMES: tuple[SplitName, ...] = ("train", "tuning", "validation", "test")


@dataclass(frozen=True, slots=True)
class SplitFacts:
    """What was done. `clusters`: units of several rows (`rows` in them, the `largest`, texts `near` each other).

    `moved`: rows that stand where they do because a row of their unit stands there. `learned`: examples that a
    customization has learned from before, or that belong to such: they are in Train (or Tuning, where it only looked
    at them). `dropped`: examples left out because given rows say the same. `sources`: rows of each data set of a
    collection in each split.
    `unused`: rows that no split asked for. `overlap` was proven, not assumed.
    """

    sizes: Mapping[str, int]
    asked: Mapping[str, int | None]
    overlap: int
    clusters: Mapping[str, int]
    moved: int
    dropped: Mapping[str, int]
    unused: int
    labels: Mapping[str, Mapping[str, int]]
    sources: Mapping[str, Mapping[str, int]]
    learned: int
    seed: int
    warnings: tuple[str, ...] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.__slots__}
        for name in ("sizes", "asked", "clusters", "dropped"):
            values[name] = dict(values[name])
        for name in ("labels", "sources"):
            values[name] = {split: dict(counts) for split, counts in getattr(self, name).items()}
        return values | {"warnings": list(self.warnings)}


def split(
    rows: Iterable[Row],
    *,
    seed: int,
    sizes: Sizes | None = None,
    given_test: Iterable[Row] | None = None,
    given_validation: Iterable[Row] | None = None,
    overlap: Literal["refuse", "drop_from_train"] = "refuse",
    stratify: bool = False,
    learned: Learned = NOTHING,
) -> tuple[Splits, SplitFacts]:
    """The four splits. `sizes`: rows wanted of each, None or absent = the default (train: all the rest).

    `stratify` (classify): each split has the labels in the proportion of the examples; the sources of a collection are
    in proportion always. A given test or validation set
    is taken as it is (or, with a size, a part of it); examples that say the same as given rows are refused or
    dropped. Rows that were `learned` from already stay in Train; a given set that has some is refused.
    """
    examples = list(rows)
    sizes = dict(sizes or {})
    given: dict[SplitName, list[Row]] = {}
    if given_validation is not None:
        given["validation"] = list(given_validation)
    if given_test is not None:
        given["test"] = list(given_test)
    for name, kept in given.items():
        if not kept:
            raise DataError(f"the given {name} set has no rows (D37)", where=name, remedy="name a file with rows")
    if stratify:
        check_labels(examples)
    refuse_met(learned, given, examples)
    examples, dropped = without_given(examples, given, overlap)
    counts = {name: len(kept) for name, kept in given.items()}
    parts = {name: part_of(kept, sizes.get(name), seed, name) for name, kept in given.items()}
    union, joined = clusters(examples)
    sourced = any(row.source is not None for row in examples)
    while True:
        units = units_of(examples, union, stratify)
        barred = Barred.of(learned, examples, units)
        if barred.rows:
            known = {"trained": barred.trained_rows, "tuned": barred.tuned_rows}
            asked = wanted_of_known(len(examples), sizes, counts, **known)
        else:
            asked = wanted(len(examples), sizes, counts)
        chosen = assign(units, asked, seed, stratify or sourced, barred.splits)
        splits = _splits({name: parts.get(name) or [examples[i] for i in chosen[name]] for name in NAMES})
        _check_none_empty(splits, units, barred)
        missed = overlaps(splits)
        if not missed:
            break
        _mend(missed, examples, union, given)
    facts = _facts(
        splits, units, joined, asked, dropped, len(examples), {name: sizes.get(name) for name in given}, seed, barred
    )
    return splits, facts


def _splits(parts: Mapping[SplitName, Sequence[Row]]) -> Splits:
    return Splits(Train(parts["train"]), Tuning(parts["tuning"]), Validation(parts["validation"]), Test(parts["test"]))


def _check_none_empty(splits: Splits, units: Sequence[Unit], barred: Barred) -> None:
    for part in (splits.train, splits.tuning, splits.validation, splits.test):
        if not len(part):
            largest = max((unit.size for unit in units), default=0)
            raise DataError(
                f"no row is left for {part.name}: the rows form {len(units):,} units that are not divided (the same "
                f"or nearly the same text, or one group), the largest has {largest:,} rows{_met(barred)} (D37)",
                where="split",
                remedy="at least four units are needed: add rows of other groups, or ask for smaller splits",
            )


def _met(barred: Barred) -> str:
    return f", and {', '.join(barred.who)} has learned from {barred.rows:,} of the rows" if barred.rows else ""


def _mend(
    missed: Sequence[tuple[Row, Row, str]],
    examples: Sequence[Row],
    union: Union,
    given: Mapping[SplitName, Sequence[Row]],
) -> None:
    """Joins near pairs that MinHash missed (probability 5e-5 each), so that the next assignment keeps them together."""
    numbers = {id(row): number for number, row in enumerate(examples)}
    for a, b, why in missed:
        if id(a) not in numbers or id(b) not in numbers:
            what = f"{a.place} and {b.place} share {why.removeprefix('nearly ')} (D34)"
            raise DataError(what, where=", ".join(given), remedy="remove one of the two rows")
        union.join(numbers[id(a)], numbers[id(b)])


def manifest(splits: Splits) -> dict[str, list[str]]:
    """Content ids of each split, in order."""
    return {
        part.name: [row.id for row in part] for part in (splits.train, splits.tuning, splits.validation, splits.test)
    }


def _facts(
    splits: Splits,
    units: Sequence[Unit],
    joined: int,
    asked: Mapping[SplitName, int | None],
    dropped: Mapping[str, int],
    rows: int,
    given: Mapping[SplitName, int | None],
    seed: int,
    barred: Barred,
) -> SplitFacts:
    parts = (splits.train, splits.tuning, splits.validation, splits.test)
    got: dict[str, int] = {part.name: len(part) for part in parts}
    several = [unit.size for unit in units if unit.size > 1]
    sizes: dict[str, int | None] = {str(k): v for k, v in [*asked.items(), *given.items()]}
    return SplitFacts(
        sizes=got,
        asked=sizes,
        overlap=0,  # proven above: `split` does not end before `overlaps` finds none
        clusters={"count": len(several), "rows": sum(several), "largest": max(several, default=1), "near": joined},
        moved=sum(several) - len(several),
        dropped=dict(dropped),
        unused=rows - sum(count for name, count in got.items() if name not in given),
        labels={part.name: label_counts(part) for part in parts},
        sources={part.name: found for part in parts if (found := source_counts(part))},
        learned=barred.rows,
        seed=seed,
        warnings=tuple(_warnings(splits, got, sizes, units, barred)),
    )


def _warnings(
    splits: Splits,
    got: Mapping[str, int],
    asked: Mapping[str, int | None],
    units: Sequence[Unit],
    barred: Barred,
) -> list[str]:
    warnings = []
    if barred.rows:
        named = ", ".join(barred.who)
        warnings.append(f"{barred.rows:,} rows are not measured on: {named} has learned from them before")
    for name, size in asked.items():
        if size is not None and got[name] != size:
            largest = max((u.size for u in units), default=1)
            why = f"rows that belong together are not divided (the largest unit has {largest}){_met(barred)}"
            warnings.append(f"{name} has {got[name]:,} of {size:,} rows asked: {why}")
    labels = {part.name: label_counts(part) for part in (splits.train, splits.validation, splits.test)}
    everything = sorted(set().union(*labels.values()))
    for name, counts in labels.items():
        missing = [label for label in everything if label not in counts]
        if missing:
            named = ", ".join(map(repr, missing[:5])) + (" ..." if len(missing) > 5 else "")
            warnings.append(f"{name} has no row of {len(missing)} label(s): {named}")
    return warnings
