"""The early rehearsal: what its one step is made with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch

from tailorbird import store, tasks, techniques
from tailorbird.bases.facts import base_facts
from tailorbird.customize import Compute, Job, customize
from tailorbird.customize.rehearsal import rehearse
from tailorbird.engine import memory
from tailorbird.engine import rehearse_memory as rehearsing
from tailorbird.engine.batches import Batch
from tailorbird.engine.kernels.layers import Layer
from tailorbird.engine.memory import killed_for_memory
from tailorbird.engine.model import Model
from tailorbird.errors import ResourceError
from tailorbird.techniques.lora import Lora
from tailorbird.testing import make_tiny_base, tiny_rows
from tailorbird.types import Message, Role, Row, Train, Tuning


class Seen(Exception):
    pass


def longer(row: Row, words: int) -> Row:
    return replace(row, messages=(Message(Role.USER, "word " * words), *row.messages[1:]))


def job_of(folder: Path, *, batch_rows: int = 6) -> Job:
    """Eight rows of 3 to 8 words and more; `lora` on a tiny base."""
    rows, facts, lora = tiny_rows(8), base_facts(make_tiny_base(folder / "base")), techniques.get("lora")
    return Job(
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
        work=folder / "job",
    )


@pytest.mark.parametrize(("batch_rows", "taken"), [(6, [8, 7, 6, 5]), (3, [8, 7, 6])])
def test_its_step_takes_the_longest_rows_four_of_them_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_rows: int, taken: list[int]
) -> None:
    job = job_of(tmp_path, batch_rows=batch_rows)
    asked: list[Any] = []

    def noted(few: Job, out: Path) -> None:
        asked.append(few)
        raise Seen

    monkeypatch.setattr("tailorbird.customize.rehearsal.customize", noted)
    with pytest.raises(Seen):
        rehearse(job, tmp_path / "work")
    (few,) = asked
    assert [row.input_text.count("word") for row in few.train] == taken
    assert (few.settings["epochs"], len(few.tuning)) == (1, 2)
    assert not (tmp_path / "work").exists()


def rehearse_in_a_process_of_its_own(folder: Path) -> None:
    """For a test that kills it: only what is on disk is left then."""
    rehearse(job_of(folder), folder / "rehearsal")


@pytest.mark.skipif(sys.platform != "linux", reason="who kills for memory is known on Linux")
def test_killed_for_memory_the_next_rehearsal_and_the_training_take_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed (`kill -9`) where it tries its micro-batch; the kernel's count of such kills has risen since."""
    code = "import sys, pathlib, test_rehearsal as t; t.rehearse_in_a_process_of_its_own(pathlib.Path(sys.argv[1]))"
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": path, "TAILORBIRD_FAULT": "kill@rehearse-memory"}
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment)
    assert ended.returncode == -signal.SIGKILL
    before = killed_for_memory()
    assert before
    monkeypatch.setattr(memory, "killed_for_memory", lambda: {who: count + 1 for who, count in before.items()})
    job = job_of(tmp_path)
    tried: list[int] = []
    real = rehearsing.rehearse_memory

    def watched(model: Any, trainable: Any, loss: Any, batch: Batch, **more: Any) -> float:
        tried.append(len(batch.packed.starts))
        return real(model, trainable, loss, batch, **more)

    monkeypatch.setattr(rehearsing, "rehearse_memory", watched)
    rehearse(job, tmp_path / "rehearsal")
    assert tried == [2]  # of its four rows
    assert not (tmp_path / "rehearsal").exists()
    kept = store.read_json(job.fitted)
    assert kept["micro_batch_tokens"] < job.compute.micro_batch_tokens
    facts = customize(job, tmp_path / "made")
    assert facts["micro_batch_tokens"] == kept["micro_batch_tokens"]
    assert len(tried) == 2  # the largest of the training is another one, and is tried as well
    assert any("the kernel stopped a process for it" in note for note in facts["notes"])


@pytest.mark.parametrize("recompute", [False, True])
def test_out_of_memory_the_next_rehearsal_takes_less_and_so_does_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recompute: bool
) -> None:
    job, loss = job_of(tmp_path), Lora.loss
    monkeypatch.setattr(rehearsing, "rehearse_memory", lambda *a, **k: 1.0)

    def full(self: Lora, model: Model, batch: Batch) -> torch.Tensor:
        recomputes = not isinstance(model.layers[0].forward, Layer | MethodType)
        if torch.is_grad_enabled() and (len(batch.packed.starts) > 1 or recompute > recomputes):
            raise torch.OutOfMemoryError("out of memory")
        return loss(self, model, batch)

    monkeypatch.setattr(Lora, "loss", full)
    failed = 0
    while True:
        try:
            rehearse(job, tmp_path / "rehearsal")
            break
        except ResourceError:
            failed += 1
            assert failed < 6
    facts = customize(job, tmp_path / "made")
    assert failed and facts["recompute"] is recompute
