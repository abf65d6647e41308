"""Requirements: what is met, what is missed and by how much; what was not measured is not met."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tailorbird.measure.requirements import check
from tailorbird.types import Score


@dataclass
class Asked:
    min_score: float | None = None
    latency_ms: float | None = None
    max_forgetting: float | None = None
    max_deployed_mb: float | None = None


SCORE = Score(0.85, 0.8, 0.9, 300)
FORGOT = {"state": "measured", "bits_per_byte": {"change": 0.03, "low": 0.01, "high": 0.05}}


def test_what_was_not_asked_is_not_judged() -> None:
    met = check(Asked(), score=SCORE)
    assert (met.meets, met.misses, met.all) == ({}, "", True)


@pytest.mark.parametrize(
    ("asked", "met", "misses"),
    [
        (Asked(min_score=0.8), {"min_score": True}, ""),  # the lower bound counts
        (Asked(min_score=0.82), {"min_score": False}, "min_score: lower bound 0.8, asked 0.82 (0.02 short)"),
        (Asked(latency_ms=60), {"latency_ms": True}, ""),
        (Asked(latency_ms=50), {"latency_ms": False}, "latency_ms: p95 60 ms, asked 50 ms (10 over)"),
        (Asked(max_forgetting=0.05), {"max_forgetting": True}, ""),  # the upper bound counts
        (
            Asked(max_forgetting=0.04),
            {"max_forgetting": False},
            "max_forgetting: up to 0.05 bits/byte, asked 0.04 bits/byte (0.01 over)",
        ),
        (Asked(max_deployed_mb=19.5), {"max_deployed_mb": True}, ""),
        (
            Asked(max_deployed_mb=5),
            {"max_deployed_mb": False},
            "max_deployed_mb: deployed 19.5 MB, asked 5 MB (14.5 over)",
        ),
    ],
)
def test_each_requirement(asked: Asked, met: dict[str, bool], misses: str) -> None:
    latency = {"median": 40.0, "p95": 60.0}
    found = check(asked, score=SCORE, latency_ms=latency, forgetting=FORGOT, deployed_bytes=19_500_000)
    assert (found.meets, found.misses, found.all) == (met, misses, misses == "")


def test_not_measured_is_not_met_and_is_said() -> None:
    found = check(Asked(0.5, 100, 0.1, 10), score=None)
    assert found.meets == dict.fromkeys(("min_score", "latency_ms", "max_forgetting", "max_deployed_mb"))
    assert not found.all
    assert found.misses == (
        "min_score: not measured; latency_ms: not measured; max_forgetting: not measured; max_deployed_mb: not measured"
    )


def test_a_message_prompt_cannot_have_forgotten() -> None:
    assert check(Asked(max_forgetting=0.0), score=SCORE, forgetting={"state": "not_applicable"}).all
