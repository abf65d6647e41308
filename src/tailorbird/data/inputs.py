"""Rows without answers, for `apply`: read while they are answered, each once, the user's own record kept beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from tailorbird.data.examine import examine
from tailorbird.data.files import resolve
from tailorbird.data.reading import items, sample_of
from tailorbird.data.records import BadRow, Record, Remark, Repair
from tailorbird.data.rows import RowReader
from tailorbird.data.shapes import ANY_SHAPE, OPTIONAL, REQUIRED, Shape, as_messages, listed, refuse_later_formats
from tailorbird.data.stream import MAX_LINE_BYTES
from tailorbird.data.text import fold_name
from tailorbird.errors import DataError
from tailorbird.types import Conversation, Place, Rejected

_ORDER = ("messages", "alpaca", "question_answer", "prompt_completion", "text_label")

INPUT_ROLES = ("prompt", "messages", "system", "context", "id")  # that a column can be said to have


@dataclass(frozen=True, slots=True)
class InputRow:
    """One row to be answered. `record`: the user's columns as they came (empty when the line could not be read).

    `request_messages`: the turns up to the answer; empty when `problem` says why this row cannot be answered.
    """

    record: Mapping[str, Any]
    request_messages: Conversation
    key: str | None
    place: Place
    problem: Rejected | None = None


def read_inputs(
    path: str | os.PathLike[str],
    columns: Mapping[str, str] | None = None,
    *,
    root: Path | None = None,
    max_line_bytes: int = MAX_LINE_BYTES,
) -> Iterator[InputRow]:
    """The rows of a file (or of all files of a folder or glob), in order; bad rows come too, with their problem.

    Understood: the shapes of `read` without their answers, and `.txt` with one input a line. An answer or label that
    is there is not looked at; `columns` (prompt, messages, system, context, id) goes before any guess, other roles
    are skipped.
    """
    for source in resolve([path], root or Path.cwd()).files:
        examined = examine(source, plain_text=True)
        stream = items(examined, cap=max_line_bytes)
        first, sample = sample_of(stream)
        shape = _input_shape(sample, source.shown, dict(columns or {})) if sample else None
        reader = RowReader(shape) if shape is not None else None
        for item in chain(first, stream):
            if isinstance(item, Rejected):
                yield InputRow({}, (), None, item.place, item)
            elif isinstance(item, Record) and reader is not None:
                yield _input_row(item, reader)
            else:
                assert isinstance(item, Repair | Remark)


def _input_row(record: Record, reader: RowReader) -> InputRow:
    try:
        messages, key = reader.question(record)
        return InputRow(record.value, messages, key, record.place)
    except BadRow as bad:
        return InputRow(record.value, (), None, record.place, bad.at(record.place))


def _input_shape(sample: list[dict[str, Any]], where: str, columns: dict[str, str]) -> Shape:
    """The shape whose input column the most records have; a mapping goes first."""
    refuse_later_formats(sample, where)
    present = list(dict.fromkeys(key for record in sample for key in record))
    keys = {fold_name(k): k for k in reversed(present)}
    asked = {role: c for role, c in columns.items() if role in INPUT_ROLES}
    if missing := next((c for c in asked.values() if c not in present), None):
        remedy = f"the columns are {listed(present)}"
        raise DataError(f"there is no column {missing!r} (D16)", where=where, remedy=remedy)
    for name in _ORDER:
        role = "messages" if name == "messages" else "prompt"
        column = asked.get(role) or next((keys[n] for n in REQUIRED[name][role] if n in keys), None)
        if column is None or (asked.keys() & {"messages", "prompt"} and role not in asked):
            continue
        if role == "messages" and not any(isinstance(as_messages(r.get(column)), list) for r in sample):
            continue
        optional = {**OPTIONAL[name], **ANY_SHAPE} if not asked.get("prompt") else ANY_SHAPE
        found = {role: column}
        for extra, names in optional.items():
            other = next((keys[n] for n in names if n in keys and keys[n] not in found.values()), None)
            if other is not None:
                found[extra] = other
        return Shape(name, {**found, **asked}, len(sample))
    if len(present) == 1:
        return Shape("prompt_completion", {"prompt": present[0]}, len(sample))
    raise DataError(
        f"cannot tell which column is the input; the columns are {listed(present)} (D16)",
        where=where,
        remedy="say it: `--column prompt=COLUMN` with apply, `columns: {prompt: COLUMN}` under `data` in a spec",
    )
