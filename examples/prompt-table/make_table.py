"""Runs every spec of this folder and puts each soft prompt into one table. About three minutes a task on two cores.

    python prepare.py && python make_table.py [TABLE]

Killed or stopped, the same command goes on; what is in the table already stays as it is. Then, for example:

    tailorbird table list table
    tailorbird chat table:intents
    tailorbird apply table queue.csv -o answers.csv --beside adapter=runs/intents:adapter
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main(table: str = "table") -> None:
    for spec in sorted(HERE.glob("*.yaml")):
        tailorbird("run", spec.name)
        tailorbird("table", "add", table, f"runs/{spec.stem}:{spec.stem}")
    tailorbird("table", "list", table)


def tailorbird(*words: str) -> None:
    """In this folder, so that runs and table lie beside the specs; stops where a command fails."""
    ended = subprocess.run([sys.executable, "-m", "tailorbird", *words], cwd=HERE)
    if ended.returncode != 0:
        sys.exit(ended.returncode)


if __name__ == "__main__":
    main(*sys.argv[1:2])
