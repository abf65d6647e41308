"""Which columns hold what: the shapes people already have, found by the names of their fields.

Each record of a sample votes for the shape it fits; the majority decides for the file. A mapping given by the user
(`columns`) goes before any guess.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tailorbird.data.text import fold_name, printable, suggest
from tailorbird.errors import DataError

SAMPLE = 200
ROLES = ("prompt", "answer", "label", "system", "context", "id", "group", "weight", "messages")

# shape -> role -> names by which its column is found, best first
REQUIRED: dict[str, dict[str, tuple[str, ...]]] = {
    "messages": {"messages": ("messages", "conversation", "conversations", "chat", "dialogue", "dialog", "turns")},
    "alpaca": {"prompt": ("instruction",), "answer": ("output", "response", "completion")},
    "question_answer": {
        "prompt": ("question", "query", "problem", "q"),
        "answer": ("answer", "best_answer", "final_answer", "final_decision", "solution", "response", "a"),
    },
    "prompt_completion": {
        "prompt": ("prompt", "input", "source", "request", "user", "dialogue", "article", "document", "text"),
        "answer": (
            "completion",
            "response",
            "output",
            "target",
            "reply",
            "assistant",
            "summary",
            "highlights",
            "answer",
        ),
    },
    "text_label": {
        "prompt": (
            *("text", "sentence", "utterance", "query", "message", "tweet", "review", "comment", "content", "body"),
            *("input", "question", "prompt", "document", "description", "title"),
        ),
        "label": (
            *(
                "label_text",
                "label_name",
                "label",
                "category",
                "intent",
                "class",
                "labels",
                "topic",
                "sentiment",
                "tag",
            ),
            *("class_name", "intent_name", "target"),
        ),
    },
}
OPTIONAL: dict[str, dict[str, tuple[str, ...]]] = {
    "messages": {},
    "alpaca": {"context": ("input", "inputs", "context")},
    "question_answer": {"context": ("context", "contexts", "passage", "abstract", "document", "article", "background")},
    "prompt_completion": {},
    "text_label": {},
}
ANY_SHAPE = {"system": ("system", "system_prompt"), "id": ("id", "row_id", "example_id", "uid", "guid")}
NAMES = tuple(REQUIRED)


@dataclass(frozen=True, slots=True)
class Shape:
    """What was understood of a file: its shape, role -> column as written in the file, columns that nothing reads."""

    name: str
    columns: Mapping[str, str]
    rows_sampled: int
    unused: tuple[str, ...] = ()
    format: str = ""
    notes: tuple[str, ...] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        return {"shape": self.name, "columns": dict(self.columns), "unused": list(self.unused), "format": self.format}


def understand(
    sample: Sequence[Mapping[str, Any]],
    where: str,
    *,
    shape: str | None = None,
    columns: Mapping[str, str] | None = None,
    named: Iterable[str] = (),
) -> Shape:
    """The shape of a file from its first records. `named`: columns the spec uses for groups and slices.

    DataError when no shape fits, when a mapped column is not there, or when the format is one that comes later.
    """
    columns = dict(columns or {})
    if unknown := sorted(set(columns) - set(ROLES)):
        raise DataError(f"columns: {unknown[0]!r} is not a role", where=where, remedy=f"roles are {', '.join(ROLES)}")
    if shape is not None and shape not in REQUIRED:
        raise DataError(f"{shape!r} is not a shape", where=where, remedy=f"shapes are {', '.join(NAMES)}")
    present = Counter(key for record in sample for key in record)
    _check_named(present, columns, named, where)
    if not columns:
        refuse_later_formats(sample, where)
    wanted = shape or _shape_of_columns(columns)
    votes: Counter[str] = Counter()
    for record in sample:
        votes.update([found] if (found := _vote(record, wanted, columns)) else [])
    if not votes:
        raise _no_shape(present, wanted, columns, where)
    name = max(votes, key=lambda s: votes[s])
    fitting = [record for record in sample if _vote(record, wanted, columns) == name]
    found_columns = _columns_of(Counter(k for r in fitting for k in r), fitting, name, columns)
    used = {*found_columns.values(), *named}
    return Shape(name, found_columns, len(sample), tuple(k for k in present if k not in used))


def _check_named(present: Mapping[str, int], columns: Mapping[str, str], named: Iterable[str], where: str) -> None:
    for column in [*columns.values(), *named]:
        if column not in present:
            near = suggest(column, present)
            remedy = f"did you mean {near!r}?" if near else f"the columns are {listed(present)}"
            raise DataError(f"there is no column {column!r} (D16)", where=where, remedy=remedy)


def _shape_of_columns(columns: Mapping[str, str]) -> str | None:
    if "messages" in columns:
        return "messages"
    if "label" in columns:
        return "text_label"
    return "prompt_completion" if "answer" in columns and "prompt" in columns else None


def _vote(record: Mapping[str, Any], wanted: str | None, columns: Mapping[str, str]) -> str | None:
    keys = {fold_name(k): k for k in reversed(list(record))}
    for shape in [wanted] if wanted else NAMES:
        roles = {role: _column(role, names, keys, columns) for role, names in REQUIRED[shape].items()}
        if None in roles.values() or len(set(roles.values())) < len(roles):
            continue
        if shape == "messages" and not isinstance(as_messages(record.get(str(roles["messages"]))), list):
            continue
        return shape
    return None


def _column(role: str, names: Iterable[str], keys: Mapping[str, str], columns: Mapping[str, str]) -> str | None:
    if role in columns:
        return columns[role]
    taken = set(columns.values())
    return next((keys[n] for n in names if n in keys and keys[n] not in taken), None)


def _columns_of(
    present: Counter[str], fitting: Sequence[Mapping[str, Any]], shape: str, columns: Mapping[str, str]
) -> dict[str, str]:
    """Role -> column, by what most fitting records have."""
    keys = {fold_name(k): k for k, _ in reversed(present.most_common())}
    usual = {n: k for n, k in keys.items() if 2 * present[k] >= len(fitting)}
    found: dict[str, str] = dict(columns)
    for role, names in REQUIRED[shape].items():
        if column := _column(role, names, usual, columns) or _column(role, names, keys, columns):
            found[role] = column
    for role, names in [*OPTIONAL[shape].items(), *ANY_SHAPE.items()]:
        column = _column(role, names, keys, columns)
        if column is not None and (column not in found.values() or role in columns):
            found[role] = column
    return found


def as_messages(value: Any) -> Any:
    """A table's cell may hold the messages as JSON text; anything else is returned as it is."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def refuse_later_formats(sample: Sequence[Mapping[str, Any]], where: str) -> None:
    """Preference data is known, and not read yet: refused by name."""
    for record in sample[:20]:
        keys = {fold_name(k) for k in record}
        if {"chosen", "rejected"} <= keys:
            raise DataError(
                "these are preference pairs (chosen, rejected), which are not read yet",
                where=where,
                remedy="to train on the preferred answers, say columns: {prompt: prompt, answer: chosen}",
            )
        if {"prompt", "completion", "label"} <= keys and isinstance(record.get("label"), bool):
            raise DataError(
                "these are rated answers (prompt, completion, true or false), which are not read yet",
                where=where,
                remedy="keep the rows whose label is true, without that column",
            )


def _no_shape(present: Mapping[str, int], wanted: str | None, columns: Mapping[str, str], where: str) -> DataError:
    """Says which shape nearly fits: the one with the fewest roles missing, first those with a misspelt column."""
    folded = {fold_name(k): k for k in present}

    def missing(shape: str) -> list[str]:
        return [r for r, names in REQUIRED[shape].items() if r not in columns and not set(names) & set(folded)]

    def misspelt(role: str, shape: str) -> tuple[str, str] | None:
        pairs = ((n, suggest(n, present, 0.8)) for n in REQUIRED[shape][role] if len(n) > 3)
        return next(((near, n) for n, near in pairs if near and abs(len(near) - len(n)) <= 2), None)

    shapes = [wanted] if wanted else list(NAMES)
    nearest = min(shapes, key=lambda s: (len([r for r in missing(s) if not misspelt(r, s)]), len(missing(s))))
    gaps = missing(nearest)
    typo = next((m for r in gaps if (m := misspelt(r, nearest))), None)
    what = f"cannot tell what to read from the columns {listed(present)} (D16)"
    if gaps and (wanted or len(gaps) < len(REQUIRED[nearest]) or typo):
        what = f"no column for the {gaps[0]} ({nearest}); the columns are {listed(present)} (D16)"
    example = "{prompt: COLUMN, label: COLUMN}" if nearest == "text_label" else "{prompt: COLUMN, answer: COLUMN}"
    remedy = f"say which column is which, for example columns: {example}"
    if typo:
        remedy = f"is {typo[0]!r} meant as {typo[1]!r}? Rename it, or {remedy}"
    return DataError(what, where=where, remedy=remedy)


def listed(names: Iterable[str], limit: int = 12) -> str:
    all_names = [printable(n) for n in names]
    shown = ", ".join(n if len(n) <= 40 else n[:37] + "..." for n in all_names[:limit])
    return shown + (f" and {len(all_names) - limit} more" if len(all_names) > limit else "") if all_names else "(none)"
