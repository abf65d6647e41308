"""How many rows go to each split: the defaults, what is the least that is needed, and a share for each label."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tailorbird.errors import DataError
from tailorbird.types import SplitName

CARVED: tuple[SplitName, ...] = ("test", "validation", "tuning")
LEAST_ROWS = 10  # 5 to learn from, 1 to tune on, 2 to choose by, 2 to test on
LEAST_BESIDE_GIVEN = 4
LEAST_MEASURED = 2  # rows to choose by, and rows to test on
Sizes = Mapping[SplitName, int | None]


def default_size(name: SplitName, rows: int) -> int:
    """Of `rows` examples: validation and test a fifth up to 300, from 3,000 rows on a tenth up to 1,000; tuning a
    tenth up to 300.

    With fewer than 190 validation rows no cheaper contestant can be shown to be within 0.02 of the best: say sizes
    then.
    """
    if name == "tuning":
        return min(300, max(1, rows // 10))
    return max(min(300, rows // 5), min(1000, rows // 10))


def wanted(rows: int, sizes: Sizes, given: Mapping[SplitName, int]) -> dict[SplitName, int | None]:
    """The size of each split; train None is all the rest. A given split takes no rows of the examples.

    Default sizes give way to the sizes that were asked. DataError with the number of rows that is needed.
    """
    _refuse_none(sizes)
    carved = [name for name in CARVED if name not in given]
    asked = {name: size for name in carved if (size := sizes.get(name)) is not None}
    train = sizes.get("train")
    left = rows - sum(asked.values()) - (train or 0)
    free = [name for name in carved if name not in asked]
    base = left if asked or train is not None else rows
    chosen: dict[SplitName, int | None] = {"train": train}
    for name in CARVED:
        if name in given:
            chosen[name] = 0
        elif name in asked:
            chosen[name] = asked[name]
        else:
            # beside an asked train all the rest is free to be shared out: validation and test take up to two fifths
            # each
            chosen[name] = (
                default_size(name, max(0, base)) if train is None else _beside_train(name, max(0, left), free)
            )
    least = 0 if asked or train is not None else LEAST_ROWS if not given else LEAST_BESIDE_GIVEN
    _check(rows, chosen, least)
    return chosen


def wanted_of_known(
    rows: int, sizes: Sizes, given: Mapping[SplitName, int], *, trained: int, tuned: int
) -> dict[SplitName, int | None]:
    """As `wanted`, where `trained` of the rows can be in Train alone, and `tuned` in Train or Tuning.

    Validation and Test come from the new rows, in their default sizes for as many; Tuning may be what it was before.
    """
    _refuse_none(sizes)
    new = rows - trained - tuned
    chosen: dict[SplitName, int | None] = {"train": sizes.get("train")}
    for name in ("test", "validation"):
        chosen[name] = 0 if name in given else sizes.get(name) or max(LEAST_MEASURED, default_size(name, new))
    measured = (chosen["test"] or 0) + (chosen["validation"] or 0)
    left = new - measured + tuned
    tuning = 0 if "tuning" in given else sizes.get("tuning") or min(default_size("tuning", rows), max(1, left))
    chosen["tuning"] = tuning
    train = chosen["train"] or 1
    short = max(measured - new, tuning - left, train - (left - tuning + trained))
    if short > 0:
        parts = ", ".join(f"{name} {size:,}" for name, size in chosen.items() if size)
        raise DataError(
            f"{new:,} of {rows:,} rows are new, {new + short:,} are needed ({parts}): the others were learned from "
            "already and stay in Train or Tuning (D37)",
            where="split",
            remedy=f"add {short:,} new rows, or ask for smaller splits",
        )
    return chosen


def _refuse_none(sizes: Sizes) -> None:
    if negative := [name for name, size in sizes.items() if size is not None and size < 1]:
        what = f"split.{negative[0]} is {sizes[negative[0]]}, at least 1 row is needed (D37)"
        raise DataError(what, where="split", remedy="say a size above 0, or leave it out for the default")


def _beside_train(name: SplitName, left: int, free: list[SplitName]) -> int:
    parts = {"test": 2, "validation": 2, "tuning": 1}
    share = left * parts[name] // sum(parts[f] for f in free)
    return max(1, min(share, 300 if name == "tuning" else 1000))


def _check(rows: int, chosen: Mapping[SplitName, int | None], least: int) -> None:
    """`least`: rows without which default sizes make no sense; 0 when the sizes were asked for."""
    need = max(least, sum(1 if size is None else size for size in chosen.values()))
    if rows >= need:
        return
    parts = ", ".join(
        f"{name} {'at least 1' if size is None else f'{size:,}'}" for name, size in chosen.items() if size != 0
    )
    raise DataError(
        f"{rows:,} rows are too few, {need:,} are needed" + (f" ({parts})" if not least else "") + " (D37)",
        where="split",
        remedy=f"add {need - rows:,} rows" + ("" if least else ", or ask for smaller splits"),
    )


def quotas(counts: Mapping[str, int], size: int) -> dict[str, int]:
    """`size` shared out over labels in proportion to their counts: largest remainders, equal ones by label; sums to
    min(size, total)."""
    total = sum(counts.values())
    if not total:
        return {}
    size = min(size, total)
    exact = {label: size * count / total for label, count in counts.items()}
    chosen = {label: math.floor(share) for label, share in exact.items()}
    order = sorted(counts, key=lambda label: (chosen[label] - exact[label], label))
    for label in order[: size - sum(chosen.values())]:
        chosen[label] += 1
    return chosen
