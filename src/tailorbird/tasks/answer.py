"""A short answer with one right wording. Main figure: exact match after SQuAD's normalization (or token F1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tailorbird.tasks.squad import exact_match, token_f1
from tailorbird.tasks.task import TaskKind
from tailorbird.tasks.wording import Likeness, Wording


@dataclass(frozen=True)
class AnswerTask(Wording):
    kind: ClassVar[TaskKind] = "answer"
    likenesses: ClassVar[Mapping[str, Likeness]] = {"exact_match": exact_match, "token_f1": token_f1}
    metric_names: ClassVar[tuple[str, ...]] = tuple(likenesses)
