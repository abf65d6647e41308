"""The model card beside a customization: README.md, filled from what was measured. Nothing praised, nothing rounded."""

from __future__ import annotations

import json
from typing import Any

from tailorbird.plan import Plan
from tailorbird.types import JSON


def card(row: JSON, comparison: JSON, plan: Plan) -> str:
    """Markdown with the front matter that model hubs read."""
    base, metric = comparison["base"], comparison["metric"]
    front = {"base_model": base["name"], "library_name": "tailorbird", "tags": [row["technique"], comparison["task"]]}
    if base.get("licence"):
        front["license"] = str(base["licence"]).lower()
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in front.items()), "---", ""]
    lines += [
        f"# {row['label']}: {row['technique']} on {base['name']}",
        "",
        f"Made by tailorbird in the run `{comparison['run']}` for the task *{comparison['task']}*. "
        f"It belongs to the base with the fingerprint `{base['fingerprint']}` and is refused on any other.",
        "",
        "## Measured",
        "",
        f"| rows | {metric} | 95 % interval | n |",
        "|---|---|---|---|",
        *(f"| {s.capitalize()} | {_score(row.get(s))} |" for s in ("validation", "test")),
        "",
        f"The intervals speak of {row['interval_is_about']}. {_verdict(row, comparison)}",
        "",
        "## Forgetting and cost",
        "",
        *_costs(row),
        "",
        "## How it was made",
        "",
        f"{plan.splits['train']} Train rows and {plan.splits['tuning']} Tuning rows, {_seed(row, plan)}, "
        f"computed in {plan.dtype} on {plan.device} with {plan.threads} threads.{_parent(row)}",
        "",
        "| setting | asked | used |",
        "|---|---|---|",
        *(f"| {name} | {_cell(row['settings']['asked'].get(name))} | {_cell(value)} |" for name, value in _used(row)),
        "",
        "## Limits",
        "",
        "The scores hold for rows like those it was measured on, and for this base. It inherits what the base knows, "
        "gets wrong and is licensed for. Its licence is that of the base unless you say otherwise.",
        "",
    ]
    return "\n".join(lines)


def _parent(row: JSON) -> str:
    after = row["after"]
    return f" It was started from {after}, whose parts it holds." if after else ""


def _seed(row: JSON, plan: Plan) -> str:
    """The seed of these files; the scores are means over all that were made."""
    handed = [one["seed"] for one in row["by_seed"] if one["exported"]]
    if not handed:
        return f"seed {plan.seed}"
    return f"seed {handed[0]} (the scores are means over the seeds {', '.join(map(str, row['seeds']))})"


def _used(row: JSON) -> list[tuple[str, Any]]:
    return sorted(row["settings"]["effective"].items())


def _score(score: JSON | None) -> str:
    if not score:
        return "not opened | |"
    return f"{score['score']:.3f} | {score['low']:.3f} to {score['high']:.3f} | {score['n']}"


def _verdict(row: JSON, comparison: JSON) -> str:
    recommendation = comparison.get("recommendation") or {}
    reason = recommendation.get("reason")
    chosen = recommendation.get("label") == row["label"]
    start = "It is the one that was recommended" if chosen else "The verdict of the comparison it was part of"
    return f"{start}: {reason}" if reason else ""


def _shortened(bits: JSON) -> str:
    return f", of {bits['shortened']} their start" if bits.get("shortened") else ""


def _costs(row: JSON) -> list[str]:
    cost, forgetting = row["cost"], row["forgetting"]
    bits = (forgetting or {}).get("bits_per_byte")
    lines = [
        f"- General texts: {bits['change']:+.4f} bits per byte ({bits['low']:+.4f} to {bits['high']:+.4f}, "
        f"{bits['texts']} texts{_shortened(bits)}) against the untouched base."
        if bits
        else "- General texts: the weights are untouched, so nothing can be forgotten."
    ]
    drift = (forgetting or {}).get("drift_kl")
    if drift:
        lines.append(
            f"- Drift: {drift['value']:.4f} nats a token ({drift['low']:.4f} to {drift['high']:.4f}): mean KL from the "
            f"untouched base along its own answers to {drift['prompts']} general prompts."
        )
    latency = cost.get("latency_ms")
    if latency:
        lines.append(
            f"- One request alone: {latency['median']:.0f} ms (p95 {latency['p95']:.0f} ms) where it was measured."
        )
    if cost.get("deployed_bytes") is not None:
        lines.append(f"- To deploy beyond the base: {cost['deployed_bytes'] / 1e6:,.3f} MB.")
    if cost.get("trainable_parameters"):
        lines.append(f"- Trained parameters: {cost['trainable_parameters']:,}.")
    return lines


def _cell(value: Any) -> str:
    return "" if value is None else str(value).replace("|", "\\|")
