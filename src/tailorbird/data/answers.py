"""Answers that the user has already: one for each row, found by the row's id or by its exact input text."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tailorbird.data.conversations import kind_of
from tailorbird.data.examine import examine
from tailorbird.data.files import SourceFile, resolve
from tailorbird.data.reading import items
from tailorbird.data.records import Record
from tailorbird.data.shapes import ANY_SHAPE, REQUIRED, listed
from tailorbird.data.text import clean, fold_name, printable
from tailorbird.errors import DataError
from tailorbird.types import Answer, Place, Rejected, Request, Row, Stop

_INPUT = tuple(
    dict.fromkeys(
        n for name in ("text_label", "prompt_completion", "question_answer", "alpaca") for n in REQUIRED[name]["prompt"]
    )
)
_ANSWER = ("answer", "prediction", "predicted", "output", "completion", "response", "reply")
_LABEL = ("label", "predicted_label", *(n for n in REQUIRED["text_label"]["label"] if n not in ("label", "target")))
_NUMBERS = ("score", "latency_ms", "cost", "confidence")


@dataclass(frozen=True, slots=True)
class GivenAnswer:
    text: str
    label: str | None
    place: Place
    numbers: Mapping[str, float]

    @property
    def said(self) -> tuple[str, str | None]:
        return self.text, self.label


@dataclass(frozen=True, slots=True)
class AnswersFile:
    """Answers by id and by input text. `columns`: role -> column. `score` is a confidence when all lie in [0, 1]."""

    path: str
    sha256: str
    columns: Mapping[str, str]
    by_id: Mapping[str, GivenAnswer] = field(repr=False)
    by_input: Mapping[str, GivenAnswer] = field(repr=False)
    score_is_confidence: bool = False

    def lookup(self, request: Request) -> Answer | None:
        """The answer to a request, by the row's own id, its content id, or its exact input text; None when there is
        none."""
        found = self.find(request)
        if found is None:
            return None
        confidence = found.numbers.get("confidence")
        if confidence is None and self.score_is_confidence:
            confidence = found.numbers.get("score")
        latency = found.numbers.get("latency_ms")
        return Answer(
            id=request.id,
            text=found.text,
            label=found.label,
            confidence=confidence,
            stop=Stop.GIVEN,
            seconds=None if latency is None else latency / 1000,
        )

    def find(self, request: Request) -> GivenAnswer | None:
        for key in (request.key, request.id):
            if key is not None and key in self.by_id:
                return self.by_id[key]
        return self.by_input.get(request.input_text)

    def cost(self, request: Request) -> float | None:
        """What the answer cost, in the file's own unit of money."""
        found = self.find(request)
        return None if found is None else found.numbers.get("cost")


def read_answers(path: str | os.PathLike[str], *, root: Path | None = None) -> AnswersFile:
    """A CSV, TSV, JSONL or JSON file with an `id` or input column and an `answer` or `label` column.

    Nothing is left out of it silently: a line that cannot be read, an empty answer, or two different answers to one
    id or one input text are DataErrors with their lines.
    """
    files = resolve([path], root or Path.cwd()).files
    if len(files) > 1:
        raise DataError(f"{len(files)} files, one with all answers is needed", where=printable(os.fspath(path)))
    examined = examine(files[0])
    records = list(_records(examined.file, items(examined)))
    if not records:
        raise DataError(
            "there are no answers in the file (D02)",
            where=examined.file.shown,
            remedy="put a line for each row into it",
        )
    columns = _columns(records, examined.file.shown)
    by_id: dict[str, GivenAnswer] = {}
    by_input: dict[str, GivenAnswer] = {}
    for record in records:
        answer = _answer(record, columns)
        key = record.value.get(columns.get("id", ""))
        text = record.value.get(columns.get("input", ""))
        if key is None and text is None:
            raise DataError(
                "neither id nor input text", where=str(record.place), remedy="give each answer its row's id or input"
            )
        if key is not None and key != "":
            _put(by_id, str(key).strip(), answer, "id")
        if isinstance(text, str):
            # The text of the rows was cleaned of control characters; where only the input identifies a row it must be
            # one.
            _put(by_input, clean(text)[0], answer, "input text", strict="id" not in columns)
    scores = [a.numbers["score"] for a in (*by_id.values(), *by_input.values()) if "score" in a.numbers]
    in_unit = bool(scores) and all(0 <= s <= 1 for s in scores)
    return AnswersFile(examined.file.shown, examined.sha256, columns, by_id, by_input, in_unit)


def inputs_to_answer(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """What stands in the file of rows that need an answer: id (the user's own, else the content id) and input, no
    label."""
    for row in rows:
        record: dict[str, Any] = {"id": row.key or row.id, "input": row.input_text}
        if len(row.prompt) > 1:
            record["messages"] = [m.as_dict() for m in row.prompt]
        yield record


def _records(source: SourceFile, stream: Iterable[Any]) -> Iterator[Record]:
    for item in stream:
        if isinstance(item, Rejected):
            remedy = "mend this line: an answers file is taken whole or not at all"
            raise DataError(f"{item.reason} ({item.code})", where=str(item.place), remedy=remedy)
        if isinstance(item, Record):
            yield item


def _columns(records: list[Record], where: str) -> dict[str, str]:
    present = list(dict.fromkeys(k for r in records[:200] for k in r.value))
    keys = {fold_name(k): k for k in reversed(present)}
    names = {"id": ANY_SHAPE["id"], "input": _INPUT, "label": _LABEL, "answer": _ANSWER} | {n: (n,) for n in _NUMBERS}
    found = {
        role: keys[name]
        for role, all_names in names.items()
        if (name := next((n for n in all_names if n in keys), None))
    }
    if "id" not in found and "input" not in found:
        what = f"no column says which row an answer belongs to; the columns are {listed(present)} (D16)"
        raise DataError(what, where=where, remedy="add a column `id` (the rows' own ids) or `text` (the exact input)")
    if "label" not in found and "answer" not in found:
        what = f"no column with the answers; the columns are {listed(present)} (D16)"
        raise DataError(what, where=where, remedy="call it `answer`, or `label` for a classification")
    return found


def _answer(record: Record, columns: Mapping[str, str]) -> GivenAnswer:
    label = _said(record, columns.get("label"))
    text = _said(record, columns.get("answer"))
    if text is None and label is None:
        name = columns.get("answer") or columns["label"]
        remedy = "give an answer, or leave the line out so that the row is named as missing"
        raise DataError(f"{name}: the answer is empty (D30)", where=str(record.place), remedy=remedy)
    return GivenAnswer(
        text=text if text is not None else str(label),
        label=label.strip() if label is not None else None,
        place=record.place,
        numbers={name: value for name in _NUMBERS if (value := _number(record, columns.get(name), name)) is not None},
    )


def _said(record: Record, column: str | None) -> str | None:
    value = record.value.get(column) if column is not None else None
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, str):
        raise DataError(f"{column}: is {kind_of(value)}, text is needed (D17)", where=str(record.place))
    return clean(value)[0]


def _number(record: Record, column: str | None, role: str) -> float | None:
    value = record.value.get(column) if column is not None else None
    if value is None or value == "":
        return None
    try:
        number = float("" if isinstance(value, bool) else value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    allowed = {"confidence": (0.0, 1.0), "score": (-math.inf, math.inf)}.get(role, (0.0, math.inf))
    if not math.isfinite(number) or not allowed[0] <= number <= allowed[1]:
        what = {"confidence": "a number from 0 to 1", "score": "a finite number"}.get(role, "a number not below 0")
        raise DataError(
            f"{column}: {what} is needed (D17)", where=str(record.place), remedy="correct it or leave it empty"
        )
    return number


def _put(answers: dict[str, GivenAnswer], key: str, answer: GivenAnswer, what: str, *, strict: bool = True) -> None:
    before = answers.setdefault(key, answer)
    if before.said == answer.said:
        return
    if strict:
        remedy = "leave one of them out" if what == "id" else "leave one of them out, or add a column `id`"
        raise DataError(
            f"another answer to the same {what} stands in line {before.place.line}",
            where=str(answer.place),
            remedy=remedy,
        )
