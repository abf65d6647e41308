"""Trainings killed (`kill -9`) at many points and gone on with: every file must be the undisturbed one, bit for bit.

    python benchmarks/bench_kill_sweep.py [--points 30] [--techniques NAME …]      a tiny base, forked children
    python benchmarks/bench_kill_sweep.py --real [--points 5] [--threads 2]        the default base, own processes

Points: before a step, between micro-batches, in the backward pass, in the optimizer's step, while a checkpoint is
written, between its publication and the removal of the older one, in the held-out loss, in the export. A process that
has run tensor operations cannot be forked, so on the real base each trial is a process of its own, killed by
TAILORBIRD_FAULT (the points of `store.fault`).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tailorbird.testing.kills import WAYS, hashes, trained

ROWS, TUNING = 24, 8
SETTINGS = {"epochs": 2, "batch_rows": 8}
# 6 steps of 2 micro-batches, checkpoints after 2 and 4: a kill in each part of a training, and in the export.
REAL_POINTS = ("micro-batch:5", "optimizer:4", "prune:3", "held-out:2", "publish:6", "tensors:2", "rename:9")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int)
    parser.add_argument("--techniques", nargs="*", default=trained())
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--train", nargs=3, metavar=("TECHNIQUE", "WAY", "FOLDER"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.train:
        train(asked.train[0], WAYS[int(asked.train[1])], Path(asked.train[2]), asked.threads)
        return
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        if asked.real:
            results = [real(name, Path(scratch), asked.points or 5, asked.threads) for name in asked.techniques]
        else:
            results = tiny(asked.techniques, Path(scratch), asked.points or 30)
    print(f"{time.monotonic() - begun:.0f} s")
    if not all(trial["equal"] for result in results for trial in result["trials"]):
        sys.exit(1)


def tiny(names: list[str], scratch: Path, points: int) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "tailorbird.testing.kills", str(scratch), "--points", str(points)]
    command += ["--techniques", *names]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert server.stdout is not None
    results = []
    for line in server.stdout:
        results.append(json.loads(line))
        say(results[-1])
    if server.wait() != 0:
        sys.exit(f"the server ended with {server.returncode}")
    return results


def real(name: str, scratch: Path, points: int, threads: int) -> dict[str, Any]:
    wanted, trials = [], []
    for way in range(len(WAYS)):
        whole = scratch / name / f"whole{way}"
        if (status := in_process(name, way, whole, threads)) != 0:
            sys.exit(f"{name}: the undisturbed training ended with {status}")
        wanted.append(hashes(whole / "made"))
    for number, where in enumerate(REAL_POINTS[:points]):
        way, folder = number % len(WAYS), scratch / name / where.replace(":", "-")
        status = in_process(name, way, folder, threads, fault=f"kill@{where}")
        if status != -signal.SIGKILL:
            sys.exit(f"{name}: was not killed at {where} (ended with {status})")
        if (status := in_process(name, way, folder, threads)) != 0:
            sys.exit(f"{name}: killed at {where}, it could not go on (ended with {status})")
        point, _, passes = where.partition(":")
        equal = hashes(folder / "made") == wanted[way]
        trials.append({"point": point, "number": int(passes), **WAYS[way], "equal": equal})
    result = {"technique": name, "trials": trials}
    say(result)
    return result


def in_process(name: str, way: int, folder: Path, threads: int, fault: str = "") -> int:
    command = [sys.executable, __file__, "--threads", str(threads), "--train", name, str(way), str(folder)]
    return subprocess.run(command, env={**os.environ, "TAILORBIRD_FAULT": fault}).returncode


def train(name: str, way: Mapping[str, Any], folder: Path, threads: int) -> None:
    """A short training of the default base on the demo's rows."""
    from tailorbird import tasks, techniques
    from tailorbird.bases import catalog
    from tailorbird.bases.facts import base_facts
    from tailorbird.customize import Compute, Job, customize
    from tailorbird.types import Train, Tuning

    rows = demo_rows(ROWS + TUNING)
    base = base_facts(catalog.resolve("smollm2-135m"))
    task = tasks.build("classify", instruction="Name the topic.", labels=tasks.labels_in(rows))
    asked = {**SETTINGS, "dropout": way["dropout"]}
    settings = techniques.get(name).settings(asked, base, ROWS).model_dump()
    compute = Compute(dtype=way["dtype"], threads=threads, micro_batch_tokens=220, checkpoint_steps=2)
    customize(
        Job(
            name, name, settings, asked, base, task, Train(rows[:ROWS]), Tuning(rows[ROWS:]), 0, compute,
            folder / "work",
        ),
        folder / "made",
    )  # fmt: skip


def demo_rows(count: int) -> list[Any]:
    import csv
    from importlib import resources

    from tailorbird.types import Message, Place, Role, Row

    place = resources.files("tailorbird") / "examples" / "demo" / "banking12.csv"
    with place.open(encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    read = read[:: len(read) // count][:count]  # of every label
    return [
        Row(
            f"row{number}",
            (Message(Role.USER, record["text"]), Message(Role.ASSISTANT, record["category"])),
            (False, True),
            Place("banking12.csv", number + 2),
            label=record["category"],
        )
        for number, record in enumerate(read)
    ]


def say(result: dict[str, Any]) -> None:
    trials = result["trials"]
    points = Counter(trial["point"] for trial in trials)
    different = [trial for trial in trials if not trial["equal"]]
    where = ", ".join(f"{point} {count}" for point, count in sorted(points.items()))
    print(f"{result['technique']}: {len(trials)} kills, {len(trials) - len(different)} equal bit for bit ({where})")
    for trial in different:
        print(f"  differs: {trial['point']} {trial['number']} ({trial['dtype']}, dropout {trial['dropout']})")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
