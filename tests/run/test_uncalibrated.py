"""The base as it is, read off its calibrated scores: by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailorbird import store
from tailorbird.running.uncalibrated import Uncalibrated, write_scores
from tailorbird.types import Answer, Request


def test_the_calibration_is_added_back(tmp_path: Path) -> None:
    """Raw scores (-1, -2) with calibration (0.5, -3) were kept as (-1.5, 1): calibrated says b, the base itself a."""
    store.write_json(tmp_path / "prompt.json", {"decode": {"calibration": {"a": 0.5, "b": -3.0}}})
    write_scores(tmp_path, [Answer("row", "", scores={"a": -1.5, "b": 1.0})])
    (answer,) = Uncalibrated(tmp_path, tmp_path).answer([Request("row", (), candidates=("a", "b"))])
    assert answer.label == "a"
    assert answer.scores == {"a": -1.0, "b": -2.0}
    assert answer.confidence == pytest.approx(0.7310586)  # 1 / (1 + e^-1)
