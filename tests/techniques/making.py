"""A customization made in a moment on a tiny base, for the tests of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tailorbird import tasks, techniques
from tailorbird.bases.facts import base_facts
from tailorbird.customize import Compute, Job, customize
from tailorbird.testing import tiny_rows
from tailorbird.types import Train, Tuning

QUICK = {"epochs": 2, "batch_rows": 4, "learning_rate": 0.01}


def job(
    technique: str, base: Path, work: Path, parent: Path | None = None, dtype: str = "float32", **asked: Any
) -> Job:
    rows, facts, shelf = tiny_rows(8), base_facts(base), techniques.get(technique)
    wished = {**(QUICK if shelf.trained else {}), **asked}
    return Job(
        label=technique,
        technique=technique,
        settings=shelf.settings(wished, facts, len(rows)).model_dump(),
        asked=wished,
        base=facts,
        task=tasks.build("classify", instruction="Name it.", labels=tasks.labels_in(rows)),
        train=Train(rows),
        tuning=Tuning([]),
        seed=0,
        compute=Compute(dtype=dtype),
        work=work,
        parent=parent,
    )


def make(folder: Path, technique: str, base: Path, parent: Path | None = None, **asked: Any) -> Path:
    customize(job(technique, base, folder.with_name(f"work-{folder.name}"), parent, **asked), folder)
    return folder
