"""A longer text judged by its likeness to a reference. Main figure: ROUGE-L (or chrF); neither judges truth or tone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tailorbird.tasks.chrf import chrf
from tailorbird.tasks.rouge_l import rouge_l
from tailorbird.tasks.task import TaskKind
from tailorbird.tasks.wording import Likeness, Wording


@dataclass(frozen=True)
class Write(Wording):
    kind: ClassVar[TaskKind] = "write"
    likenesses: ClassVar[Mapping[str, Likeness]] = {"rouge_l": rouge_l, "chrf": chrf}
    metric_names: ClassVar[tuple[str, ...]] = tuple(likenesses)
