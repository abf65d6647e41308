"""What a contestant costs and what it forgot, in sentences."""

from __future__ import annotations

from tailorbird.reporting import numbers
from tailorbird.reporting.contestants import done, in_order, joined, pick
from tailorbird.reporting.text import printable
from tailorbird.types import JSON


def costs(comparison: JSON) -> list[str]:
    row = pick(comparison)
    if row is None:
        return []
    cost, lines, label = row.get("cost") or {}, [], printable(row["label"])
    latency = cost.get("latency_ms") or {}
    if numbers.is_number(cost.get("train_seconds")):
        memory = cost.get("peak_memory_mb")
        peak = f", {numbers.scaled(memory * 1e6, 'B')} of memory at the peak" if numbers.is_number(memory) else ""
        whole = cost.get("all_seconds")
        also = [name for name, there in (("search", row.get("tuning")), ("other seeds", row.get("by_seed"))) if there]
        more = f"; with its {joined(also)} {numbers.seconds(whole)} in all" if also and numbers.is_number(whole) else ""
        lines.append(f"Making {label} took {numbers.seconds(cost['train_seconds'])}{peak}{more}.")
    if numbers.is_number(latency.get("median")):
        tokens = (
            f", {numbers.count(cost['prompt_tokens'])} prompt tokens"
            if numbers.is_number(cost.get("prompt_tokens"))
            else ""
        )
        lines.append(
            f"One request alone: {numbers.milliseconds(latency['median'])} (median), "
            f"{numbers.milliseconds(latency.get('p95'))} (95 of 100 are faster){tokens}."
        )
    if numbers.is_number(cost.get("deployed_bytes")):
        lines.append(f"To deploy beyond the base: {numbers.size(cost['deployed_bytes'])}.")
    if numbers.is_number(cost.get("money")):
        lines.append(f"Money: {cost['money']:g} for this run's requests.")
    return lines + compared_cost(comparison, row)


def compared_cost(comparison: JSON, row: JSON) -> list[str]:
    """How much smaller or larger than the next best trained technique, when that is worth a sentence."""
    others = [r for r in in_order(comparison) if done(r) and r["label"] != row["label"] and trained(r)]
    if not others or not trained(row):
        return []
    mine, theirs = row["cost"]["deployed_bytes"], others[0]["cost"]["deployed_bytes"]
    label, other = printable(row["label"]), printable(others[0]["label"])
    if smaller := numbers.ratio(theirs, mine):
        return [f"{label} is {smaller} smaller to deploy than {other}."]
    if larger := numbers.ratio(mine, theirs):
        return [f"{label} is {larger} larger to deploy than {other}."]
    return []


def trained(row: JSON) -> bool:
    cost = row.get("cost") or {}
    parameters = cost.get("trainable_parameters")
    return numbers.is_number(parameters) and parameters > 0 and numbers.is_number(cost.get("deployed_bytes"))


def forgetting(comparison: JSON) -> list[str]:
    return [*_of_pick(comparison), *_without_room(comparison)]


def _of_pick(comparison: JSON) -> list[str]:
    row = pick(comparison)
    if row is None:
        return []
    label, found = printable(row["label"]), row.get("forgetting") or {}
    change = found.get("bits_per_byte") or {}
    if found.get("state") != "measured" or not numbers.is_number(change.get("change")):
        if row.get("kind") != "technique":
            return [f"Not applicable: {label} does not change the base."]
        return [f"Not applicable to {label}: the base's weights stay as they are, and only the prompt differs."]
    return [_bits_sentence(label, change), *_drift_sentence(label, found.get("drift_kl") or {})]


def _without_room(comparison: JSON) -> list[str]:
    """What the virtual tokens of some contestant left no room for: cut or left out for all of them, and said here."""
    found = next((f for r in comparison["rows"] if (f := r.get("forgetting") or {}).get("state") == "measured"), {})
    bits, drift, lines = found.get("bits_per_byte") or {}, found.get("drift_kl", {}), []
    if bits.get("shortened"):
        lines.append(
            f"Of {numbers.count(bits['shortened'])} of the {numbers.count(bits['texts'])} general texts only the start "
            "was looked at, which every contestant has room for."
        )
    if drift is None:
        lines.append("Drift was not measured: no general prompt has room beside the virtual tokens and an answer.")
    elif drift.get("left_out"):
        lines.append(
            f"{numbers.count(drift['left_out'])} general prompts without room beside the virtual tokens and an answer "
            "are left out of drift for all contestants."
        )
    return lines


def _bits_sentence(label: str, change: JSON) -> str:
    value, low, high = change["change"], change.get("low"), change.get("high")
    texts = numbers.count(change.get("texts"))
    if value == 0:
        return f"Nothing: on {texts} general texts {label} is exactly as good as the base."
    span = f"{numbers.bits(value)} bits per byte ({numbers.bits(low)} to {numbers.bits(high)}) on {texts} general texts"
    if numbers.is_number(low) and low > 0:
        return f"{label} got measurably worse at general text: {span}."
    if numbers.is_number(high) and high < 0:
        return f"{label} got measurably better at general text: {span}."
    return f"No measurable forgetting: {span}."


def _drift_sentence(label: str, drift: JSON) -> list[str]:
    """How far it has moved along the base's own answers; nothing where that was not measured."""
    if not numbers.is_number(drift.get("value")):
        return []
    prompts = numbers.count(drift.get("prompts"))
    if drift["value"] == 0:
        return [f"Drift: none; it answers {prompts} general prompts exactly as the base does."]
    span = f"{numbers.nats(drift.get('low'))} to {numbers.nats(drift.get('high'))}"
    return [
        f"Drift: along the base's own answers to {prompts} general prompts {label} has moved by "
        f"{numbers.nats(drift['value'])} nats a token ({span})."
    ]
