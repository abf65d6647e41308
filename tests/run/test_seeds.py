"""A contestant made with several seeds: what is made, measured, handed out and said."""

from __future__ import annotations

import math

import pytest

from tailorbird import store
from tailorbird.measure.comparison import SEVERAL_SEEDS, stable

from .conftest import World
from .made_by_formula import Maker, jobs, row_of


def test_each_seed_is_made_and_measured_on_both_splits(scripted: World, maker: Maker) -> None:
    scripted.write("[zero_shot, {lora: {learning_rate: 0.01}, seeds: 3}]", seed="7")
    finished = scripted.run()
    row = row_of(finished.comparison)
    assert [job.seed for job in jobs(maker)] == [7, 8, 9]
    assert row["seeds"] == [7, 8, 9]
    assert row["interval_is_about"] == SEVERAL_SEEDS
    for split in ("validation", "test"):
        scores = [one[split] for one in row["by_seed"]]
        assert row[split]["score"] == pytest.approx(sum(scores) / 3)
        assert row["seed_sd"][split] == pytest.approx(math.sqrt(sum((s - sum(scores) / 3) ** 2 for s in scores) / 2))
    assert row_of(finished.comparison, "zero_shot")["by_seed"] == []


def test_the_seed_with_the_lowest_tuning_loss_is_handed_out(scripted: World, maker: Maker) -> None:
    scripted.write("[zero_shot, {lora: {}, seeds: 3}]", seed="7")
    finished = scripted.run()
    row = row_of(finished.comparison)  # 7 % 3 = 1, 8 % 3 = 2, 9 % 3 = 0
    assert [one["exported"] for one in row["by_seed"]] == [False, False, True]
    assert store.read_json(finished.folder / row["artifact"] / "prompt.json")["seed"] == 9
    view = store.read_json(finished.folder / "contestants" / "lora.json")["steps"]
    assert view["customize"] == view["customize, seed 9"] != view["customize, seed 7"]
    assert {"validation", "validation, seed 7", "test, seed 9", "latency"} <= set(view)


def test_what_starts_from_one_of_several_seeds_starts_from_the_one_that_is_handed_out(
    scripted: World, maker: Maker
) -> None:
    scripted.write(
        "[zero_shot, {lora: {learning_rate: 0.01}, seeds: 3}, {sft: {}, label: child, after: lora}]", seed="0"
    )
    finished = scripted.run()
    child = next(job for job in maker.jobs if job.label == "child")
    assert child.parent == finished.folder / row_of(finished.comparison)["artifact"]
    assert store.read_json(child.parent / "prompt.json")["seed"] == 0  # the lowest loss, and not the last made


def test_latency_and_forgetting_are_measured_once_and_scores_told_once(scripted: World, maker: Maker) -> None:
    scripted.write("[zero_shot, {lora: {}, seeds: 3}]")
    scripted.run()
    stages = [stage for label, stage in scripted.stages() if label == "lora"]
    assert stages.count("latency") == stages.count("forgetting") == 1
    assert [s for s in stages if s.startswith("seed")] == ["seed 1 of 3", "seed 2 of 3", "seed 3 of 3"]
    told = [e for e in scripted.events if e["kind"] == "measured" and e["label"] == "lora"]
    assert [e["split"] for e in told] == ["validation", "test"]


def test_another_seed_more_makes_that_one_alone(scripted: World, maker: Maker) -> None:
    scripted.write("[zero_shot, lora]")
    scripted.run()
    before = len(maker.jobs)
    scripted.run("contestants.lora.seeds=2")
    assert [job.seed for job in maker.jobs[before:]] == [1]


def test_outcomes_of_seeds_are_read_back_as_they_were_pooled(scripted: World, maker: Maker) -> None:
    scripted.write("[zero_shot, {lora: {}, seeds: 3}]")
    finished = scripted.run()
    view = store.read_json(finished.folder / "contestants" / "lora.json")["steps"]
    lines = store.read_jsonl(finished.folder / "steps" / view["validation"] / "outcomes.jsonl")
    assert all(len(line["by_seed"]) == 3 and line["score"] == pytest.approx(sum(line["by_seed"]) / 3) for line in lines)
    (finished.folder / "finished.json").unlink()
    assert stable(scripted.run().comparison) == stable(finished.comparison)
