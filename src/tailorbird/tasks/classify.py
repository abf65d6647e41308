"""One of a fixed set of labels. Main figure: accuracy, the share of rows that got their label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from tailorbird.tasks.calibration import calibration_error, coverage_at
from tailorbird.tasks.f1 import macro_f1, recalls
from tailorbird.tasks.labels import LabelReader
from tailorbird.tasks.task import Task, TaskKind, label_of
from tailorbird.types import Answer, Outcome, Row

WISHED_ACCURACY = 0.9


@dataclass(frozen=True)
class Classify(Task):
    kind: ClassVar[TaskKind] = "classify"
    metric_names: ClassVar[tuple[str, ...]] = ("accuracy",)

    def expected(self, row: Row) -> str:
        return label_of(row)

    @cached_property
    def read_label(self) -> LabelReader:
        return LabelReader(self.labels)

    def given(self, answer: Answer) -> str:
        """The label id; else the id that the text names; else the text as it came, which no label equals: wrong."""
        said = answer.text if answer.label is None else answer.label
        if answer.label in self.labels:
            return said
        return self.read_label(said) or said.strip()

    def judge(self, expected: str, given: str) -> float:
        return float(expected == given)

    def metrics(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """macro_f1, `recall:LABEL` of each label that occurs; with confidences for every row ece and coverage_at_90."""
        if not outcomes:
            return {}
        expected, given = [o.expected for o in outcomes], [o.given for o in outcomes]
        figures = {"macro_f1": macro_f1(expected, given)}
        confidence = [o.confidence for o in outcomes if o.confidence is not None]
        if len(confidence) == len(outcomes):
            correct = [o.score for o in outcomes]
            figures["ece"] = calibration_error(confidence, correct)
            figures["coverage_at_90"] = coverage_at(WISHED_ACCURACY, confidence, correct)
        return figures | {f"recall:{label}": share for label, share in recalls(expected, given).items()}
