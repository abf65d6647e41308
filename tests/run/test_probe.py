"""The probe's speeds are kept between runs only when the machine was quiet while they were measured."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tailorbird.bases.machine import machine
from tailorbird.engine.probe import Probe, probe
from tailorbird.running.machine import known_speeds, probed

SPEEDS = {"float32": 100.0, "bfloat16": 200.0}


@pytest.mark.parametrize("quiet", [True, False])
def test_speeds_of_a_busy_machine_serve_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: bool) -> None:
    monkeypatch.setenv("TAILORBIRD_HOME", str(tmp_path))
    monkeypatch.setattr("tailorbird.engine.probe.probe", lambda device, threads: Probe(SPEEDS, quiet))
    here = machine("cpu")
    assert probed(here) == SPEEDS
    assert known_speeds(here) == (SPEEDS if quiet else {})


def test_other_programs_are_noticed() -> None:
    """Three other programs for each of its threads leave it a quarter of the processor."""

    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3 * (os.cpu_count() or 1))]
    try:
        assert not probe("cpu", os.cpu_count() or 1).quiet
    finally:
        for other in others:
            other.kill()
            other.wait()
