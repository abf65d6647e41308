"""A training that hangs, through the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tailorbird.cli.watchdog import FILE

from .conftest import World, write_rows

COMMAND = """
import sys
from tailorbird.cli import watchdog
watchdog.LEAST_SECONDS = {least}
sys.argv = ["tailorbird", "run", "try.yaml"]
from tailorbird.cli import main
main()
"""


@pytest.mark.slow
def test_a_training_that_hangs_is_ended_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """It sleeps in its first step, the rehearsal's."""
    write_rows(tmp_path / "rows.csv")
    World(tmp_path).write("[majority, {lora: {epochs: 1}}]", split="{train: 32, tuning: 8, validation: 12, test: 12}")

    def run(fault: str, least: float) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "TAILORBIRD_HOME": str(tmp_path / "home"),
            "TAILORBIRD_FAULT": fault,
        }
        return subprocess.run(
            [sys.executable, "-c", COMMAND.format(least=least)], cwd=tmp_path, env=environment, capture_output=True,
            text=True,
        )  # fmt: skip

    hung = run("sleep@step", 15.0)
    assert hung.returncode == 6, hung.stderr
    place = Path("runs") / "try" / FILE
    assert f"lora, rehearse: no progress for 0 minutes; what each thread was doing is in {place}" in hung.stderr
    dump = (tmp_path / place).read_text()
    assert "in fault" in dump and "in train" in dump and "in _watch" in dump
    done = run("", 1800.0)
    assert done.returncode == 0, done.stderr
