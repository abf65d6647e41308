"""Runs every benchmark, bench_*.py beside this file, one after the other. `make bench`

Each prints its figures with the command that made them; docs/benchmarks.md takes them from there. Some need hours:

    python benchmarks/all.py startup kills       # only those whose name contains one of the words
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main(wanted: list[str]) -> int:
    failed = []
    for script in sorted(HERE.glob("bench_*.py")):
        if wanted and not any(word in script.stem for word in wanted):
            continue
        print(f"\n== {script.name}", flush=True)
        start = time.perf_counter()
        done = subprocess.run([sys.executable, str(script)])
        print(f"-- {script.name}: {time.perf_counter() - start:.0f} s, exit {done.returncode}", flush=True)
        if done.returncode != 0:
            failed.append(script.name)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
