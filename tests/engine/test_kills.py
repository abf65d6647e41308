"""Killed at five points of its training, each technique ends with the files of the undisturbed one, bit for bit.

`benchmarks/bench_kill_sweep.py` does the same at thirty points and on the real base.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tailorbird.testing.kills import spread, trained

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(scope="session")
def trials(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """One server for all techniques: importing torch and transformers takes longer than all the trainings."""
    command = [sys.executable, "-m", "tailorbird.testing.kills", str(tmp_path_factory.mktemp("kills"))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stderr[-3000:]
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    return {line["technique"]: line["trials"] for line in lines}


@pytest.mark.parametrize("name", trained())
def test_killed_anywhere_and_continued_the_files_are_those_of_the_undisturbed_training(
    trials: dict[str, list[dict[str, Any]]], name: str
) -> None:
    assert len({trial["point"] for trial in trials[name]}) == 5
    assert {(trial["dropout"], trial["dtype"]) for trial in trials[name]} == {(0.0, "bfloat16"), (0.1, "float32")}
    assert [trial for trial in trials[name] if not trial["equal"]] == []


def test_kills_are_spread_over_all_points_and_hit_the_last_pass_of_each() -> None:
    passes = {"backward": 9, "prune": 2, "optimizer": 9, "publish": 5, "held-out": 3}
    assert spread(passes, 5) == [("backward", 9), ("prune", 2), ("optimizer", 9), ("publish", 5), ("held-out", 3)]
    assert spread({"backward": 9, "prune": 1}, 4) == [("backward", 9), ("backward", 6), ("backward", 3), ("prune", 1)]
    assert len(set(spread(passes, 28))) == sum(passes.values())
