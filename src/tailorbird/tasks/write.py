"""A longer text judged by its likeness to a reference. Main figure: ROUGE-L (or chrF); neither judges truth or tone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tailorbird.tasks.chrf import chrf
from tailorbird.tasks.rouge_l import rouge_l
from tailorbird.tasks.task import Task, TaskKind, stop_rate
from tailorbird.types import Answer, Outcome, Row

_METRICS = {"rouge_l": rouge_l, "chrf": chrf}


@dataclass(frozen=True)
class Write(Task):
    kind: ClassVar[TaskKind] = "write"
    metric_names: ClassVar[tuple[str, ...]] = ("rouge_l", "chrf")

    def expected(self, row: Row) -> str:
        return row.answer

    def given(self, answer: Answer) -> str:
        return answer.text

    def judge(self, expected: str, given: str) -> float:
        return _METRICS[self.metric](expected, given)

    def metrics(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """The likeness that is not the main one, and stop_rate where answers were generated."""
        if not outcomes:
            return {}
        others = {name: f for name, f in _METRICS.items() if name != self.metric}
        figures = {name: sum(f(o.expected, o.given) for o in outcomes) / len(outcomes) for name, f in others.items()}
        return figures | stop_rate(outcomes)
