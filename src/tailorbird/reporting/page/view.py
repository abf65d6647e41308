"""Everything the template needs, worked out: the template only places it."""

from __future__ import annotations

from typing import Any

from tailorbird.reporting import doubts, numbers, price, repeats, verdict
from tailorbird.reporting.contestants import bare_base, done, in_order, joined, measured, metric_name, pick, what
from tailorbird.reporting.page import answers, beside, confusion, facts, glossary, limits, pictures
from tailorbird.reporting.page.input import ReportInput
from tailorbird.reporting.tables import difference_cell, forgetting_cell
from tailorbird.reporting.text import Veil, printable, shortened
from tailorbird.types import JSON

TOKEN_LIMIT = 600
MOST_SUSPECTS = 60
MOST_CONTRADICTIONS = 20


def build(data: ReportInput) -> dict[str, Any]:
    veil = Veil(data.rows.values(), active=not data.shows_rows)
    comparison: JSON = veil_notes(data.comparison, veil)
    shown, disagreeing, total = answers.sample(data)
    heats, pairs = confusion.tables(data)
    recall_labels, recalls = confusion.recalls(data)
    quality_cost, no_cost = pictures.quality_cost(data)
    return {
        "comparison": comparison,
        "metric": metric_name(comparison["metric"]),
        "headline": verdict.headline(comparison),
        "verdict": (comparison.get("recommendation") or {}).get("verdict") or "none",
        "on_test": (comparison.get("recommendation") or {}).get("on_test"),
        "lead": verdict.lead(comparison),
        "why": verdict.why(comparison),
        "how_sure": [*doubts.how_sure(comparison), *repeats.seeds(comparison)],
        "costs": price.costs(comparison),
        "forgetting": price.forgetting(comparison),
        "drifts": drifts(comparison),
        "chance": limits.chance_lines(comparison, pictures.outcomes_of_first(data)),
        "key_figures": key_figures(comparison),
        "table": [table_row(row, comparison) for row in in_order(comparison)],
        "charts": {
            "scores": pictures.scores(data),
            "differences": pictures.differences(data),
            "cost": quality_cost,
            "no_cost": no_cost,
            "forgetting": pictures.forgetting(data),
            "curves": pictures.curves(data),
        },
        "answer_curves": pictures.answer_curves(data),
        "beside": beside.beside(comparison, pictures.score_tick(comparison["metric"])),
        "tuned": pictures.tuned(data, veil),
        "comparisons": compared(comparison),
        "bare_base": bare_base(comparison, "validation"),
        "confusion": {"heats": heats, "pairs": pairs, "labels": recall_labels, "recalls": recalls},
        "answers": {"shown": shown, "disagreeing": disagreeing, "total": total, "split": answers.split_of(data)},
        "shows_rows": data.shows_rows,
        "suspects": suspects(data),
        "slices": worst_slices(comparison, veil),
        "sources": by_source(comparison, veil),
        "rendered": rendered(data),
        "data": {
            "pairs": facts.data_pairs(data, veil),
            "splits": facts.split_pairs(data),
            "files": facts.files(data),
            "labels": facts.label_counts(data),
            "warnings": [str(veil(text)) for text in data.data_facts.get("warnings") or []],
            "contradictions": contradictions(data),
        },
        "settings": facts.settings(data, veil),
        "plan": facts.plan_pairs(data, veil),
        "machine": facts.machine_pairs(data),
        "versions": facts.version_pairs(data),
        "spec": veil(data.spec_text),
        "glossary": glossary.used(comparison),
        "limits": limits.limits(comparison),
        "commands": verdict.next_commands(comparison, data.folder, data.spec_path),
    }


def veil_notes(comparison: JSON, veil: Veil) -> JSON:
    """Notes and reasons are written by programs that had rows at hand; labels and numbers pass unchanged."""
    if not veil.active:
        return comparison
    rows = [{**row, "note": veil(row.get("note"))} for row in comparison.get("rows", [])]
    recommendation = {**(comparison.get("recommendation") or {})}
    recommendation["reason"] = veil(recommendation.get("reason"))
    return {
        **comparison,
        "rows": rows,
        "recommendation": recommendation,
        "verdicts": veil(comparison.get("verdicts", [])),
    }


def key_figures(comparison: JSON) -> list[dict[str, str]]:
    """The strip under the verdict: at most five numbers, each with what it is."""
    row = pick(comparison)
    if row is None:
        return []
    metric, cost, figures = comparison["metric"], row.get("cost") or {}, []
    for split in ("test", "validation"):
        if found := measured(row, split):
            span = numbers.interval(found.get("low"), found.get("high"), metric)
            figures.append(
                {
                    "name": f"{metric_name(metric)} on {split.capitalize()}",
                    "value": numbers.score(found["score"], metric),
                    "more": f"95 % interval {span}",
                }
            )
    versus = row.get("versus_base") or {}
    split = "test" if versus.get("test") else "validation"
    base = versus.get(split) or {}
    if numbers.is_number(base.get("difference")) and base["difference"] != 0:
        points = " points" if metric in numbers.SHARES else ""
        figures.append(
            {
                "name": "against the bare base",
                "value": numbers.difference(base["difference"], metric) + points,
                "more": f"{numbers.difference_interval(base.get('low'), base.get('high'), metric)}; "
                f"{bare_base(comparison, split)}".replace(" %", "\u00a0%"),
            }
        )
    latency = cost.get("latency_ms") or {}
    if numbers.is_number(latency.get("median")):
        figures.append(
            {
                "name": "one request alone",
                "value": numbers.milliseconds(latency["median"]),
                "more": f"95 of 100 under {numbers.milliseconds(latency.get('p95'))}",
            }
        )
    if numbers.is_number(cost.get("deployed_bytes")):
        figures.append(
            {
                "name": "to deploy beyond the base",
                "value": numbers.size(cost["deployed_bytes"]),
                "more": f"made in {numbers.seconds(cost.get('train_seconds'))}",
            }
        )
    return figures


def table_row(row: JSON, comparison: JSON) -> dict[str, Any]:
    metric, cost = comparison["metric"], row.get("cost") or {}
    picked = pick(comparison)
    cells: dict[str, Any] = {
        "label": row["label"],
        "what": ", ".join(part for part in (what(row), repeats.seeds_of(row)) if part),
        "kind": row.get("kind"),
        "state": row.get("state"),
        "note": row.get("note"),
        "done": done(row),
    }
    cells["chosen"] = picked is not None and picked["label"] == row["label"]
    cells["after_test"] = bool(row.get("after_test"))
    for split in ("validation", "test"):
        found = measured(row, split)
        cells[split] = (
            (numbers.score(found["score"], metric), numbers.interval(found.get("low"), found.get("high"), metric))
            if found
            else ("", "")
        )
        cells[f"{split}_other"] = [
            (metric_name(k), f"{v:.3f}")
            for k, v in ((found or {}).get("other") or {}).items()
            if numbers.is_number(v) and not k.startswith("recall:")
        ]
    latency = cost.get("latency_ms") or {}
    memory = cost.get("peak_memory_mb")
    change = (row.get("forgetting") or {}).get("bits_per_byte") or {}
    drift = (row.get("forgetting") or {}).get("drift_kl") or {}
    cells.update(
        difference=difference_cell(row, comparison),
        forgetting=forgetting_cell(row, comparison)[0],
        forgetting_interval=f"{numbers.bits(change['low'])}…{numbers.bits(change['high'])}"
        if numbers.is_number(change.get("low")) and numbers.is_number(change.get("high")) and change.get("change")
        else "",
        drift=f"drift {numbers.nats(drift['value'])}" if numbers.is_number(drift.get("value")) else "",
        latency=(
            numbers.milliseconds(latency.get("median")),
            f"p95 {numbers.milliseconds(latency['p95'])}" if numbers.is_number(latency.get("p95")) else "",
        ),
        size=numbers.size(cost.get("deployed_bytes")),
        train=(
            numbers.seconds(cost.get("train_seconds")),
            numbers.scaled(memory * 1e6, "B") if numbers.is_number(memory) else "",
        ),
        flops=numbers.flops(cost.get("flops_per_request")),
        tokens=numbers.count(cost.get("prompt_tokens")),
        parameters=numbers.scaled(cost.get("trainable_parameters"), ""),
        misses=row.get("misses")
        or joined([n.replace("_", " ") for n, met in (row.get("meets") or {}).items() if not met]),
    )
    return cells


def drifts(comparison: JSON) -> list[tuple[str, str, str]]:
    """(label, drift, its interval) of each contestant whose drift was measured."""
    found = []
    for row in in_order(comparison):
        drift = (row.get("forgetting") or {}).get("drift_kl") or {}
        if numbers.is_number(drift.get("value")):
            interval = f"{numbers.nats(drift.get('low'))}…{numbers.nats(drift.get('high'))}" if drift["value"] else ""
            found.append((printable(row["label"]), numbers.nats(drift["value"]), interval))
    return found


def compared(comparison: JSON) -> list[dict[str, Any]]:
    """Paired differences with their p, against the best technique and against the bare base, on both splits."""
    metric, lines = comparison["metric"], []
    for row in in_order(comparison):
        cells: list[tuple[str, str, str] | None] = []
        for family in ("versus_best", "versus_base"):
            for split in ("validation", "test"):
                found = (row.get(family) or {}).get(split) or {}
                if numbers.is_number(found.get("difference")):
                    cells.append(
                        (
                            numbers.difference(found["difference"], metric),
                            numbers.difference_interval(found.get("low"), found.get("high"), metric),
                            numbers.probability(found.get("p")),
                        )
                    )
                else:
                    cells.append(None)
        if any(cells):
            lines.append({"label": row["label"], "kind": row.get("kind"), "cells": cells})
    return lines


def suspects(data: ReportInput) -> dict[str, Any]:
    """Rows whose label the good contestants contradict; without their text when rows are hidden."""
    lines = []
    for found in list(data.suspects)[:MOST_SUSPECTS]:
        row = data.rows.get(str(found.get("row")))
        text = shortened(row.input_text, answers.INPUT_LIMIT) if row is not None and data.shows_rows else None
        lines.append(
            {
                "place": str(row.place) if row else str(found.get("row")),
                "text": text,
                "label": found.get("label"),
                "suggested": found.get("suggested"),
                "by": list(found.get("contestants") or []),
            }
        )
    shown = data.shows_rows or data.comparison.get("task") == "classify"
    return {"lines": lines if shown else [], "total": len(data.suspects)}


def by_source(comparison: JSON, veil: Veil) -> dict[str, Any]:
    """Names of the sources of a collection, and a line a contestant: its score and interval on each of them."""
    rows = [(row, (row.get("slices") or {}).get("sources") or {}) for row in in_order(comparison)]
    names = sorted({name for _, found in rows for name in found})
    metric, lines = comparison["metric"], []
    for row, found in rows:
        cells = [
            (numbers.score(one["score"], metric), numbers.interval(one["low"], one["high"], metric))
            if one
            else ("", "")
            for one in (found.get(name) for name in names)
        ]
        if found:
            lines.append({"label": row["label"], "kind": row["kind"], "cells": cells})
    counts = [next((found[name] for _, found in rows if name in found)) for name in names]
    heads = [(str(veil(name)), numbers.count(one["n"])) for name, one in zip(names, counts, strict=True)]
    return {"heads": heads, "lines": lines, "split": counts[0]["split"] if counts else ""}


def worst_slices(comparison: JSON, veil: Veil) -> list[dict[str, str]]:
    lines = []
    for row in in_order(comparison):
        worst = (row.get("slices") or {}).get("worst") or {}
        if worst.get("name") is not None and numbers.is_number(worst.get("score")):
            metric = comparison["metric"]
            span = f" ({numbers.interval(worst['low'], worst['high'], metric)})" if "low" in worst else ""
            lines.append(
                {
                    "label": row["label"],
                    "name": str(veil(worst["name"])),
                    "score": numbers.score(worst["score"], metric) + span,
                    "n": numbers.count(worst.get("n")),
                    "of": numbers.count(worst["of"]) if "of" in worst else numbers.UNKNOWN,
                }
            )
    return lines


def rendered(data: ReportInput) -> list[list[tuple[str, bool]]]:
    """Three rows as tokens, the middle of long ones left out so that the supervised end is seen."""
    if not data.shows_rows:
        return []
    found = []
    for row in data.rendered:
        tokens = [(str(text).replace("\n", "↵\n"), bool(supervised)) for text, supervised in row]
        if len(tokens) > TOKEN_LIMIT:
            tokens = [*tokens[: TOKEN_LIMIT // 2], (" […] ", False), *tokens[-TOKEN_LIMIT // 2 :]]
        found.append(tokens)
    return found


def contradictions(data: ReportInput) -> list[dict[str, str]]:
    if not data.shows_rows:
        return []
    lines = []
    for found in list(data.data_facts.get("contradictions") or [])[:MOST_CONTRADICTIONS]:
        if isinstance(found, dict):
            lines.append(
                {
                    "input": shortened(str(found.get("input", "")), 300),
                    "labels": ", ".join(map(str, found.get("labels") or [])),
                    "places": ", ".join(map(str, found.get("places") or [])),
                }
            )
    return lines
