"""Whole runs on a small pretrained base (260 k parameters), through the command line: kills, reload, apply, Python."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tailorbird import store

from .conftest import World, write_rows

pytestmark = pytest.mark.slow
CONTESTANTS = "[majority, zero_shot, {lora: {epochs: 2}}, {sft: {epochs: 2}}]"
SPLIT = "{train: 32, tuning: 8, validation: 12, test: 12}"


def tailorbird(folder: Path, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tailorbird", *words],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        **more,
    )


NO_NETWORK = """
import socket
def refuse(*words, **named):
    raise RuntimeError("this process wanted to reach the network")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
"""


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Every command of this file runs where sockets and name look-ups raise."""
    (folder / "offline").mkdir(exist_ok=True)
    (folder / "offline" / "sitecustomize.py").write_text(NO_NETWORK)
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(folder / "offline"), *sys.path]),
        "TAILORBIRD_HOME": str(folder / "home"),
        "OMP_NUM_THREADS": "1",
        **more,
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one undisturbed run `try`, made by the command line."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_rows(folder / "rows.csv")
    World(folder).write(CONTESTANTS, split=SPLIT)
    done = tailorbird(folder, "run", "try.yaml")
    assert done.returncode == 0, done.stderr
    assert str(Path("runs/try/report.html")) in done.stdout
    assert "Traceback" not in done.stderr
    return folder


def stable(folder: Path) -> str:
    done = tailorbird(folder, "show", "try", "--json", "--stable")
    assert done.returncode == 0, done.stderr
    return done.stdout


def payloads(folder: Path) -> dict[str, str]:
    """Hashes of every artifact's payload, by step and file."""
    found = {}
    for manifest in sorted((folder / "runs" / "try" / "steps").glob("*/customization/manifest.json")):
        for name, digest in store.read_json(manifest)["files"].items():
            found[f"{manifest.parent.parent.name}/{name}"] = digest
    return found


def test_again_is_quick_and_equal(finished: Path) -> None:
    before = stable(finished)
    begun = time.monotonic()
    assert tailorbird(finished, "run", "try.yaml").returncode == 0
    assert time.monotonic() - begun < 10
    assert stable(finished) == before


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_killed_again_and_again_it_ends_bit_for_bit_as_undisturbed(finished: Path, tmp_path: Path) -> None:
    for name in ("rows.csv", "try.yaml"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    points = ["finish", "publish", "write", "append", "rename", "publish-between"]
    rng = random.Random(5)
    killed = 0
    for _ in range(6):
        fault = f"kill@{rng.choice(points[:3])}:{rng.randrange(2, 12)}"
        done = subprocess.run(
            [sys.executable, "-m", "tailorbird", "run", "try.yaml"],
            cwd=tmp_path,
            env=environment(tmp_path, TAILORBIRD_FAULT=fault),
            capture_output=True,
            check=False,
        )
        killed += done.returncode == -signal.SIGKILL
    assert killed >= 3
    done = tailorbird(tmp_path, "run", "try.yaml")
    assert done.returncode == 0, done.stderr
    assert stable(tmp_path) == stable(finished)
    assert payloads(tmp_path) == payloads(finished)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_sigterm_stops_at_a_safe_point_and_names_the_command_that_goes_on(finished: Path, tmp_path: Path) -> None:
    for name in ("rows.csv", "try.yaml"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    process = subprocess.Popen(
        [sys.executable, "-m", "tailorbird", "run", "try.yaml"],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "zero_shot" in line and "Validation" in line:
            break
    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate(timeout=120)
    assert process.returncode == 5, rest
    assert "go on with: tailorbird run try.yaml" in rest
    assert "Traceback" not in rest


def test_apply_killed_and_continued_gives_each_row_once(finished: Path) -> None:
    write_rows(finished / "new.csv", count=150, seed=9)
    words = ("apply", "try:lora", "new.csv")
    whole = tailorbird(finished, *words, "-o", "whole.csv")
    assert whole.returncode == 0, whole.stderr
    if sys.platform != "win32":
        killed = subprocess.run(
            [sys.executable, "-m", "tailorbird", *words, "-o", "pieces.csv"],
            cwd=finished,
            env=environment(finished, TAILORBIRD_FAULT="kill@apply:2"),
            capture_output=True,
            check=False,
        )
        assert killed.returncode == -signal.SIGKILL
    assert not (finished / "pieces.csv").exists()
    rest = tailorbird(finished, *words, "-o", "pieces.csv")
    assert rest.returncode == 0, rest.stderr
    assert (finished / "pieces.csv").read_bytes() == (finished / "whole.csv").read_bytes()
    with open(finished / "whole.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 150
    assert list(rows[0]) == ["text", "input_label", "label", "confidence", "abstain", "problem"]
    assert not list(finished.glob(".pieces*"))


def test_python_reads_and_opens_the_same_run(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tailorbird

    monkeypatch.chdir(finished)
    monkeypatch.setenv("TAILORBIRD_HOME", str(finished / "home"))
    comparison = tailorbird.run("try.yaml", progress=False)
    assert json.dumps(comparison.as_dict(stable=True), indent=2, sort_keys=True, ensure_ascii=False) + "\n" == stable(
        finished
    )
    assert comparison["lora"].test.n == 12
    assert "<table>" in comparison._repr_html_()
    model = tailorbird.load("runs/try:lora")
    (label,) = model.classify(["what about my card"])
    assert label in model.labels
    assert set(label.scores) == set(model.labels)
    assert 0 < label.confidence <= 1
    assert model.score(["hello"], ["card"])[0] < 0


def test_chat_answers_line_by_line_beside_its_base(finished: Path) -> None:
    said = "my card is gone\n\nthe r\udcffate\n"  # with a byte that is no text
    more = {"input": said, "encoding": "utf-8", "errors": "surrogateescape"}
    done = tailorbird(finished, "chat", "try:lora", "--beside-base", **more)
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["lora", "base", "lora", "base"]


def test_what_is_measured_is_named_by_its_folder_alone(finished: Path) -> None:
    """A flipped byte of a customization is refused by name, with exit code 4."""
    view = store.read_json(finished / "runs" / "try" / "contestants" / "lora.json")
    weights = finished / "runs" / "try" / view["artifact"] / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        done = tailorbird(finished, "apply", "try:lora", "rows.csv", "-o", "never.csv")
    finally:
        weights.write_bytes(whole)
    assert done.returncode == 4
    assert "adapter_model.safetensors" in done.stderr
    assert not (finished / "never.csv").exists()


def test_the_card_says_what_was_measured(finished: Path) -> None:
    view = store.read_json(finished / "runs" / "try" / "contestants" / "lora.json")
    card = (finished / "runs" / "try" / view["artifact"] / "README.md").read_text(encoding="utf-8")
    assert f"| Test | {view['row']['test']['score']:.3f} |" in card
    assert "bits per byte" in card
