"""What this report does not show, said as plainly as what it shows."""

from __future__ import annotations

from collections.abc import Sequence

from tailorbird.reporting import numbers
from tailorbird.reporting.contestants import chance, in_order, joined, metric_name, no_better_than_chance
from tailorbird.reporting.doubts import openings
from tailorbird.reporting.text import printable
from tailorbird.types import JSON, Outcome


def limits(comparison: JSON) -> list[str]:
    base = printable((comparison.get("base") or {}).get("name") or "this base")
    splits, rows = comparison.get("splits") or {}, in_order(comparison)
    about = sorted({str(row["interval_is_about"]) for row in rows if row.get("interval_is_about")})
    lines = [f"This ranking holds for {base}. On another base the order may differ; the command for one stands below."]
    if about:
        several = any(len(row.get("seeds") or []) > 1 for row in rows)
        seed = "Another seed is covered only where several were made" if several else "Training again with another seed"
        lines.append(
            f"The intervals speak of {'; '.join(about)}. {seed}"
            f"{'; rows of another kind are' if several else ', or rows of another kind, is'} not covered."
        )
    if told := openings(comparison):
        lines.append(f"Test was opened {told}.")
    lineage = comparison.get("lineage")
    if numbers.is_number(lineage) and lineage > 1:
        lines.append(
            f"This is lineage {lineage}: contestants were changed after Test had been seen; read its figures with care."
        )
    late = [printable(row["label"]) for row in rows if row.get("after_test")]
    if late:
        lines.append(f"Made after Test was seen: {joined(late)}.")
    smallest = (comparison.get("smallest_detectable") or {}).get("validation")
    if numbers.is_number(smallest):
        lines.append(
            f"{numbers.count(splits.get('validation'))} Validation rows can show differences from about "
            f"{numbers.points(smallest, comparison['metric'])} on. “No difference found” is not “no difference”."
        )
    metric = metric_name(comparison["metric"])
    return [
        *lines,
        f"{metric[0].upper()}{metric[1:]} is one number for one question. It does not weigh which mistakes hurt; "
        "look at the rows.",
        "Forgetting was measured as prediction of general texts. It says nothing about safety behaviour or skills "
        "that those texts do not need.",
        "Latency and training time are those of this machine, one request at a time; a server that batches is faster "
        "per request.",
    ]


def chance_lines(comparison: JSON, outcomes: Sequence[Outcome]) -> list[str]:
    """Said at the top of the page, not in a footnote."""
    level, weak = chance(comparison, outcomes), no_better_than_chance(comparison, outcomes)
    if level is None or not weak:
        return []
    labels, verb = joined([printable(row["label"]) for row in weak]), "is" if len(weak) == 1 else "are"
    return [
        f"{labels} {verb} not shown to be better than chance: always answering the most frequent label gets "
        f"{numbers.score(level, comparison['metric'])}, and that lies inside or above the 95 % interval."
    ]
