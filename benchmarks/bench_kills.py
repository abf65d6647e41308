"""One demo run killed (`kill -9`) ten times, against an undisturbed one: same figures, same files.

    python benchmarks/bench_kills.py [--seed N] [--kills N] [--whole RUN]

A kill comes at a second drawn from the printed seed, or a drawn delay after the first announcement of a stage that must
be hit (each training, measuring, the report), whichever is earlier. `--whole` names an undisturbed run of the demo that
exists already.
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
REPORT = "writing the report"
MUST_HIT = ("prompt_tuning: customizing", "lora: customizing", "sft: customizing", ": Validation", REPORT)


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


def start(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        COMMAND, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )


def _printed(process: subprocess.Popen[bytes]) -> str:
    assert process.stderr is not None
    try:
        return os.read(process.stderr.fileno(), 1 << 16).decode(errors="replace")
    except BlockingIOError:
        return ""


def run_until(folder: Path, seconds: float | None, stages: dict[str, float]) -> tuple[bool, str, str | None]:
    """Run the demo until `seconds` have passed, or until a delay after one of `stages` was announced.

    Returns (it ended by itself, the last line it printed, the stage that was hit).
    """
    process = start(folder)
    assert process.stderr is not None
    os.set_blocking(process.stderr.fileno(), False)
    deadline = float("inf") if seconds is None else time.monotonic() + seconds
    last, hit = "", None
    while process.poll() is None:
        for line in _printed(process).splitlines():
            last = line.strip() or last
            for stage, delay in stages.items():
                if hit is None and stage in line and "done" not in line and "%" not in line:
                    hit, deadline = stage, min(deadline, time.monotonic() + delay)
        if time.monotonic() >= deadline:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return False, last, hit
        time.sleep(0.01)
    if process.returncode != 0:
        sys.exit(f"the demo ended with {process.returncode}: {last}")
    return True, last, None


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
            run_until(folder, None, {})
            length = time.monotonic() - begun
            whole = folder / "runs" / "demo"
            print(f"undisturbed: {length:.0f} s", flush=True)
        killed = Path(scratch) / "killed"
        killed.mkdir()
        left = list(MUST_HIT)
        share = length / (asked.kills + 1)
        for number in range(1, asked.kills + 1):
            delays = {stage: 0.0 if stage == REPORT else draw.uniform(0.2, 8.0) for stage in left}
            free = asked.kills - number + 1 > len(left)
            seconds = draw.uniform(0.3 * share, 2.0 * share) if free else None
            begun = time.monotonic()
            ended, last, hit = run_until(killed, seconds, delays)
            if ended:
                sys.exit("the run ended before all kills were done: draw another seed")
            if hit:
                left.remove(hit)
            print(f"kill {number:2d} after {time.monotonic() - begun:5.1f} s: {last}", flush=True)
        run_until(killed, None, {})
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
