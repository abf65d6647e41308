"""The short forms of a spec (`data: rows.csv`, `- lora`) written out, and overrides of the command line put in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tailorbird.errors import SpecError
from tailorbird.spec.problems import did_you_mean
from tailorbird.spec.yaml import parse

CONTESTANT_FIELDS = (
    "label",
    "technique",
    "answers",
    "command",
    "adapter",
    "timeout_seconds",
    "replay",
    "after",
    "settings",
    "tune",
    "seeds",
    "curve",
)


def expand(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with its short forms written out; a document without any comes back equal."""
    full = dict(document)
    for name, field in (("base", "name"), ("task", "kind")):
        if isinstance(full.get(name), str):
            full[name] = {field: full[name]}
    if isinstance(full.get("data"), str | list):
        full["data"] = {"examples": full["data"]}
    data = full.get("data")
    if isinstance(data, Mapping):
        full["data"] = dict(data)
        examples = data.get("examples")
        if isinstance(examples, str):
            full["data"]["examples"] = [examples]
        elif isinstance(examples, list):
            plain = [e["path"] if isinstance(e, Mapping) and set(e) == {"path"} else e for e in examples]
            full["data"]["examples"] = plain
        if isinstance(data.get("slices"), str):
            full["data"]["slices"] = [data["slices"]]
    if isinstance(full.get("contestants"), list):
        full["contestants"] = [_contestant(c) for c in full["contestants"]]
    return full


def _contestant(value: Any) -> Any:
    """`lora` | {lora: {rank: 8}, label: …} | {technique: lora, settings: {…}} | {answers: …} -> all fields named."""
    if isinstance(value, str):
        return {"technique": value, "label": value}
    if not isinstance(value, Mapping):
        return value
    full = dict(value)
    others = [name for name in full if name not in CONTESTANT_FIELDS]
    if len(others) == 1 and not ({"technique", "settings"} & set(full)) and isinstance(full[others[0]], Mapping | None):
        full["technique"], full["settings"] = others[0], dict(full.pop(others[0]) or {})
    if "label" not in full and isinstance(full.get("technique"), str):
        full["label"] = full["technique"]
    if isinstance(full.get("tune"), int) and not isinstance(full["tune"], bool):
        full["tune"] = {"trials": full["tune"]}
    return full


def override(document: dict[str, Any], assignment: str) -> dict[str, Any]:
    """The expanded document with one `key=value` of the command line applied; the value is read as YAML."""
    path, equals, text = assignment.partition("=")
    names = [n.strip() for n in path.split(".")]
    if not equals or not all(names):
        raise SpecError(f"`{assignment}` is not of the form key=value", remedy="for example requirements.margin=0.03")
    value = parse(f"v: {text}", f"`{assignment}`")[0]["v"]
    target: Any = document
    for depth, name in enumerate(names[:-1]):
        if isinstance(target, list):
            target = _labelled(target, name, assignment)
        else:
            child = target.setdefault(name, {})
            if not isinstance(child, dict | list):
                raise SpecError(f"`{'.'.join(names[: depth + 1])}` has no fields of its own", where=f"`{assignment}`")
            target = child
    last = names[-1]
    if isinstance(target, list):
        raise SpecError(f"say which field of `{last}` is meant", where=f"`{assignment}`", remedy=f"{path}.FIELD=VALUE")
    if names[0] == "contestants" and len(names) == 3 and last not in CONTESTANT_FIELDS:
        target = target.setdefault("settings", {})
    target[last] = value
    return expand(document)


def _labelled(contestants: list[Any], label: str, assignment: str) -> dict[str, Any]:
    for contestant in contestants:
        if isinstance(contestant, dict) and contestant.get("label") == label:
            return contestant
    labels = [str(c["label"]) for c in contestants if isinstance(c, Mapping) and "label" in c]
    raise SpecError(f"no contestant is called `{label}`; {did_you_mean(label, labels)}", where=f"`{assignment}`")
