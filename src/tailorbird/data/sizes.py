"""How many rows go to each split: the defaults, what is the least that is needed, and a share for each label."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tailorbird.errors import DataError
from tailorbird.types import SplitName

CARVED: tuple[SplitName, ...] = ("test", "validation", "tuning")
LEAST_ROWS = 10  # 5 to learn from, 1 to tune on, 2 to choose by, 2 to test on
LEAST_BESIDE_GIVEN = 4
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


def wanted(rows: int, sizes: Sizes, given: Mapping[SplitName, int], known: int = 0) -> dict[SplitName, int | None]:
    """The size of each split; train None is all the rest. A given split takes no rows of the examples. `known`: rows
    that are of use to train alone.

    Default sizes give way to the sizes that were asked. DataError with the number of rows that is needed.
    """
    if negative := [name for name, size in sizes.items() if size is not None and size < 1]:
        what = f"split.{negative[0]} is {sizes[negative[0]]}, at least 1 row is needed (D37)"
        raise DataError(what, where="split", remedy="say a size above 0, or leave it out for the default")
    carved = [name for name in CARVED if name not in given]
    asked = {name: size for name in carved if (size := sizes.get(name)) is not None}
    train = sizes.get("train")
    new = rows - known
    left = new - sum(asked.values()) - max(0, (train or 0) - known)
    free = [name for name in carved if name not in asked]
    base = left if asked or train is not None else new
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
    _check(rows, chosen, least, known)
    return chosen


def _beside_train(name: SplitName, left: int, free: list[SplitName]) -> int:
    parts = {"test": 2, "validation": 2, "tuning": 1}
    share = left * parts[name] // sum(parts[f] for f in free)
    return max(1, min(share, 300 if name == "tuning" else 1000))


def _check(rows: int, chosen: Mapping[SplitName, int | None], least: int, known: int) -> None:
    """`least`: rows without which default sizes make no sense; 0 when the sizes were asked for."""
    train = max(0, (chosen["train"] or 1) - known)
    new, need = rows - known, max(least, train + sum(chosen[name] or 0 for name in CARVED))
    if new >= need:
        return
    parts = ", ".join(
        f"{name} {'at least 1' if size is None else f'{size:,}'}" for name, size in chosen.items() if size != 0
    )
    learned = f"; {known:,} of the {rows:,} were learned from already and stay in Train" if known else ""
    raise DataError(
        f"{new:,} rows are too few, {need:,} are needed" + (f" ({parts})" if not least else "") + f" (D37){learned}",
        where="split",
        remedy=f"add {need - new:,} rows" + ("" if least else ", or ask for smaller splits"),
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
