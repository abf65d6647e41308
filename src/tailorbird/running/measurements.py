"""Measurements on disk: figures in done.json, one outcome a line in outcomes.jsonl. Read back equal."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from tailorbird import store
from tailorbird.types import Measurement, Outcome, Score, SplitName, Stop


def write_outcomes(folder: Path, measurement: Measurement) -> None:
    store.write_jsonl(folder / "outcomes.jsonl", (outcome_dict(o) for o in measurement.outcomes))


def measurement_dict(measurement: Measurement) -> dict[str, Any]:
    """All but the outcomes."""
    return {"split": measurement.split, "metric": measurement.metric, "score": asdict(measurement.score)}


def read_measurement(folder: Path, value: dict[str, Any]) -> Measurement:
    score = value["score"]
    outcomes = tuple(outcome(row) for row in store.read_jsonl(folder / "outcomes.jsonl"))
    split: SplitName = value["split"]
    return Measurement(split, value["metric"], Score(**score), outcomes)


def outcome_dict(outcome: Outcome) -> dict[str, Any]:
    return {**asdict(outcome), "stop": outcome.stop.value, "slices": dict(outcome.slices)}


def outcome(value: dict[str, Any]) -> Outcome:
    return Outcome(**{**value, "stop": Stop(value["stop"]), "by_seed": tuple(value.get("by_seed", ()))})
