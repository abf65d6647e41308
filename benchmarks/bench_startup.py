"""Seconds until `--help` ends and until `check` on the demo's spec says its first word. Best and median of ten."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tailorbird.types

DEMO = Path(tailorbird.types.__file__).parent / "examples" / "demo" / "demo.yaml"
TIMES = 10


def first_output(*arguments: str) -> float:
    start = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            [sys.executable, "-m", "tailorbird", *arguments],
            cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as process,
    ):  # fmt: skip
        assert process.stdout is not None
        process.stdout.read(1)
        seconds = time.perf_counter() - start
        process.kill()
    return seconds


def whole(*arguments: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "tailorbird", *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    for name, seconds in {
        "tailorbird --help, whole": [whole("--help") for _ in range(TIMES)],
        "tailorbird check demo.yaml, first output": [first_output("check", str(DEMO)) for _ in range(TIMES)],
    }.items():
        print(f"{name}: best {min(seconds):.3f} s, median {statistics.median(seconds):.3f} s of {TIMES}")
