"""One demo run killed (`kill -9`) ten times, against an undisturbed one: same figures, same files.

    python benchmarks/bench_kills.py [--seed N] [--kills N] [--whole RUN]

The seconds of nine kills are drawn from the printed seed over the length of the undisturbed run; whichever of the
stages that must be hit (each training, measuring, the report) the draw leaves out gets a kill of its own when the
event log shows the stage begin. `--whole` names an undisturbed run of the demo that exists already.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = [sys.executable, "-m", "tailorbird", "demo"]
MUST_HIT = ("prompt_tuning: customizing", "lora: customizing", "sft: customizing", "Validation", "report")


def hashes(run: Path) -> dict[str, str]:
    """SHA-256 of every file of the customizations, by path."""
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.glob("steps/*/customization/**/*"))
        if path.is_file() and path.name not in ("README.md", "scores.json")
    }


def stable(run: Path) -> str:
    told = subprocess.run(
        [sys.executable, "-m", "tailorbird", "show", str(run), "--json", "--stable"],
        capture_output=True,
        text=True,
        check=True,
    )
    return told.stdout


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        COMMAND, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def run_until(folder: Path, seconds: float | None, stage: str | None) -> tuple[bool, str]:
    """Run the demo until `seconds` have passed, or `stage` was announced and half a second more; (ended, last line)."""
    process = start(folder)
    begun, last = time.monotonic(), ""
    assert process.stderr is not None
    os.set_blocking(process.stderr.fileno(), False)
    deadline = None if seconds is None else begun + seconds
    while process.poll() is None:
        chunk = process.stderr.read() or ""
        for line in chunk.splitlines():
            last = line
            if stage is not None and deadline is None and stage in line and "done" not in line:
                deadline = time.monotonic() + 0.5
        if deadline is not None and time.monotonic() >= deadline:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return False, last
        time.sleep(0.02)
    if process.returncode != 0:
        sys.exit(f"the demo ended with {process.returncode}: {last}\n{process.stderr.read() or ''}")
    return True, last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--whole", type=Path)
    asked = parser.parse_args()
    draw = random.Random(asked.seed)
    print(f"seed {asked.seed}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        whole, length = asked.whole, 300.0
        if whole is None:
            folder = Path(scratch) / "whole"
            folder.mkdir()
            begun = time.monotonic()
            run_until(folder, None, None)
            length = time.monotonic() - begun
            whole = folder / "runs" / "demo"
            print(f"undisturbed: {length:.0f} s", flush=True)
        killed = Path(scratch) / "killed"
        killed.mkdir()
        left = list(MUST_HIT)
        share = length / (asked.kills + 1)
        for number in range(1, asked.kills + 1):
            remaining = asked.kills - number + 1
            stage = left[0] if len(left) >= remaining else None
            seconds = None if stage else draw.uniform(0.3 * share, 2.0 * share)
            ended, last = run_until(killed, seconds, stage)
            for hit in [s for s in left if s in last]:
                left.remove(hit)
            how = f"after {seconds:.1f} s" if seconds is not None else f"in {stage!r}"
            print(f"kill {number:2d} {how}: {last.strip()}", flush=True)
            if ended:
                sys.exit("the run ended before all kills were done: draw another seed")
        run_until(killed, None, None)
        run = killed / "runs" / "demo"
        same_figures, same_files = stable(run) == stable(whole), hashes(run) == hashes(whole)
        print(
            json.dumps(
                {
                    "kills": asked.kills,
                    "same_stable": same_figures,
                    "same_files": same_files,
                    "files": len(hashes(run)),
                    "stages_not_hit": left,
                }
            )
        )
        if not (same_figures and same_files) or left:
            sys.exit(1)


if __name__ == "__main__":
    main()
