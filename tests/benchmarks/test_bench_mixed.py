"""What `benchmarks/bench_mixed.py` makes of its figures."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import bench_mixed


@pytest.mark.parametrize(
    ("times", "difference", "other", "code", "said"),
    [
        ([3.0, 5.1], 1e-4, 0, 0, ""),
        ([3.5, 2.9], 1e-5, 0, 1, "mixed is 2.90 times as fast as switching, 3 are asked"),
        ([3.5, 5.1], 1.1e-4, 0, 1, "0.00011 nats apart, 0 other answers"),
        ([3.5, 5.1], 1e-5, 1, 1, "1 other answers"),
    ],
)
def test_what_is_asked_and_not_met_is_said_and_fails(
    times: list[float], difference: float, other: int, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench_mixed.verdict(times, difference, other) == code
    assert said in capsys.readouterr().out
