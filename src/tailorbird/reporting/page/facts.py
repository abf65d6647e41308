"""What was decided and where it ran, as name-value pairs: data, splits, settings, machine, versions, seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tailorbird.reporting import numbers
from tailorbird.reporting.contestants import in_order, joined
from tailorbird.reporting.page.input import ReportInput
from tailorbird.reporting.text import LONGEST_UNKNOWN, Veil, shortened

Pair = tuple[str, str]
BYTES = ("bytes", "_size", "memory_bytes")
SETTING_LIMIT = 400
SHOWN_ELSEWHERE = (
    "files", "rows", "accepted", "rejected", "fixed", "duplicates", "contradictions", "contradiction_count", "labels",
    "warnings",
)  # fmt: skip
MACHINE = ("device", "dtype", "dtype_reason", "threads", "memory_bytes", "gflops")  # of a plan


def words(key: Any) -> str:
    return str(key).replace("_", " ")


def told(key: str, value: Any) -> str:
    if numbers.is_number(value):
        if key.endswith(BYTES) or key == "size":
            return numbers.size(value)
        return numbers.count(value) if isinstance(value, int) else f"{value:g}"
    return numbers.setting(value)


def flat(values: Mapping[str, Any], skip: Sequence[str] = (), before: str = "") -> list[Pair]:
    """A mapping of plain values is one pair, deeper ones unfold ("lengths · prompt"); empty ones are left out."""
    pairs: list[Pair] = []
    for key, value in values.items():
        if key in skip or value is None or value == "" or value == {} or value == [] or value == ():
            continue
        name = f"{before}{words(key)}"
        if isinstance(value, Mapping) and any(isinstance(item, Mapping) for item in value.values()):
            pairs += flat(value, (), f"{name} · ")
        elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
            pairs.append((name, f"{len(value)} entries"))
        else:
            pairs.append((name, shortened(told(str(key), value), SETTING_LIMIT)))
    return pairs


def data_pairs(data: ReportInput, veil: Veil) -> list[Pair]:
    """The counts of reading, then the splits."""
    facts: Mapping[str, Any] = veil(data.data_facts)
    pairs: list[Pair] = []
    if "rows" in facts:
        pairs.append(("rows read", numbers.count(facts["rows"])))
    if "accepted" in facts:
        pairs.append(("accepted", numbers.count(facts["accepted"])))
    for key, name in (("rejected", "rejected, by reason"), ("fixed", "repaired, by reason")):
        found = facts.get(key) or {}
        if isinstance(found, Mapping):
            total = sum(v for v in found.values() if numbers.is_number(v))
            pairs.append((name, f"{numbers.count(total)}" + (f" ({numbers.setting(found)})" if found else "")))
    if "duplicates" in facts:
        value = facts["duplicates"]
        pairs.append(("duplicates", numbers.count(len(value)) if isinstance(value, list) else numbers.setting(value)))
    listed = facts.get("contradictions") or []
    contradictions = facts.get("contradiction_count", len(listed))
    pairs.append(("contradictions (same input, several labels or answers)", numbers.setting(contradictions)))
    return pairs + flat(facts, SHOWN_ELSEWHERE)


def split_pairs(data: ReportInput) -> list[Pair]:
    splits = data.comparison.get("splits") or {}
    purposes = {
        "train": "seen by the techniques",
        "tuning": "early stopping, choice of checkpoint and prompt",
        "validation": "the choice among contestants",
        "test": "opened after the choice was sealed",
    }
    pairs = [
        (name.capitalize(), f"{numbers.count(splits[name])} rows: {purpose}")
        for name, purpose in purposes.items()
        if name in splits
    ]
    if "overlap" in splits:
        pairs.append(("Rows shared between Train and the others", numbers.count(splits["overlap"])))
    return pairs + flat(data.split_facts, ("sizes", "overlap"))


def files(data: ReportInput) -> list[dict[str, str]]:
    found = []
    for entry in data.data_facts.get("files") or []:
        if isinstance(entry, Mapping):
            found.append(
                {
                    "path": str(entry.get("path", "")),
                    "rows": numbers.count(entry.get("rows")),
                    "size": numbers.size(entry.get("size")),
                    "shape": words(entry.get("shape") or "–"),
                    "encoding": str(entry.get("encoding") or "–"),
                    "hash": str(entry.get("sha256") or "")[:23],
                }
            )
    return found


def label_counts(data: ReportInput) -> list[tuple[str, int, int]]:
    """(label, rows, width in percent of the largest), largest first."""
    counts = {str(k): int(v) for k, v in (data.data_facts.get("labels") or {}).items() if numbers.is_number(v)}
    most = max(counts.values(), default=0)
    return (
        [(k, v, round(100 * v / most)) for k, v in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
        if most
        else []
    )


def settings(data: ReportInput, veil: Veil) -> list[dict[str, Any]]:
    """Per contestant: setting, asked, effective; what was not asked for is a default."""
    found = []
    for row in in_order(data.comparison):
        both = row.get("settings") or {}
        asked, effective = both.get("asked") or {}, both.get("effective") or {}
        lines = [
            (words(key), value(asked[key], veil) if key in asked else "", value(effective.get(key), veil))
            for key in {**effective, **asked}
        ]
        if lines:
            found.append({"label": row["label"], "lines": lines, "seeds": joined(row.get("seeds") or [])})
    return found


def value(raw: Any, veil: Veil) -> str:
    text = str(veil(numbers.setting(raw)))
    if veil.active and len(text) > LONGEST_UNKNOWN:
        return f"[hidden: {len(text)} characters that may quote rows]"
    return shortened(text, SETTING_LIMIT)


def machine_pairs(data: ReportInput) -> list[Pair]:
    """From the bundle's machine; without one what the plan says of it."""
    machine = data.machine or data.plan.get("machine")
    if isinstance(machine, Mapping) and machine:
        return flat(machine, ("versions",))
    return flat({key: data.plan[key] for key in MACHINE if key in data.plan})


def version_pairs(data: ReportInput) -> list[Pair]:
    machine = data.machine or data.plan.get("machine")
    inside = machine.get("versions") if isinstance(machine, Mapping) else None
    found = data.versions or data.plan.get("versions") or inside
    return [(str(k), str(v)) for k, v in found.items()] if isinstance(found, Mapping) else []


def plan_pairs(data: ReportInput, veil: Veil) -> list[Pair]:
    plan: Mapping[str, Any] = veil(data.plan)
    skip = (
        "machine",
        "versions",
        "contestants",
        "entrants",
        "steps",
        "spec",
        "base",
        "gflops",
        "memory_bytes",
        "notes",
    )
    return flat(plan, skip)
