"""What a task is: how a row becomes a request, an answer an outcome, and outcomes figures. Knows no model and no file.

The request holds the row's own turns and never its label. The instruction is not in it: it belongs to what is measured
(a customization carries the one it was made with), so an answers file or a command sees exactly what the data says.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from tailorbird.errors import DataError
from tailorbird.types import Answer, Outcome, Request, Row, Stop

TaskKind = Literal["classify", "answer", "write"]


@dataclass(frozen=True)
class Task(ABC):
    """`metric`: the main figure, the mean of the outcomes' scores. `labels`: id -> words; empty if not classify."""

    instruction: str | None
    metric: str
    labels: Mapping[str, str] = field(default_factory=dict)
    max_new_tokens: int = 0

    kind: ClassVar[TaskKind]
    metric_names: ClassVar[tuple[str, ...]]  # what may be the main figure; the first is the default

    def request(self, row: Row) -> Request:
        return Request(
            id=row.id,
            messages=row.prompt,
            candidates=tuple(self.labels),
            max_new_tokens=self.max_new_tokens,
            key=row.key,
        )

    @abstractmethod
    def expected(self, row: Row) -> str:
        """What counts as right: the label id, or the text of the answer."""

    @abstractmethod
    def given(self, answer: Answer) -> str:
        """What was answered, in the terms of `expected`."""

    @abstractmethod
    def judge(self, expected: str, given: str) -> float:
        """The row's score by the main metric, in [0, 1]."""

    @abstractmethod
    def metrics(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """The other figures, by name. What cannot be known from these outcomes is left out, never 0."""

    def outcome(self, row: Row, answer: Answer) -> Outcome:
        if row.id != answer.id:
            raise ValueError(f"answer {answer.id!r} is not to row {row.id!r}")
        expected, given = self.expected(row), self.given(answer)
        return Outcome(
            row=row.id,
            score=self.judge(expected, given),
            expected=expected,
            given=given,
            group=row.group,
            confidence=answer.confidence,
            stop=answer.stop,
            prompt_tokens=answer.prompt_tokens,
            answer_tokens=answer.answer_tokens,
            slices=row.slices,
        )


def stop_rate(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """{"stop_rate": share of generated answers that ended before the limit}; {} if none was generated."""
    generated = [o for o in outcomes if o.stop in (Stop.END, Stop.LENGTH)]
    if not generated:
        return {}
    return {"stop_rate": sum(o.stop is Stop.END for o in generated) / len(generated)}


def label_of(row: Row) -> str:
    if row.label is None:
        raise DataError(
            "the row has no label",
            where=str(row.place),
            remedy="a classify task needs one label a row; name its column under data.columns.label",
        )
    return row.label
