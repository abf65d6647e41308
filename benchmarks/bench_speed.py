"""Our engine against TRL and PEFT at their best: rows a second, memory, losses. `python benchmarks/bench_speed.py`

    --technique sft --data banking77      a part of it (both may be given several times)
    --quick                               a few steps each: shows that it runs, its figures mean nothing
    --grid all                            every cell of the peers' grid, not a search through it (hours)
    --profile FOLDER                      torch's profiler on our side instead, a table a pair

For each pair of technique and data set: our side once; the peers' grid (speed/cells.py: trainer, compute type, layout,
micro-batch, activation checkpointing) searched factor by factor, for the fastest of TRL and for the fastest of all
(transformers' Trainer over TRL's flattened rows is faster on a CPU than TRL's own); then rounds of ours, TRL at best,
the best of all, TRL by default, each in a process of its own, in turn and back. Same rows, same order, same rows an
optimizer step, same optimizer, rate and start; the first steps are not timed. The figures are medians of the rounds.
A table goes to stdout, everything to `--out` after every pair; pairs that are in that file already are not measured
again.

Losses: largest relative difference of the first 20. Ours and theirs round to bf16 at different places (weights once,
or at each product), so where they are further apart than 2 % in bf16, one pair in fp32 says whether it is rounding.

Share of the peak: FLOPs of the matrix products that our side computed (shared beginning once; attention's own products
not counted) over seconds and over the probe's GFLOP/s (engine/probe.py) in the same compute type.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from speed import cells, rows, table
from speed.cells import Cell, Result

TECHNIQUES = ("sft", "lora", "prompt_tuning")
SETTINGS: dict[str, dict[str, Any]] = {
    "sft": {}, "lora": {"rank": 16, "alpha": 32.0}, "prompt_tuning": {"total_virtual_tokens": 20}
}  # fmt: skip
LOSSES, NEAR = 20, 0.02


def main() -> None:
    asked = arguments()
    base = asked.base or home_base()
    done = json.loads(asked.out.read_text(encoding="utf-8")) if asked.out.is_file() else {}
    done["machine"] = machine(asked.threads)
    say(f"{done['machine']}")
    pairs = done.setdefault("pairs", {})
    for technique in asked.technique or TECHNIQUES:
        for data in asked.data or rows.NAMES:
            name = f"{technique}, {data}"
            if name in pairs and not asked.profile:
                continue
            pair = Pair(technique, data, base, asked, done["machine"])
            if asked.profile:
                pair.profile(asked.profile)
                continue
            pairs[name] = pair.measure()
            asked.out.write_text(json.dumps(done, indent=1), encoding="utf-8")
    print(table.markdown(done))


class Pair:
    """One technique on one data set."""

    def __init__(self, technique: str, data: str, base: Path, asked: Any, machine: dict[str, Any]) -> None:
        from tailorbird import techniques
        from tailorbird.bases.facts import base_facts
        from tailorbird.engine.batches import Encoded, RowSource
        from tailorbird.plan.making import BF16_GAIN

        self.technique, self.data, self.asked, self.machine = technique, data, asked, machine
        self.scratch = Path(tempfile.mkdtemp(prefix="bench-speed-"))
        self.facts = base_facts(base)
        per_step = asked.rows_per_step or (32 if data in rows.SHORT else 8)
        made = rows.token_rows(data, base, per_step * (asked.steps + 1), seed=0)
        steps = min(asked.steps, len(made) // per_step - 1)  # the last step of an epoch saves, and is left out
        (self.scratch / "rows.json").write_text(json.dumps(made), encoding="utf-8")
        encoded = [Encoded(tuple(ids), tuple(flags)) for ids, flags in made]
        source = RowSource(encoded, batch_rows=per_step, micro_batch_tokens=4096, seed=0)  # as by_training makes it
        order = [source.numbers(step) for step in range(steps)]
        self.useful = [sum(len(made[i][0]) for i in numbers) for numbers in order]
        self.lengths = {
            "rows": len(made), "mean_tokens": statistics.mean(len(ids) for ids, _ in made),
            "supervised": statistics.mean(sum(flags) for _, flags in made), "shared_head": source.head,
        }  # fmt: skip
        gain = machine["gflops"]["bfloat16"] / machine["gflops"]["float32"]
        self.dtype = asked.dtype or ("bfloat16" if gain >= BF16_GAIN else "float32")
        rate = techniques.get(technique).defaults(self.facts, len(made))["learning_rate"]
        self.job: dict[str, Any] = {
            "base": str(base), "rows": str(self.scratch / "rows.json"), "order": order, "technique": technique,
            "settings": SETTINGS[technique], "learning_rate": rate, "rows_per_step": per_step, "steps": steps,
            "least_steps": min(steps, cells.SKIPPED + 2), "seconds": asked.seconds, "threads": asked.threads,
            "start": str(self.scratch / "start.safetensors"), "write_start": False,
        }  # fmt: skip

    def profile(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.technique}-{self.data}.txt"
        self.ours(profile=str(path.resolve()))
        say(f"{path}")

    def ours(self, **changes: Any) -> Result:
        result = cells.run("ours", {**self.job, "dtype": self.dtype, **changes})
        if isinstance(result, str):
            sys.exit(f"our side failed on {self.technique}, {self.data}: {result}")
        say(f"  ours: {result.per_second():.2f} rows/s, {result.peak_mb:.0f} MB")
        return result

    def theirs(self, cell: Cell, **changes: Any) -> Result | str:
        result = cells.run("theirs", {**self.job, "cell": cells.as_dict(cell), **changes})
        told = result if isinstance(result, str) else f"{result.per_second():.2f} rows/s, {result.peak_mb:.0f} MB"
        say(f"  {cell}: {told}")
        return result

    def measure(self) -> dict[str, Any]:
        say(f"{self.technique}, {self.data}: {self.lengths}")
        whole = {"seconds": 4 * self.asked.seconds}  # for the runs whose losses are compared
        first = self.ours(write_start=True, **whole)
        screened = self.screen()
        peers = {side: cell for side, cell in fastest(screened).items() if cell is not None}
        if not peers:
            sys.exit(f"no cell of the peers ran on {self.technique}, {self.data}: {screened}")
        compared = peers.get("trl", peers["best"])
        peer = self.theirs(compared, **whole)
        if isinstance(peer, str):
            sys.exit(f"the peers' best cell ran in the screening and not in a round: {compared}: {peer}")
        losses = self.losses(first, peer, compared)
        # From here on every run does the same steps, as many as this peer does in the seconds of a cell.
        seconds = statistics.mean(step["seconds"] for step in peer.timed)
        timed = max(cells.SKIPPED, int(self.asked.seconds / seconds))
        steps = min(len(first.steps), len(peer.steps), cells.SKIPPED + timed)
        same = {"steps": steps, "least_steps": steps}
        sides: dict[str, Cell | None] = {"ours": None, **peers, "default": cells.DEFAULT}
        got: dict[str, list[Result]] = {side: [] for side in sides}
        for number in range(self.asked.rounds):
            for side in list(sides)[:: -1 if number % 2 else 1]:
                cell = sides[side]
                result = self.ours(**same) if cell is None else self.theirs(cell, **same)
                if isinstance(result, Result):
                    got[side].append(result)
        return self.told({s: results for s, results in got.items() if results}, steps, peers, screened) | {
            "losses": losses
        }

    def screen(self) -> dict[Cell, float | str]:
        """Speed of the peers' cells that were tried, rows/s, or why one did not run: TRL's factor by factor, then
        transformers' from TRL's best on."""
        found: dict[Cell, float | str] = {}
        per_step = self.job["rows_per_step"]

        def speed(cell: Cell) -> float:
            if cell not in found:
                steps = min(self.job["steps"], cells.SKIPPED + self.asked.screen_steps)
                result = self.theirs(
                    cell, steps=steps, least_steps=min(steps, cells.SKIPPED + 1), seconds=self.asked.seconds
                )
                found[cell] = result if isinstance(result, str) else result.per_second()
            value = found[cell]
            return value if isinstance(value, float) else 0.0

        if self.asked.grid == "all":
            for cell in cells.whole_grid(self.technique, per_step):
                speed(cell)
            return found
        factors = [factor for factor in cells.GRID if factor != "trainer"]
        best = cells.FIRST
        for factor in factors if self.asked.grid == "search" else ("dtype",):
            best = max([best, *cells.neighbours(best, factor, self.technique, per_step)], key=speed)
        if self.asked.grid == "search":
            layout = "grouped" if best.layout == "packing" else best.layout
            best = replace(best, trainer="transformers", layout=layout)
            for factor in factors[1:]:
                others = cells.neighbours(best, factor, self.technique, per_step)
                best = max([best, *(cell for cell in others if cell.trainer == best.trainer)], key=speed)
        return found

    def told(
        self, got: dict[str, list[Result]], steps: int, peers: dict[str, Cell], screened: dict[Cell, float | str]
    ) -> dict[str, Any]:
        """`best`: the fastest cell; `trl`: TRL's fastest, where the fastest is not TRL's."""
        speed = {side: cells.middle(results) for side, results in got.items()}
        mean = sum(self.useful[cells.SKIPPED : steps]) / (steps - cells.SKIPPED) / self.job["rows_per_step"]
        return {
            "rows": self.lengths, "rows_per_step": self.job["rows_per_step"], "timed_steps": steps - cells.SKIPPED,
            "learning_rate": self.job["learning_rate"], "dtype": self.dtype,
            "cells": {side: str(cell) for side, cell in peers.items()}, "default_cell": str(cells.DEFAULT),
            "rows_per_second": speed,
            "useful_tokens_per_second": {side: value * mean for side, value in speed.items()},
            "ratio": {side: speed["ours"] / speed[side] for side in speed if side != "ours"},
            "peak_mb": {side: max(result.peak_mb for result in results) for side, results in got.items()},
            "share_of_peak": self.share(got["ours"]),
            "rounds": {side: [result.per_second() for result in results] for side, results in got.items()},
            "screened": {str(cell): value for cell, value in screened.items()},
        }  # fmt: skip

    def share(self, results: list[Result]) -> float:
        """FLOPs of our matrix products a second, over the probed speed.

        Each product costs 2 x weights forward and as much for each gradient: of the input, and of the weights where
        they learn. A small adapter has all three.
        """
        whole = self.technique == "sft"
        base, passes = self.facts, 3.0 if whole else 2.0
        logit = 2.0 * base.vocabulary * base.hidden_size * passes
        shares = []
        for result in results:
            adapter = 6.0 * result.trainable_parameters if self.technique == "lora" else 0.0
            flops = result.per_second("computed_tokens") * (base.flops_per_token * passes + adapter)
            flops += result.per_second("logit_rows") * logit
            shares.append(flops / (self.machine["gflops"][self.dtype] * 1e9))
        return statistics.median(shares)

    def losses(self, ours: Result, theirs: Result, best: Cell) -> dict[str, Any]:
        """How far apart the two sides' losses are; see the top of this file."""
        if best.layout == "packing":
            return {"not_compared": "TRL's packing has its own order of rows"}
        told = apart(ours.losses, theirs.losses)
        if told["largest"] > NEAR and (self.dtype != "float32" or best.dtype != "float32"):
            seconds = 4 * self.asked.seconds
            exact = self.ours(dtype="float32", write_start=True, seconds=seconds)
            peer = self.theirs(
                Cell("trl", "float32", False, "grouped", min(8, self.job["rows_per_step"])), seconds=seconds
            )
            told["float32"] = peer if isinstance(peer, str) else apart(exact.losses, peer.losses)
        return told


def fastest(screened: dict[Cell, float | str]) -> dict[str, Cell | None]:
    """The fastest cell, and TRL's fastest where that is another one."""
    ran = {cell: speed for cell, speed in screened.items() if isinstance(speed, float)}
    best = max(ran, key=lambda cell: ran[cell], default=None)
    trl = max((cell for cell in ran if cell.trainer == "trl"), key=lambda cell: ran[cell], default=None)
    return {"trl": trl if trl != best else None, "best": best}


def apart(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    compared = list(zip(ours, theirs, strict=False))[:LOSSES]
    relative = [abs(a - b) / max(abs(b), 1e-6) for a, b in compared]
    return {"steps": len(compared), "largest": max(relative), "mean": statistics.mean(relative), "values": compared}


def machine(threads: int) -> dict[str, Any]:
    """Processor, versions, and the probe's GFLOP/s taken now."""
    import importlib.metadata

    from tailorbird.bases.machine import machine as facts

    probed = cells.call_probe(threads)
    names = ("torch", "transformers", "peft", "trl", "tailorbird")
    return {
        "processor": facts("cpu").processor, "threads": threads, "system": platform.platform(),
        "versions": {name: importlib.metadata.version(name) for name in names}, "gflops": probed,
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }  # fmt: skip


def home_base() -> Path:
    from tailorbird.bases.catalog import resolve

    return resolve("smollm2-135m")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--technique", action="append", choices=TECHNIQUES)
    parser.add_argument("--data", action="append", choices=rows.NAMES)
    parser.add_argument("--base", type=Path, help="a base's folder; smollm2-135m when left out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=cells.SKIPPED + LOSSES)
    parser.add_argument("--rows-per-step", type=int, help="32 on short rows, 8 on long ones when left out")
    parser.add_argument("--seconds", type=float, default=40.0, help="of training a cell, once it has a few steps")
    parser.add_argument("--screen-steps", type=int, default=1, help="timed steps of a cell of the grid")
    parser.add_argument("--grid", choices=("search", "all", "dtype"), default="search")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of our side; by the probe when left out")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("bench-speed.json"))
    parser.add_argument("--profile", type=Path)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    if asked.quick:
        asked.rounds, asked.steps, asked.seconds, asked.screen_steps, asked.grid = 1, 5, 15.0, 1, "dtype"
    return asked


if __name__ == "__main__":
    main()
