"""What several seeds, a search for settings and an answer curve say, in sentences."""

from __future__ import annotations

from tailorbird.reporting import numbers
from tailorbird.reporting.contestants import in_order, joined, metric_name
from tailorbird.reporting.text import printable
from tailorbird.types import JSON

FEW = 5  # seeds; below, see measure/seeds.py


def seeds_of(row: JSON) -> str:
    """ "over 5 seeds", or nothing for one."""
    count = len(row.get("by_seed") or [])
    return f"over {count} seeds" if count > 1 else ""


def between_seeds(row: JSON, comparison: JSON) -> str | None:
    """The noise floor: how much the score varies when nothing but the seed is changed."""
    spread = row.get("seed_sd") or {}
    found = [
        f"{numbers.points(spread[split], comparison['metric'])} on {split.capitalize()}"
        for split in ("validation", "test")
        if numbers.is_number(spread.get(split))
    ]
    if not seeds_of(row) or not found:
        return None
    handed = [str(one.get("seed")) for one in row["by_seed"] if one.get("exported")]
    files = f"; its files are those of seed {printable(handed[0])}" if handed else ""
    count = len(row["by_seed"])
    few = (
        f" That is an estimate from {count} values: where seeds differ much, its 95 % intervals may be too narrow."
        if count < FEW
        else ""
    )
    return (
        f"{printable(row['label'])} was made {seeds_of(row)}. With nothing but the seed changed its "
        f"{metric_name(comparison['metric'])} varies by {joined(found)} (standard deviation, the noise floor){files}."
        f"{few}"
    )


def seeds(comparison: JSON) -> list[str]:
    return [line for row in in_order(comparison) if (line := between_seeds(row, comparison))]


def more_labels(row: JSON, comparison: JSON) -> str | None:
    """Would more labels help? From the last two points of the curve."""
    curve = row.get("curve") or {}
    last, metric = curve.get("last_step") or {}, comparison["metric"]
    if not numbers.is_number(last.get("difference")):
        return None
    figures = f"{numbers.difference(last['difference'], metric)} "
    figures += f"({numbers.difference_interval(last.get('low'), last.get('high'), metric)})"
    step = f"from {numbers.count(last.get('from_rows'))} to {numbers.count(last.get('to_rows'))} Train rows"
    unit = " points" if metric in numbers.SHARES else ""
    # Of one training each the interval knows nothing of what another seed would have brought.
    one = "" if (last.get("seeds") or 1) > 1 else " As far as one training of each can tell: no other seed was tried."
    told = {
        "yes": f"Would more labels help? Yes, the curve still rises: {step} brought {figures}{unit}.{one}",
        "not shown": f"Would more labels help? Not shown: {step} brought {figures}{unit}, "
        "which these Validation rows cannot tell from nothing.",
        "no": f"Would more labels help? Hardly: {step} brought {figures}{unit}, less than the margin.{one}",
    }
    return told.get(str(curve.get("more_labels")))
