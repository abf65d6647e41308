"""What `answer` and `write` have in common: the answer is text, and every figure is a likeness to the row's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tailorbird.tasks.task import Task, stop_rate
from tailorbird.types import Answer, Outcome, Row

Likeness = Callable[[str, str], float]  # expected, given -> [0, 1]


@dataclass(frozen=True)
class Wording(Task):
    likenesses: ClassVar[Mapping[str, Likeness]]

    def expected(self, row: Row) -> str:
        return row.answer

    def given(self, answer: Answer) -> str:
        return answer.text

    def judge(self, expected: str, given: str) -> float:
        return self.likenesses[self.metric](expected, given)

    def metrics(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """The likenesses that are not the main one, and stop_rate where answers were generated."""
        if not outcomes:
            return {}
        others = {name: f for name, f in self.likenesses.items() if name != self.metric}
        figures = {name: sum(f(o.expected, o.given) for o in outcomes) / len(outcomes) for name, f in others.items()}
        return figures | stop_rate(outcomes)
