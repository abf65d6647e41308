"""Records to rows: each field checked for its type and content, text repaired and counted, everything else refused."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tailorbird.data.conversations import Turn, kind_of, turns_of
from tailorbird.data.records import BadRow, Record
from tailorbird.data.shapes import REQUIRED, Shape, as_messages
from tailorbird.data.text import (
    clean,
    content_id,
    fold_name,
    has_surrogate,
    is_blank,
    printable,
    special_tokens,
    suggest,
)
from tailorbird.types import Conversation, Message, Role, Row

Labels = Collection[str]


@dataclass(slots=True)
class RowReader:
    """Makes rows of one file's records. What it repaired is counted in `fixed` (by code) and `special` (by spelling).

    `classify`: the answer is the label, whatever the shape. `labels`: the declared set; others are refused.
    `last_only`: of several answers in a conversation the last alone is learned.
    """

    shape: Shape
    group: str | None = None
    slices: Sequence[str] = ()
    classify: bool = False
    labels: Labels | None = None
    last_only: bool = False
    fixed: Counter[str] = field(default_factory=Counter)
    special: Counter[str] = field(default_factory=Counter)

    def row(self, record: Record) -> Row:
        """The row, or BadRow."""
        value = record.value
        turns = self._turns(value, answered=True)
        label = None
        if self.classify or "label" in REQUIRED[self.shape.name]:
            turns[-1], label = self._label(turns[-1])
        turns = self._cleaned(turns)
        if self.last_only:
            turns = [*(Turn(t.role, t.content, supervised=False) for t in turns[:-1]), turns[-1]]
        messages = tuple(Message(t.role, t.content) for t in turns)
        supervised = tuple(t.supervised for t in turns)
        return Row(
            id=content_id([(t.role.value, t.content, t.supervised) for t in turns], label),
            messages=messages,
            supervised=supervised,
            place=record.place,
            label=label,
            group=self._group(value),
            key=self._key(value, self.shape.columns.get("id")),
            weight=self._weight(value),
            slices={name: self._slice(value, name) for name in self.slices},
        )

    def question(self, record: Record) -> tuple[Conversation, str | None]:
        """The turns up to the answer and the row's own id; an answer in the record is not looked at."""
        turns = self._cleaned(self._turns(record.value, answered=False))
        messages = tuple(Message(t.role, t.content) for t in turns)
        return messages, self._key(record.value, self.shape.columns.get("id"))

    def _turns(self, value: Mapping[str, Any], *, answered: bool) -> list[Turn]:
        columns = self.shape.columns
        if "messages" in columns:
            cell = self._required(value, "messages")
            turns = turns_of(as_messages(cell), columns["messages"], answered=answered)
        else:
            turns = [Turn(Role.USER, self._prompt(value), supervised=False)]
            if answered:
                role = "label" if "label" in columns else "answer"
                turns.append(Turn(Role.ASSISTANT, self._answer(value, role), supervised=True))
        system = self._optional_text(value, "system")
        if system is not None and turns[0].role is not Role.SYSTEM:
            turns.insert(0, Turn(Role.SYSTEM, system, supervised=False))
        return turns

    def _prompt(self, value: Mapping[str, Any]) -> str:
        prompt = self._text(value, "prompt", blank="D25")
        context = self._optional_text(value, "context")
        if context is None:
            return prompt
        # alpaca puts the input after the instruction, a passage stands before its question
        return f"{prompt}\n\n{context}" if self.shape.name == "alpaca" else f"{context}\n\n{prompt}"

    def _answer(self, value: Mapping[str, Any], role: str) -> str:
        column = self.shape.columns[role]
        cell = value.get(column)
        if (role == "label" or self.classify) and isinstance(cell, int) and not isinstance(cell, bool):
            self.fixed["D17"] += 1  # a label id is a name, also when it is written as a number
            return str(cell)
        return self._text(value, role, blank="D30")

    def _label(self, turn: Turn) -> tuple[Turn, str]:
        label, _ = clean(turn.content)
        label = label.strip()
        if self.labels is not None and label not in self.labels:
            near = suggest(label, self.labels, 0.6)
            hint = f"; did you mean {near!r}?" if near else ""
            shown = printable(label if len(label) <= 60 else label[:57] + "...")
            column = self.shape.columns.get("label") or self.shape.columns.get("answer")
            raise BadRow(column, "D35", f"{shown!r} is not one of the {len(self.labels)} labels of the task{hint}")
        return Turn(turn.role, label, turn.supervised), label

    def _required(self, value: Mapping[str, Any], role: str) -> Any:
        column = self.shape.columns[role]
        if column in value:
            return value[column]
        known = set(self.shape.columns.values())
        near = suggest(column, [k for k in value if k not in known], 0.6)
        hint = f"; did you mean it by {printable(near)!r}?" if near else ""
        raise BadRow(column, "D16", f"the field is missing{hint}")

    def _text(self, value: Mapping[str, Any], role: str, *, blank: str) -> str:
        text = self._required(value, role)
        column = self.shape.columns[role]
        if not isinstance(text, str):
            raise BadRow(column, "D17", f"is {kind_of(text)}, text is needed")
        if is_blank(text):
            raise BadRow(column, blank, "is empty or holds nothing visible")
        return text

    def _optional_text(self, value: Mapping[str, Any], role: str) -> str | None:
        column = self.shape.columns.get(role)
        text = value.get(column) if column is not None else None
        if role == "context" and isinstance(text, list) and all(isinstance(t, str) for t in text):
            text = "\n".join(text)
        if text is None:
            return None
        if not isinstance(text, str):
            raise BadRow(column, "D17", f"is {kind_of(text)}, text is needed")
        return None if is_blank(text) else text

    def _cleaned(self, turns: Sequence[Turn]) -> list[Turn]:
        cleaned: list[Turn] = []
        repaired = False
        for turn in turns:
            text, changed = clean(turn.content)
            if changed and is_blank(text):
                code = "D30" if turn.role is Role.ASSISTANT else "D25"
                raise BadRow(None, code, f"the {turn.role.value} turn holds nothing but control characters")
            if has_surrogate(text):
                raise BadRow(None, "D11", "holds half of a surrogate pair, which is no character")
            repaired = repaired or changed
            cleaned.append(Turn(turn.role, text, turn.supervised))
        spellings = Counter(s for turn in cleaned for s in special_tokens(turn.content))
        self.fixed.update({"D26": int(repaired), "D27": int(bool(spellings))})
        self.special.update(spellings)
        return cleaned

    def _group(self, value: Mapping[str, Any]) -> str | None:
        column = self.group or self.shape.columns.get("group")
        if column is None:
            return None
        group = self._key(value, column)
        if group is None:
            raise BadRow(column, "D16", "the group is missing: which rows belong together is not known")
        return group

    def _key(self, value: Mapping[str, Any], column: str | None) -> str | None:
        cell = value.get(column) if column is not None else None
        if cell is None or cell == "":
            return None
        if isinstance(cell, (dict, list, bool)):
            raise BadRow(column, "D17", f"is {kind_of(cell)}, text or a number is needed")
        return printable(str(cell)).strip() or None

    def _slice(self, value: Mapping[str, Any], name: str) -> str:
        cell = value.get(name)
        if isinstance(cell, (dict, list)):
            raise BadRow(name, "D17", f"is {kind_of(cell)}, a slice needs text or a number")
        return "(none)" if cell is None or str(cell).strip() == "" else printable(str(cell)).strip()

    def _weight(self, value: Mapping[str, Any]) -> float:
        column = self.shape.columns.get("weight")
        cell = value.get(column) if column is not None else None
        if cell is None or cell == "":
            return 1.0
        try:
            weight = float("" if isinstance(cell, bool) else cell)
        except (TypeError, ValueError, OverflowError):
            raise BadRow(column, "D17", "a weight is a number above 0") from None
        if not math.isfinite(weight) or weight <= 0:
            raise BadRow(column, "D10", "a weight is a finite number above 0")
        return weight


def similar_labels(labels: Collection[str]) -> list[tuple[str, str]]:
    """Pairs of labels that differ only in case, blanks and separators."""
    seen: dict[str, str] = {}
    pairs = []
    for label in sorted(labels):
        first = seen.setdefault(fold_name(label), label)
        if first != label:
            pairs.append((first, label))
    return pairs
