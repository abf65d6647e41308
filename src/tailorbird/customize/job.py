"""What one contestant's work is given, and what the model is to answer. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailorbird.artifacts.parts import Decode, Prompt
from tailorbird.types import BaseFacts, Replay, Row, Train, Tuning

if TYPE_CHECKING:
    from tailorbird.tasks import Task


@dataclass(frozen=True)
class Compute:
    """How the engine works, fixed by the plan: a run is repeatable only with all of it equal."""

    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1
    micro_batch_tokens: int = 4096
    checkpoint_steps: int = 50
    recompute: bool = False  # activation checkpointing: a third more time, a fraction of the memory
    memory_bytes: int = 0  # what a training may hold at its peak; 0 = not limited


@dataclass
class Job:
    """One contestant's work. `work` survives kills and holds checkpoints and log.jsonl. `parent`: the customization
    folder it starts from; None = the base. `replay`: general talk that a training meets beside Train; a search is shown
    none of it. `rehearses`: the `work` of the training that this one is a rehearsal of; its own is wiped."""

    label: str
    technique: str
    settings: dict[str, Any]
    asked: dict[str, Any]
    base: BaseFacts
    task: Task
    train: Train
    tuning: Tuning
    seed: int
    compute: Compute
    work: Path
    progress: Callable[[int, int, str], None] = lambda done, total, note: None
    stop: Callable[[], bool] = lambda: False
    note: Callable[[str], None] = lambda text: None
    judged: Callable[[int, float | None], bool] = lambda step, loss: False
    parent: Path | None = None
    notes: list[str] = field(default_factory=list)
    replay: Replay = field(default_factory=lambda: Replay(()))
    rehearses: Path | None = None

    @property
    def fitted(self) -> Path:
        """What was chosen to fit memory: of a rehearsal and of the training that it is for, one file."""
        return (self.rehearses or self.work) / "memory.json"

    @property
    def prompt(self) -> Prompt:
        return Prompt(self.task.instruction or None)

    @property
    def task_text(self) -> str:
        """The task in words: what a prompt that is learned can start from."""
        labels = ", ".join(self.task.labels.values())
        return "\n".join(text for text in (self.task.instruction, labels) if text)

    @property
    def decode(self) -> Decode:
        return decode_of(self.task)

    def say(self, text: str) -> None:
        self.notes.append(text)
        self.note(text)


def decode_of(task: Task) -> Decode:
    return Decode(task.kind, dict(task.labels), None, task.max_new_tokens or 0)


def target(task: Task, row: Row) -> str:
    """What the model is to answer: the label's words, or the answer as it stands."""
    if task.kind == "classify":
        assert row.label is not None
        return task.labels[row.label]
    return row.answer
