"""A test or validation set that the user brings: it must share nothing with the examples, or the examples give way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tailorbird.data.facts import label_counts
from tailorbird.data.near import clusters
from tailorbird.data.overlap import Shared, shared
from tailorbird.data.units import random_order
from tailorbird.errors import DataError
from tailorbird.types import Row, SplitName

SHOWN_OVERLAPS = 10


def check_labels(examples: Sequence[Row]) -> None:
    """Each example has a label, and there are two of them at least."""
    counts = label_counts(examples)
    without = next((row for row in examples if row.label is None), None)
    if without is not None:
        raise DataError(
            "the row has no label", where=str(without.place), remedy="say which column holds it: columns: {label: NAME}"
        )
    if len(counts) < 2 and examples:
        raise DataError(
            f"all {len(examples):,} examples have the label {next(iter(counts))!r}; two labels are needed (D36)",
            where=examples[0].place.file,
            remedy="add rows of another label, or check that the right column is read as label",
        )


def without_given(
    examples: list[Row], given: Mapping[SplitName, list[Row]], overlap: str
) -> tuple[list[Row], dict[str, int]]:
    """The examples (and given validation rows) that share nothing with the given sets after them."""
    dropped: dict[str, int] = {}
    if "validation" in given and "test" in given:
        given["validation"][:], dropped["validation"] = _apart(
            given["validation"], given["test"], "validation", "test", overlap
        )
    for name in ("test", "validation"):
        if name in given:
            examples, count = _apart(examples, given[name], "examples", name, overlap)
            dropped["examples"] = dropped.get("examples", 0) + count
    return examples, dropped


def _apart(first: list[Row], second: list[Row], a: str, b: str, overlap: str) -> tuple[list[Row], int]:
    both = first + second
    pairs = list(shared(both, [0] * len(first) + [1] * len(second)))
    if not pairs:
        return first, 0
    if overlap == "refuse":
        raise _overlap_error(both, pairs, a, b)
    union, _ = clusters(both)
    for pair in pairs:
        union.join(pair.a, pair.b)
    taken = {union.find(i) for i in range(len(first), len(both))}
    kept = [row for i, row in enumerate(first) if union.find(i) not in taken]
    return kept, len(first) - len(kept)


def _overlap_error(rows: Sequence[Row], pairs: Sequence[Shared], a: str, b: str) -> DataError:
    lines = [f"  {rows[p.a].place} ~ {rows[p.b].place} ({p.why})" for p in pairs[:SHOWN_OVERLAPS]]
    if len(pairs) > SHOWN_OVERLAPS:
        lines.append(f"  and {len(pairs) - SHOWN_OVERLAPS:,} more")
    count = len({p.b for p in pairs})
    what = f"{count:,} row(s) of the given {b} set are also among the {a}, so its score would be too good (D34)"
    remedy = "remove them, or say `overlap: drop_from_train` in the spec to leave them out of the " + a
    return DataError("\n".join([what, *lines]), where=b, remedy=remedy)


def part_of(rows: list[Row], size: int | None, seed: int, name: str) -> list[Row]:
    """All of a given set, or the number asked, chosen by content."""
    if size is None or size == len(rows):
        return rows
    if size > len(rows):
        what = f"split.{name} asks for {size:,} rows, the given {name} set has {len(rows):,} (D37)"
        raise DataError(what, where="split", remedy=f"ask for at most {len(rows):,}, or leave the size out")
    chosen = set(sorted(range(len(rows)), key=lambda i: random_order(seed, f"given {name}", rows[i].id))[:size])
    return [row for i, row in enumerate(rows) if i in chosen]
