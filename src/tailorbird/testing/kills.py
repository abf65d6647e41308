"""Trainings of a tiny base killed (`kill -9`) at named points and gone on with: the files must be the undisturbed ones.

    python -m tailorbird.testing.kills FOLDER [--points N] [--techniques NAME …]

A server that has imported everything but run no tensor operation forks one child for each trial (a fork after tensor
operations would share their thread pools). Prints a JSON line for each technique. Linux and macOS.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tailorbird import store, tasks, techniques
from tailorbird.customize import Compute, Job, customize
from tailorbird.testing.tiny import make_tiny_base, tiny_rows
from tailorbird.types import BaseFacts, Train, Tuning

SETTINGS = {"epochs": 3, "batch_rows": 3}
COMPUTE = Compute(threads=1, micro_batch_tokens=80, checkpoint_steps=2)
# Turn and turn about over the points of a technique: what a run does by itself, rows behind a shared head in our own
# layers with masters of a finer type; and rows with masks of their own, where these are not.
WAYS: tuple[dict[str, Any], ...] = ({"dropout": 0.0, "dtype": "bfloat16"}, {"dropout": 0.1, "dtype": "float32"})
# Before a step, between its micro-batches, in the backward pass, between the optimizer and what it publishes; before
# tensors are written, between a file and its name, before a folder is renamed (checkpoints, then the export), between
# that and the removal of the older checkpoint; in the held-out loss.
POINTS = (
    "backward", "prune", "optimizer", "publish", "held-out", "step", "micro-batch", "tensors", "rename", "write",
)  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """One kill: at the `number`-th pass of `point`. `equal`: every file is the undisturbed training's."""

    point: str
    number: int
    dropout: float
    dtype: str
    equal: bool


def trained() -> list[str]:
    """Names of the techniques on the shelf that learn from rows by gradient descent."""
    return [name for name in techniques.NAMES if techniques.get(name).trained]


def spread(passes: Mapping[str, int], count: int) -> list[tuple[str, int]]:
    """`count` kills over all points, each point's evenly over its passes and the last one always among them."""
    quota: Counter[str] = Counter()
    while sum(quota.values()) < min(count, sum(passes.values())):
        for point in POINTS:
            if quota[point] < passes.get(point, 0) and sum(quota.values()) < count:
                quota[point] += 1
    return [(p, passes[p] - i * passes[p] // quota[p]) for p in POINTS for i in range(quota[p])]


def job(name: str, base: BaseFacts, work: Path, dropout: float, dtype: str) -> Job:
    rows = tiny_rows(12)
    task = tasks.build("classify", instruction="Name it.", labels=tasks.labels_in(rows))
    asked, compute = {**SETTINGS, "dropout": dropout}, replace(COMPUTE, dtype=dtype)
    settings = techniques.get(name).settings(asked, base, 8).model_dump()
    return Job(name, name, settings, asked, base, task, Train(rows[:8]), Tuning(rows[8:]), 0, compute, work)


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): store.sha256_file(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }


def sweep(name: str, base: BaseFacts, folder: Path, count: int) -> list[Trial]:
    """Kill and go on at `count` points, each of them in one of the `WAYS`."""
    wanted, points, trials = [], [], []
    for number, way in enumerate(WAYS):
        whole, told = folder / f"whole{number}", folder / f"passes{number}.json"
        if in_child(partial(_count, job(name, base, folder / f"whole-work{number}", **way), whole, told)) != 0:
            raise RuntimeError(f"{name}: the undisturbed training failed ({way})")
        wanted.append(hashes(whole))
        points.append(spread(store.read_json(told), count))
    for number in range(min(map(len, points))):
        turn = number % len(WAYS)
        way, (point, passes) = WAYS[turn], points[turn][number]
        killed = job(name, base, folder / f"work{number}", **way)
        out = folder / f"killed{number}"
        status = in_child(partial(_until, killed, out, point, passes))
        if status != -signal.SIGKILL:
            raise RuntimeError(f"{name}: was not killed at {point} {passes} (ended with {status})")
        if in_child(partial(customize, killed, out)) != 0:
            raise RuntimeError(f"{name}: killed at {point} {passes}, it could not go on")
        trials.append(Trial(point, passes, **way, equal=hashes(out) == wanted[turn]))
    return trials


def in_child(work: Callable[[], Any]) -> int:
    """Exit status of a forked child that does `work`; minus the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _count(job: Job, out: Path, told: Path) -> None:
    passes: Counter[str] = Counter()
    _listen(lambda point: passes.update([point]))
    customize(job, out)
    counted = dict(passes)
    store.write_json(told, counted)


def _until(job: Job, out: Path, point: str, number: int) -> None:
    passes: Counter[str] = Counter()

    def kill(passed: str) -> None:
        passes.update([passed])
        if passed == point and passes[point] == number:
            os.kill(os.getpid(), signal.SIGKILL)

    _listen(kill)
    customize(job, out)


def _listen(hear: Callable[[str], None]) -> None:
    """Every pass of a fault point in this process, and each beginning of a backward pass through the layers."""
    from tailorbird.engine.model import Model

    store.fault = hear  # type: ignore[assignment]
    plain = Model.cross_entropy

    def watched(model: Model, hidden: Any, *args: Any, **kwargs: Any) -> Any:
        if hidden.requires_grad:
            hidden.register_hook(lambda gradient: hear("backward"))
        return plain(model, hidden, *args, **kwargs)

    Model.cross_entropy = watched  # type: ignore[method-assign, assignment]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--points", type=int, default=5)
    parser.add_argument("--techniques", nargs="*", default=trained())
    asked = parser.parse_args(argv)
    import_everything()
    base_folder = asked.folder / "base"
    if in_child(lambda: make_tiny_base(base_folder)) != 0:
        raise RuntimeError("the tiny base could not be made")
    from tailorbird.bases.facts import base_facts

    base = base_facts(base_folder)
    for name in asked.techniques:
        trials = sweep(name, base, asked.folder / name, asked.points)
        print(json.dumps({"technique": name, "trials": [vars(trial) for trial in trials]}), flush=True)


def import_everything() -> None:
    """What a training imports, so that no child has to; no tensor operation is run."""
    import safetensors.torch  # noqa: F401
    import torch  # noqa: F401
    from transformers.models.llama import modeling_llama  # noqa: F401

    from tailorbird.answerers import opening  # noqa: F401
    from tailorbird.artifacts import layout, manifest, training_state  # noqa: F401
    from tailorbird.bases import model, renderer  # noqa: F401
    from tailorbird.engine import rehearse_memory, scoring, train  # noqa: F401


if __name__ == "__main__":
    main()
