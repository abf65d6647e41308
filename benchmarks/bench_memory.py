"""Peak memory of a training: what the plan said from shapes, what the rehearsal said, what was held.

    TAILORBIRD_DATA=… python benchmarks/bench_memory.py [--techniques NAME …] [--data short long] [--memory-gb N]

Short rows: Banking77, 64 Train rows. Long rows: PubMedQA (abstracts and a question to a long answer), 32 Train rows.
One epoch at the defaults of each technique on the default base, each training in a process of its own. `--memory-gb`:
the limit that plan and rehearsal must stay within.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TECHNIQUES = ("sft", "lora", "prompt_tuning", "p_tuning", "prefix_tuning")
ROWS = {"short": 64, "long": 32}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--techniques", nargs="*", default=TECHNIQUES)
    parser.add_argument("--data", nargs="*", default=tuple(ROWS), choices=tuple(ROWS))
    parser.add_argument("--memory-gb", type=float)
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--recompute", action="store_true", help="Layers computed again, whatever the plan says.")
    parser.add_argument("--one", nargs=2, metavar=("TECHNIQUE", "DATA"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        technique, data = asked.one
        print(json.dumps(measure(technique, data, asked.memory_gb, asked.dtype, asked.recompute)))
        return
    print(
        "rows  technique       dtype     micro-batch  recompute   plan   rehearsal   held    plan/held  rehearsal/held"
    )
    for data in asked.data:
        for technique in asked.techniques:
            command = [sys.executable, __file__, "--dtype", asked.dtype, "--one", technique, data]
            command += ["--memory-gb", str(asked.memory_gb)] if asked.memory_gb else []
            command += ["--recompute"] if asked.recompute else []
            ended = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if ended.returncode != 0:
                print(f"{data:5} {technique:15} ended with {ended.returncode}")
                continue
            f = json.loads(ended.stdout.splitlines()[-1])
            plan, rehearsal, held = f["plan"] / 1e9, f["rehearsal"] / 1e9, f["held"] / 1e9
            what = f"{data:5} {technique:14} {f['dtype']:8} {f['micro_batch_tokens']:11,}  {f['recompute']!s:9}"
            figures = f"{plan:7.2f}  {rehearsal:9.2f}  {held:9.2f}  {plan / held:9.2f}  {rehearsal / held:14.2f}"
            print(what, figures, flush=True)


def measure(technique: str, data: str, memory_gb: float | None, dtype: str, recompute: bool) -> dict[str, Any]:
    from dataclasses import replace

    from tailorbird import spec, store
    from tailorbird.customize import Compute, Job, customize
    from tailorbird.plan import make_plan
    from tailorbird.running.material import read_material

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        asked = spec.build(
            {
                "base": "smollm2-135m",
                "data": str(rows_of(data, folder)),
                "dtype": dtype,
                "split": {"train": ROWS[data], "tuning": 8, "validation": 20, "test": 20},
                "contestants": ["zero_shot", {technique: {"epochs": 1}}],
                **({"limits": {"memory_gb": memory_gb}} if memory_gb else {}),
            }
        )
        material = read_material(asked)
        plan = make_plan(asked, material.facts(torch=True))
        entrant = plan.entrant(technique)
        if entrant.state != "planned":
            sys.exit(f"{technique}: {entrant.note}")
        compute = Compute(
            plan.device, plan.dtype, plan.threads, entrant.micro_batch_tokens, 1000, entrant.recompute or recompute,
            plan.memory_bytes,
        )  # fmt: skip
        job = Job(
            technique, technique, dict(entrant.effective), {}, material.base, material.task, material.splits.train,
            material.splits.tuning, 0, compute, folder / "work",
        )  # fmt: skip
        facts = customize(replace(job), folder / "made")
        rehearsed = store.read_json(folder / "work" / "memory.json")
        return {
            "plan": entrant.memory_bytes,
            "rehearsal": max(rehearsed["peak_memory_mb"], rehearsed["loaded_mb"]) * 2**20,
            "held": facts["peak_memory_mb"] * 2**20,
            "micro_batch_tokens": facts["micro_batch_tokens"],
            "recompute": facts["recompute"],
            "dtype": plan.dtype,
        }


def rows_of(data: str, folder: Path) -> Path:
    """A file of rows from the public data."""
    root = Path(os.environ["TAILORBIRD_DATA"])
    if data == "short":
        return root / "finance-banking77" / "train.csv"
    path = folder / "pubmedqa.jsonl"
    articles = json.loads((root / "health-pubmedqa" / "ori_pqal.json").read_text(encoding="utf-8"))
    with path.open("w", encoding="utf-8") as file:
        for article in list(articles.values())[:200]:
            prompt = "\n".join([*article["CONTEXTS"], article["QUESTION"]])
            file.write(json.dumps({"prompt": prompt, "completion": article["LONG_ANSWER"]}) + "\n")
    return path


if __name__ == "__main__":
    main()
