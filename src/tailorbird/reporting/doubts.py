"""How sure a comparison is, in sentences: intervals, what Test said, what is open, what the rows can show at all."""

from __future__ import annotations

from tailorbird.reporting import numbers
from tailorbird.reporting.contestants import joined, margin, measured, metric_name, pick
from tailorbird.reporting.text import printable
from tailorbird.types import JSON


def how_sure(comparison: JSON) -> list[str]:
    row = pick(comparison)
    lines = [
        *(own_scores(row, comparison) if row else []),
        *on_test(comparison),
        *undecided(comparison),
        *detectable(comparison),
    ]
    if row and row.get("interval_is_about"):
        lines.append(f"The interval speaks of {printable(row['interval_is_about'])}.")
    if opened := openings(comparison):
        lines.append(f"Test was opened {opened}.")
    return lines


def own_scores(row: JSON, comparison: JSON) -> list[str]:
    metric, parts = metric_name(comparison["metric"]), []
    for split in ("validation", "test"):
        text, found = scored(row, split, comparison), measured(row, split)
        if text and found:
            parts.append(f"{text} on {numbers.count(found.get('n'))} {split.capitalize()} rows")
    if not parts:
        return []
    head = f"{metric[0].upper()}{metric[1:]} of {printable(row['label'])}"
    return [f"{head}: {', '.join(parts)}; in brackets the 95 % interval."]


def on_test(comparison: JSON) -> list[str]:
    """What the same comparison says on rows that played no part in the choice."""
    told = {
        "confirmed": "Test confirms the choice: the same comparison holds on rows that played no part in it.",
        "not confirmed": "Test does not confirm the choice: on its rows the comparison is not clear enough. "
        "The choice itself was made on Validation and stays.",
        "contradicted": "Test contradicts the choice: on its rows the comparison comes out the other way. "
        "Take the recommendation with great care, and collect more rows.",
    }
    found = (comparison.get("recommendation") or {}).get("on_test")
    return [told[found]] if found in told else []


def undecided(comparison: JSON) -> list[str]:
    recommendation = comparison.get("recommendation") or {}
    open_labels = [printable(label) for label in recommendation.get("undecided") or []]
    if not open_labels:
        return []
    rows = recommendation.get("rows_to_decide")
    more = (
        f"about {numbers.count(rows)} more Validation rows would decide"
        if numbers.is_number(rows) and rows > 0
        else "more rows than is sensible to collect would be needed to decide"
    )
    return [f"Not decided against {joined(open_labels)}: {more}."]


def detectable(comparison: JSON) -> list[str]:
    smallest, metric = comparison.get("smallest_detectable") or {}, comparison["metric"]
    value, n = smallest.get("validation"), (comparison.get("splits") or {}).get("validation")
    if not numbers.is_number(value):
        return []
    return [
        f"With {numbers.count(n)} Validation rows, differences under about {numbers.points(value, metric)} cannot be "
        f"told from luck; a cheaper contestant counts as equally good when it is shown to be at most "
        f"{numbers.points(margin(comparison), metric)} worse (the margin)."
    ]


def openings(comparison: JSON) -> str | None:
    count = (comparison.get("splits") or {}).get("test_openings")
    if not numbers.is_number(count):
        return None
    if count > 1:
        return f"{int(count)} times: later choices were made after Test was seen, so its figures flatter them"
    return "once, after the choice was sealed" if count == 1 else "never: the choice rests on Validation alone"


def scored(row: JSON, split: str, comparison: JSON) -> str | None:
    """ "93.4 % (91.0–95.1)" or None where it was not measured."""
    found, metric = measured(row, split), comparison["metric"]
    if not found:
        return None
    return f"{numbers.score(found['score'], metric)} ({numbers.interval(found.get('low'), found.get('high'), metric)})"
