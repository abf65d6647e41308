"""One optimizer step with our decoder layers against one with transformers' own: `python benchmarks/bench_step.py`

    --against ../before/src               against another source tree instead (git worktree add ../before COMMIT)
    --technique lora --data pubmedqa      a part of it (both may be given several times)

Both sides train the same rows from the same start, each in a process of its own; the steps are taken in turn, first
one side, then the other, so that whatever else the machine does meets both. Medians of wall and of processor seconds a
step, the ratio of medians, and the first losses of both. A busy machine changes the seconds, less so the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

TECHNIQUES = ("sft", "lora", "prompt_tuning")
SETTINGS: dict[str, dict[str, Any]] = {"sft": {}, "lora": {"rank": 16, "alpha": 32.0}, "prompt_tuning": {}}
DATA = ("banking77", "pubmedqa")
SHOWN = 3  # losses


class Side:
    """A process that takes a step of training for every line it is sent."""

    def __init__(self, source: Path, job: dict[str, Any]) -> None:
        environment = {**os.environ, "PYTHONPATH": str(source.resolve())}
        command = [sys.executable, str(Path(__file__).resolve()), "--serve", json.dumps(job)]
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.steps: list[dict[str, float]] = []
        self._read()

    def _read(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit("one side ended; its message stands above")
        found: dict[str, float] = json.loads(line)
        return found

    def step(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        self.steps.append(self._read())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def median(self, name: str) -> float:
        return statistics.median(step[name] for step in self.steps[1:])


def serve(job: dict[str, Any]) -> None:

    from tailorbird.engine.probe import set_threads

    set_threads(job["threads"])
    from speed import rows

    from tailorbird import techniques
    from tailorbird.bases.facts import base_facts
    from tailorbird.bases.model import load_model
    from tailorbird.engine import train
    from tailorbird.engine.batches import Encoded, RowSource
    from tailorbird.engine.model import Model
    from tailorbird.engine.optimizer import Optimizer
    from tailorbird.testing import training_context

    base, count = Path(job["base"]), job["rows"]
    made = rows.token_rows(job["data"], base, count * 4, seed=0)
    encoded = [Encoded(tuple(ids), tuple(flags)) for ids, flags in made]
    model = Model(load_model(base, dtype=job["dtype"]))
    for layer in model.kernels if job["own_layers"] else ():
        layer.believed = False
    technique: Any = techniques.get(job["technique"])
    settings = technique.settings(SETTINGS[job["technique"]], base_facts(base), len(encoded))
    trainable = technique.trainable(model, settings, training_context())
    source = RowSource(encoded, batch_rows=count, micro_batch_tokens=4096, seed=0, soft=model.virtual_tokens)
    optimizer = Optimizer(trainable.parameters, 0.0, 1.0)
    print(json.dumps({"ready": 1}), flush=True)
    for number, _ in enumerate(sys.stdin):
        batches = source.next(number)
        begun, used = time.perf_counter(), time.process_time()
        loss, norm, tokens = train._accumulate(model, technique.loss, batches, optimizer)
        optimizer.step(settings.learning_rate, train._scale(norm, tokens, 1.0))
        told = {"seconds": time.perf_counter() - begun, "processor": time.process_time() - used, "loss": loss}
        print(json.dumps(told), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--against", type=Path, help="the other tree's src; this one, with transformers' own layers, when left out"
    )
    parser.add_argument("--technique", action="append", choices=TECHNIQUES)
    parser.add_argument("--data", action="append", choices=("banking77", "pubmedqa", "mts-dialog", "self-instruct"))
    parser.add_argument("--base", type=Path, help="a base's folder; smollm2-135m when left out")
    parser.add_argument("--rows", type=int, help="a step: 32 short ones, 8 long ones when left out")
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        serve(json.loads(asked.serve))
        return
    from tailorbird.bases.catalog import resolve

    here = Path(__file__).resolve().parents[1] / "src"
    base = asked.base or resolve("smollm2-135m")
    print("| step | before, s | now, s | wall | processor | losses before; now |\n|---|---|---|---|---|---|")
    for technique in asked.technique or TECHNIQUES:
        for data in asked.data or DATA:
            job = {
                "base": str(base), "technique": technique, "data": data, "threads": asked.threads,
                "rows": asked.rows or (32 if data == "banking77" else 8), "dtype": asked.dtype,
                "own_layers": False,
            }  # fmt: skip
            before = Side(here, {**job, "own_layers": True}) if asked.against is None else Side(asked.against, job)
            sides = before, now = before, Side(here, job)
            for number in range(asked.steps):
                for side in sides[:: 1 if number % 2 else -1]:
                    side.step()
            ratios = [before.median(name) / now.median(name) for name in ("seconds", "processor")]
            losses = ["; ".join(f"{step['loss']:.4f}" for step in side.steps[:SHOWN]) for side in sides]
            print(
                f"| {technique}, {data} | {before.median('seconds'):.3f} | {now.median('seconds'):.3f} "
                f"| {ratios[0]:.2f} x | {ratios[1]:.2f} x | {losses[0]} / {losses[1]} |",
                flush=True,
            )
            for side in sides:
                side.close()


if __name__ == "__main__":
    main()
