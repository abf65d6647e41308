"""A short answer with one right wording. Main figure: exact match after SQuAD's normalization (or token F1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tailorbird.tasks.squad import exact_match, token_f1
from tailorbird.tasks.task import Task, TaskKind, stop_rate
from tailorbird.types import Answer, Outcome, Row

_METRICS = {"exact_match": exact_match, "token_f1": token_f1}


@dataclass(frozen=True)
class AnswerTask(Task):
    kind: ClassVar[TaskKind] = "answer"
    metric_names: ClassVar[tuple[str, ...]] = ("exact_match", "token_f1")

    def expected(self, row: Row) -> str:
        return row.answer

    def given(self, answer: Answer) -> str:
        return answer.text

    def judge(self, expected: str, given: str) -> float:
        return _METRICS[self.metric](expected, given)

    def metrics(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """The figure that is not the main one, and stop_rate where answers were generated."""
        if not outcomes:
            return {}
        others = {name: f for name, f in _METRICS.items() if name != self.metric}
        figures = {name: sum(f(o.expected, o.given) for o in outcomes) / len(outcomes) for name, f in others.items()}
        return figures | stop_rate(outcomes)
