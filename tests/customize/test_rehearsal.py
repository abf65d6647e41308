"""The early rehearsal: what its one step is made with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tailorbird import tasks, techniques
from tailorbird.bases.facts import base_facts
from tailorbird.customize import Compute, Job
from tailorbird.customize.rehearsal import rehearse
from tailorbird.testing import make_tiny_base, tiny_rows
from tailorbird.types import Message, Role, Row, Train, Tuning


class Seen(Exception):
    pass


def longer(row: Row, words: int) -> Row:
    return replace(row, messages=(Message(Role.USER, "word " * words), *row.messages[1:]))


@pytest.mark.parametrize(("batch_rows", "taken"), [(6, [8, 7, 6, 5]), (3, [8, 7, 6])])
def test_its_step_takes_the_longest_rows_four_of_them_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_rows: int, taken: list[int]
) -> None:
    rows, facts, lora = tiny_rows(8), base_facts(make_tiny_base(tmp_path / "base")), techniques.get("lora")
    job = Job(
        label="lora",
        technique="lora",
        settings=lora.settings({"epochs": 3, "batch_rows": batch_rows}, facts, 8).model_dump(),
        asked={},
        base=facts,
        task=tasks.build("classify", instruction="Name it.", labels=tasks.labels_in(rows)),
        train=Train([longer(row, words) for row, words in zip(rows, (3, 8, 1, 6, 2, 7, 5, 4), strict=True)]),
        tuning=Tuning(rows[:3]),
        seed=0,
        compute=Compute(),
        work=tmp_path / "job",
    )
    asked: list[Any] = []

    def customize(few: Job, out: Path) -> None:
        asked.append(few)
        raise Seen

    monkeypatch.setattr("tailorbird.customize.rehearsal.customize", customize)
    with pytest.raises(Seen):
        rehearse(job, tmp_path / "work")
    (few,) = asked
    assert [row.input_text.count("word") for row in few.train] == taken
    assert (few.settings["epochs"], len(few.tuning)) == (1, 2)
    assert not (tmp_path / "work").exists()
