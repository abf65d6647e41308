"""A cell: one setting of one side, run in a process of its own, and the peers' written grid of such settings."""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SKIPPED = 2  # steps at the beginning that are not timed, on both sides
TIMEOUT = 900.0  # seconds, beyond what a cell may train


@dataclass(frozen=True)
class Cell:
    """One of the peers' settings; see theirs.py for what the layouts are."""

    trainer: str = "trl"
    dtype: str = "bfloat16"
    checkpointing: bool = True
    layout: str = "padded"
    batch: int = 8

    def __str__(self) -> str:
        said = f"{self.trainer}, {self.dtype}, {self.layout}, batch {self.batch}"
        return said + (", checkpointing" if self.checkpointing else "")


DEFAULT = Cell()  # what SFTConfig says when nothing is said
FIRST = Cell(checkpointing=False, layout="grouped")  # where the search for their best begins
GRID: dict[str, tuple[Any, ...]] = {
    "dtype": ("bfloat16", "float32", "bfloat16-stored"),
    "trainer": ("trl", "transformers"),
    "layout": ("grouped", "padded", "padding_free", "packing"),
    "batch": (4, 8, 16, 32),
    "checkpointing": (False, True),
}


def applies(cell: Cell, technique: str, rows_per_step: int) -> bool:
    """Whether the setting exists and trains what ours trains."""
    if cell.batch > rows_per_step:
        return False
    if cell.dtype == "bfloat16-stored" and technique == "sft":
        return False  # weights stored in bf16 do not learn
    if technique == "prompt_tuning" and cell.layout in ("padding_free", "packing"):
        return False  # PEFT puts one soft prompt before the whole flattened batch
    return not (cell.layout == "packing" and cell.trainer != "trl")


def whole_grid(technique: str, rows_per_step: int) -> Iterator[Cell]:
    for values in itertools.product(*GRID.values()):
        cell = Cell(**dict(zip(GRID, values, strict=True)))
        if applies(cell, technique, rows_per_step):
            yield cell


def neighbours(cell: Cell, factor: str, technique: str, rows_per_step: int) -> Iterator[Cell]:
    """The cell with every other value of one factor; packing is TRL's, so it brings the trainer along."""
    for value in GRID[factor]:
        changes: dict[str, Any] = {factor: value} | ({"trainer": "trl"} if value == "packing" else {})
        other = replace(cell, **changes)
        if other != cell and applies(other, technique, rows_per_step):
            yield other


@dataclass(frozen=True)
class Result:
    """What a cell did: steps as told by its process, peak resident memory of that process."""

    steps: list[dict[str, float]]
    peak_mb: float
    trainable_parameters: int

    @property
    def timed(self) -> list[dict[str, float]]:
        return self.steps[SKIPPED:] or self.steps[-1:]

    def per_second(self, what: str = "rows") -> float:
        return sum(step[what] for step in self.timed) / sum(step["seconds"] for step in self.timed)

    def cut(self, steps: int) -> Result:
        """Its first steps alone, so that all runs are compared on the same rows."""
        return replace(self, steps=self.steps[:steps])

    @property
    def losses(self) -> list[float]:
        return [step["loss"] for step in self.steps if "loss" in step]


def run(side: str, job: dict[str, Any]) -> Result | str:
    """Run `side` ("ours", "theirs") in its own process; the reason as text when it did not end well."""
    threads = str(job["threads"])
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    with tempfile.TemporaryDirectory() as folder:
        asked, told = Path(folder) / "job.json", Path(folder) / "result.json"
        asked.write_text(json.dumps(job), encoding="utf-8")
        try:
            done = subprocess.run(
                [sys.executable, str(HERE / f"{side}.py"), str(asked), str(told)],
                capture_output=True, text=True, env=environment, timeout=job["seconds"] + TIMEOUT,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return "did not end in time"
        if done.returncode != 0 or not told.is_file():
            last = [line for line in done.stderr.strip().splitlines() if line.strip()]
            return last[-1][:300] if last else f"exit {done.returncode}"
        return Result(**json.loads(told.read_text(encoding="utf-8")))


def call_probe(threads: int) -> dict[str, float]:
    """The probe's GFLOP/s by compute type, in a process of its own as everything else here."""
    code = f"import json; from tailorbird.engine.probe import probe; print(json.dumps(probe('cpu', {threads}).gflops))"
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    speeds: dict[str, float] = json.loads(done.stdout)
    return speeds


def middle(results: list[Result], what: str = "rows") -> float:
    return statistics.median(result.per_second(what) for result in results)


def as_dict(cell: Cell) -> dict[str, Any]:
    return asdict(cell)
