"""The base as it is, from what the calibrated base said: scores with the calibration added back.

`versus_base` is against the uncalibrated zero_shot. Calibration only shifts the label scores, so the shift is undone
and nothing is computed again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tailorbird import store
from tailorbird.types import Answer, Request, Stop

SCORES = "scores.jsonl"


def write_scores(folder: Path, answers: Iterable[Answer]) -> None:
    store.write_jsonl(folder / SCORES, ({"id": a.id, "scores": dict(a.scores or {})} for a in answers))


class Uncalibrated:
    """An Answerer over the kept scores of a measurement and the calibration of its customization."""

    def __init__(self, measured: Path, customization: Path) -> None:
        self.kept = {record["id"]: record["scores"] for record in store.read_jsonl(measured / SCORES)}
        self.calibration: Mapping[str, float] = store.read_json(customization / "prompt.json")["decode"]["calibration"]

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        for request in requests:
            scores = {label: s + self.calibration[label] for label, s in self.kept[request.id].items()}
            label = max(request.candidates, key=lambda candidate: scores[candidate])
            confidence = 1.0 / sum(math.exp(s - scores[label]) for s in scores.values())
            yield Answer(request.id, label, label=label, scores=scores, confidence=confidence, stop=Stop.SCORED)
