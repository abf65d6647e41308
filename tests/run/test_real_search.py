"""A search, seeds and a curve with real trainings on a small pretrained base, through the command line, with kills."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tailorbird import store

from .conftest import World, write_rows
from .test_real import environment, payloads, stable, tailorbird

pytestmark = pytest.mark.slow
CONTESTANTS = """
- zero_shot
- {few_shot: {}, seeds: 2}
- lora: {epochs: 3}
  seeds: 2
  curve: [50, 100]
  tune: {trials: 5, over: {learning_rate: [1.0e-4, 0.05], rank: [4, 16]}}
"""
SPLIT = "{train: 32, tuning: 8, validation: 12, test: 12}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    write_rows(folder / "rows.csv")
    World(folder).write(CONTESTANTS, split=SPLIT)
    done = tailorbird(folder, "run", "try.yaml")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return folder


def row_of(folder: Path, label: str) -> dict:
    return next(r for r in store.read_json(folder / "runs/try/comparison.json")["rows"] if r["label"] == label)


def test_a_real_search_is_told_whole(finished: Path) -> None:
    row = row_of(finished, "lora")
    tuning = row["tuning"]
    assert tuning["trials"][0]["settings"] == {"learning_rate": 5e-4, "rank": 16}
    assert len(tuning["trials"]) == 5
    done = [t for t in tuning["trials"] if t["state"] == "done"]
    assert all([p for p, _ in t["looks"]] == [33, 67, 100] for t in done)
    best = tuning["trials"][tuning["best"]]
    assert best["value"] == min(t["value"] for t in done)
    assert {k: row["settings"]["effective"][k] for k in best["settings"]} == best["settings"]
    assert len(tuning["noise"]["values"]) == 3
    assert len(row["by_seed"]) == 2
    assert [p["share"] for p in row["curve"]["points"]] == [50, 100]
    page = (finished / "runs/try/report.html").read_text(encoding="utf-8")
    assert "Search for settings" in page
    assert "Would more labels help?" in page


def test_the_files_are_those_of_the_best_trial_and_of_the_better_seed(finished: Path) -> None:
    row = row_of(finished, "lora")
    manifest = store.read_json(finished / "runs/try" / row["artifact"] / "manifest.json")
    (handed,) = [one["seed"] for one in row["by_seed"] if one["exported"]]
    assert manifest["data"]["seed"] == handed
    assert manifest["settings_effective"]["learning_rate"] == row["settings"]["effective"]["learning_rate"]
    values = row["tuning"]["noise"]["values"]
    assert handed == min((0, 1), key=lambda seed: values[seed])
    assert manifest["training"]["tuning_loss"] == values[handed]


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_killed_in_its_trials_a_search_ends_bit_for_bit_as_undisturbed(finished: Path, tmp_path: Path) -> None:
    """S1, S3: no trial is lost, none is suggested anew, none is left half-done."""
    for name in ("rows.csv", "try.yaml"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    rng = random.Random(11)
    killed = 0
    for point in ("finish", "publish", "write", "rename", "publish", "finish", "write", "finish"):
        done = subprocess.run(
            [sys.executable, "-m", "tailorbird", "run", "try.yaml"],
            cwd=tmp_path,
            env=environment(tmp_path, TAILORBIRD_FAULT=f"kill@{point}:{rng.randrange(2, 12)}"),
            capture_output=True,
            check=False,
        )
        killed += done.returncode == -signal.SIGKILL
    assert killed >= 4
    done = tailorbird(tmp_path, "run", "try.yaml")
    assert done.returncode == 0, done.stderr
    assert stable(tmp_path) == stable(finished)
    assert payloads(tmp_path) == payloads(finished)
    assert not list((tmp_path / "runs/try/steps").glob("*/work"))
