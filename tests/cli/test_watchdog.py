"""A run that hangs is ended with what it was doing; one that is slow, suspended or stopped is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tailorbird import store
from tailorbird.cli.watchdog import FILE, LEAST_SECONDS, TIMES, Watchdog


@pytest.fixture
def watched(tmp_path: Path) -> tuple[Watchdog, list[int]]:
    """In a training of 100 steps that should take 20,000 s, 200 s each; its thread is not started."""
    ended: list[int] = []
    dog = Watchdog("tailorbird run try.yaml", end=ended.append)
    dog({"kind": "run_started", "folder": str(tmp_path), "local": ["lora", "few"],
         "expected": {"lora": 20_000.0, "few": 10.0, "program": 60.0}})  # fmt: skip
    dog({"kind": "stage_started", "label": "lora", "stage": "customize", "total": 100})
    dog.tick(1.0)
    return dog, ended


def progress(dog: Watchdog, **more: Any) -> None:
    dog({"kind": "progress", "label": "lora", "stage": "customize", "done": 1, "total": 100, "note": "", **more})


def test_without_progress_it_ends_with_exit_code_6_and_names_the_file(
    watched: tuple[Watchdog, list[int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dog, ended = watched
    dog.tick(TIMES * 200 - 1)
    assert ended == []
    dog.tick(2.0)
    assert ended == [6]
    said = capsys.readouterr().err
    assert f"lora, customize: no progress for 67 minutes; what each thread was doing is in {tmp_path / FILE}" in said
    assert "go on with: tailorbird run try.yaml" in said
    assert "test_without_progress" in (tmp_path / FILE).read_text()


@pytest.mark.parametrize("moves", [progress, lambda dog: store.fault("micro-batch")])
def test_progress_and_micro_batches_are_signs_of_life(watched: tuple[Watchdog, list[int]], moves: Any) -> None:
    dog, ended = watched
    for _ in range(3):
        dog.tick(3000.0)
        moves(dog)
        dog.tick(1.0)
    assert ended == [] and dog.idle == 0.0 and dog.longest == 3000.0
    assert dog.limit == TIMES * 3000  # what was that slow once may be so again


def test_what_is_quick_is_given_half_an_hour(watched: tuple[Watchdog, list[int]]) -> None:
    dog, ended = watched
    dog({"kind": "stage_started", "label": "few", "stage": "validation", "total": 30})
    assert dog.limit == LEAST_SECONDS >= 600
    dog.tick(1.0)
    dog.tick(LEAST_SECONDS)
    assert ended == []
    dog.tick(1.0)
    assert ended == [6]


def test_neither_between_trainings_nor_while_a_program_answers_is_anything_watched(
    watched: tuple[Watchdog, list[int]],
) -> None:
    dog, ended = watched
    dog({"kind": "stage_finished", "label": "lora", "stage": "customize", "seconds": 1.0})
    for label, stage in ((None, "report"), ("program", "validation")):
        dog({"kind": "stage_started", "label": label, "stage": stage, "total": 0})
        for _ in range(3):
            dog.tick(1e6)
    assert ended == []
