"""From the comparison to the page's charts: which numbers go where, and the sentence a screen reader gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tailorbird.reporting import numbers, repeats
from tailorbird.reporting.contestants import (
    best_technique,
    chance,
    done,
    in_order,
    margin,
    measured,
    metric_name,
    pick,
)
from tailorbird.reporting.page import chart_answers, chart_cost, chart_curves, chart_tuning
from tailorbird.reporting.page.chart_rows import Guide, Line, Reading, Rows, chart
from tailorbird.reporting.page.input import ReportInput
from tailorbird.reporting.page.svg import Markup
from tailorbird.reporting.tables import against_best
from tailorbird.reporting.text import Veil, printable
from tailorbird.types import JSON


def chosen(comparison: JSON, row: JSON) -> bool:
    picked = pick(comparison)
    return picked is not None and picked["label"] == row["label"]


def score_tick(metric: str) -> Callable[[float], str]:
    return (lambda v: f"{100 * v:g} %") if metric in numbers.SHARES else (lambda v: f"{v:g}".replace("-", "−"))


def signed_tick(value: float) -> str:
    """With as many digits as it needs: an axis must not show one number twice."""
    return f"{value:+g}".replace("-", "−") if value else "0"


def reading(found: JSON, css: str) -> Reading:
    low, high = found.get("low"), found.get("high")
    return Reading(
        found["score"], low if numbers.is_number(low) else None, high if numbers.is_number(high) else None, css
    )


def scores(data: ReportInput) -> Markup | None:
    """Validation (filled) and Test (hollow) of every contestant."""
    comparison = data.comparison
    metric, lines = comparison["metric"], []
    for row in in_order(comparison):
        found = [(split, measured(row, split)) for split in ("validation", "test")]
        readings = [reading(score, split) for split, score in found if score]
        if readings:
            told = " · ".join(numbers.score(score["score"], metric) for _, score in found if score)
            lines.append(Line(printable(row["label"]), row["kind"], readings, told, chosen(comparison, row)))
    if not lines:
        return None
    level = chance(comparison, outcomes_of_first(data))
    guides = [Guide(level, "chance")] if level is not None else []
    description = "; ".join(f"{line.label} {line.told}" for line in lines)
    title = f"{metric_name(metric)} on Validation and Test with 95 % intervals"
    return chart(Rows("scores", title, description, lines, score_tick(metric), guides, floor=0.0, ceiling=1.0))


def outcomes_of_first(data: ReportInput) -> list[Any]:
    """Any contestant's Validation outcomes: enough to count how frequent the labels are."""
    return next((list(splits["validation"]) for splits in data.outcomes.values() if splits.get("validation")), [])


def differences(data: ReportInput) -> Markup | None:
    """Differences to the best technique on Validation, the margin as a band: what the verdict's rule looks at."""
    comparison, lines = data.comparison, []
    metric, best, allowed = comparison["metric"], best_technique(comparison), margin(comparison)
    for row in in_order(comparison):
        found = against_best(row)
        if found is None or best is None or row["label"] == best["label"]:
            continue
        one = Reading(found["difference"], found.get("low"), found.get("high"), "validation")
        told = numbers.difference(found["difference"], metric)
        lines.append(Line(printable(row["label"]), row["kind"], [one], told, chosen(comparison, row)))
    if not lines or best is None:
        return None
    scale = 100 if metric in numbers.SHARES else 1
    guides = [Guide(-allowed, "margin", 0.0), Guide(0.0, "")]
    # What decides lies near the margin; something 80 points worse must not press it into one pixel.
    lowest = -max(10 * allowed, 0.2)
    title = f"Difference to {printable(best['label'])} on Validation with 95 % intervals"
    description = "; ".join(f"{line.label} {line.told}" for line in lines)

    def tick(value: float) -> str:
        return signed_tick(round(scale * value, 9))

    return chart(Rows("differences", title, description, lines, tick, guides, floor=lowest))


def forgetting(data: ReportInput) -> Markup | None:
    lines = []
    for row in in_order(data.comparison):
        found = row.get("forgetting") or {}
        change = found.get("bits_per_byte") or {}
        if found.get("state") == "measured" and numbers.is_number(change.get("change")):
            one = Reading(change["change"], change.get("low"), change.get("high"), "validation")
            told = numbers.bits(change["change"])
            lines.append(Line(printable(row["label"]), row["kind"], [one], told, chosen(data.comparison, row)))
    if not lines:
        return None
    description = "; ".join(f"{line.label} {line.told}" for line in lines)
    title = "Change in bits per byte of general text against the untouched base, with 95 % intervals"
    guides = [Guide(0.0, "untouched base")]
    return chart(Rows("forgetting", title, description, lines, signed_tick, guides))


COSTS: dict[str, tuple[str, Callable[[Any], str], Callable[[JSON], Any]]] = {
    "flops": ("arithmetic of one request, logarithmic", numbers.flops, lambda cost: cost.get("flops_per_request")),
    "latency": (
        "latency of one request alone (median), logarithmic",
        lambda value: f"{value:g} ms",
        lambda cost: (cost.get("latency_ms") or {}).get("median"),
    ),
}


def quality_cost(data: ReportInput) -> tuple[Markup | None, list[str]]:
    """The chart, and the contestants that cannot stand in it because their cost is not known."""
    comparison, best = data.comparison, None
    for name in COSTS:
        points = cost_points(comparison, COSTS[name][2])
        if len(points) >= 2 and (best is None or len(points) > len(best[1])):
            best = (name, points)
    scored = [row for row in in_order(comparison) if measured(row, "validation")]
    if best is None:
        return None, []
    unit, tick, _ = COSTS[best[0]]
    placed = {point.label for point in best[1]}
    top, metric = best_technique(comparison), comparison["metric"]
    good = (measured(top, "validation") or {}).get("score") if top else None
    cost = chart_cost.Cost(
        f"{metric_name(metric)} on Validation against {unit}",
        "; ".join(f"{p.label}: {numbers.score(p.score, metric)} at {tick(p.cost)}" for p in best[1]),
        unit,
        best[1],
        tick,
        score_tick(metric),
        good - margin(comparison) if good is not None else None,
    )
    return chart_cost.chart(cost), [printable(r["label"]) for r in scored if printable(r["label"]) not in placed]


def cost_points(comparison: JSON, read: Callable[[JSON], Any]) -> list[chart_cost.Point]:
    points = []
    for row in in_order(comparison):
        score, cost = measured(row, "validation"), read(row.get("cost") or {})
        if score and done(row) and numbers.is_number(cost) and cost > 0:
            low, high = (score[k] if numbers.is_number(score.get(k)) else score["score"] for k in ("low", "high"))
            label = printable(row["label"])
            points.append(
                chart_cost.Point(label, row["kind"], cost, score["score"], low, high, chosen(comparison, row))
            )
    return points


def curves(data: ReportInput) -> list[tuple[str, Markup]]:
    found = []
    for number, row in enumerate(in_order(data.comparison)):
        picture = chart_curves.chart(printable(row["label"]), number, data.curves.get(row["label"]) or ())
        if picture is not None:
            found.append((printable(row["label"]), picture))
    return found


def answer_curves(data: ReportInput) -> list[dict[str, Any]]:
    found = []
    tick = score_tick(data.comparison["metric"])
    for number, row in enumerate(in_order(data.comparison)):
        sentence = repeats.more_labels(row, data.comparison)
        if sentence is not None:
            label = printable(row["label"])
            picture = chart_answers.chart(label, number, row["curve"], tick)
            found.append({"label": label, "sentence": f"{label}: {sentence}", "picture": picture})
    return found


def tuned(data: ReportInput, veil: Veil) -> list[dict[str, Any]]:
    """Each search: what it came to, its pictures, its trials as a table."""
    found = []
    for number, row in enumerate(in_order(data.comparison)):
        tuning = row.get("tuning")
        if not tuning or not tuning.get("trials"):
            continue
        label, said = printable(row["label"]), str(veil(tuning.get("said") or ""))
        found.append(
            {
                "label": label,
                "said": f"{said[:1].upper()}{said[1:]}.",
                "what": "Tuning loss" if tuning.get("lower_is_better") is not False else "Tuning score",
                "trials": chart_tuning.trials(label, number, tuning),
                "importance": chart_tuning.importance(label, number, tuning),
                "lines": [trial_line(trial, tuning, veil) for trial in tuning["trials"]],
            }
        )
    return found


def trial_line(trial: JSON, tuning: JSON, veil: Veil) -> dict[str, Any]:
    value, note = trial.get("value"), str(veil(trial.get("note") or ""))
    place = trial.get("number")
    return {
        "number": place + 1 if isinstance(place, int) else place,
        "best": place == tuning.get("best"),
        "settings": str(veil(numbers.setting(trial.get("settings") or {}))),
        "value": numbers.plain(value, 4) if numbers.is_number(value) else numbers.UNKNOWN,
        "state": f"{trial.get('state')}: {note}" if note else str(trial.get("state")),
    }
