"""Drift in a run: the base's answers once, a KL for each contestant that was trained, nothing for the others."""

from __future__ import annotations

import pytest

from tailorbird import store
from tailorbird.measure.drift import drift_prompts

from .conftest import World


def test_each_trained_contestant_has_its_drift_on_answers_made_once(scripted: World) -> None:
    scripted.write("[zero_shot, few_shot, lora, sft]")
    finished = scripted.run()
    rows = {row["label"]: row["forgetting"] for row in finished.comparison["rows"]}
    assert rows["few_shot"] == rows["zero_shot"] == {"state": "not_applicable"}
    # the scripted answerer has moved by half of what it gets wrong, at each token
    assert rows["lora"]["drift_kl"]["value"] == pytest.approx(0.5 * 0.05)
    assert rows["sft"]["drift_kl"]["value"] == pytest.approx(0.5 * 0.03)
    assert rows["sft"]["drift_kl"]["prompts"] == len(drift_prompts(fast=True)) == 20
    assert [label for label, stage in scripted.stages() if stage == "drift"] == [None, "lora", "sft"]
    names = [store.read_json(path)["step"] for path in finished.folder.glob("steps/*/inputs.json")]
    assert (names.count("drift answers"), names.count("drift")) == (1, 2)


def test_all_prompts_are_asked_unless_the_texts_are_fast(scripted: World) -> None:
    scripted.write("[zero_shot, lora]", data="{examples: rows.csv, retention: full}")
    drifts = {row["label"]: row["forgetting"].get("drift_kl") for row in scripted.run().comparison["rows"]}
    assert drifts["lora"]["prompts"] == len(drift_prompts()) == 60


def test_what_is_measured_already_is_not_measured_again(scripted: World) -> None:
    scripted.write("[zero_shot, lora]")
    first = scripted.run().comparison
    scripted.write("[zero_shot, lora]", requirements="{margin: 0.05}")
    second = scripted.run().comparison
    assert "drift" not in [stage for _, stage in scripted.stages()]
    assert first["rows"][0]["forgetting"] == second["rows"][0]["forgetting"]


def test_the_page_says_it_beside_bits_per_byte(scripted: World) -> None:
    scripted.write("[zero_shot, lora]")
    page = (scripted.run().folder / "report.html").read_text(encoding="utf-8")
    assert "Drift, nats a token" in page
    assert "0.0250" in page
