"""A contestant with an answer curve: nested shares of Train, measured on Validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tailorbird import spec as specs
from tailorbird import store
from tailorbird.artifacts.learned_from import LearnedFrom, write_learned_from
from tailorbird.data.learned import input_hash
from tailorbird.errors import Interrupted, NumericError, ResourceError, SpecError
from tailorbird.plan import make_plan
from tailorbird.running.material import read_material
from tailorbird.types import Train

from .conftest import WORDS, World
from .made_by_formula import Maker, jobs, row_of


def test_shares_are_nested_stratified_and_in_order(scripted: World, maker: Maker) -> None:
    from tailorbird.running.curves import share_of

    scripted.write("[zero_shot, {lora: {}, curve: [25, 50, 100]}]", split="{train: 60, tuning: 10}")
    scripted.run()
    train = jobs(maker)[0].train
    quarter, half = share_of(train, 25, 0), share_of(train, 50, 0)
    assert isinstance(quarter, Train)
    ids = [row.id for row in train]
    assert {r.id for r in quarter} < {r.id for r in half} < set(ids)
    assert [r.id for r in half] == [i for i in ids if i in {r.id for r in half}]
    for label in WORDS:
        count = sum(row.label == label for row in train)
        assert abs(sum(row.label == label for row in half) - count / 2) <= 0.5
    assert {r.id for r in share_of(train, 50, 1)} != {r.id for r in half}
    assert {row.label for row in share_of(train, 1, 0)} == set(WORDS)
    assert list(share_of(train, 100, 0)) == list(train)


def test_a_curve_is_measured_on_validation_with_the_contestant_as_its_last_point(scripted: World, maker: Maker) -> None:
    scripted.write("[zero_shot, {lora: {}, curve: [25, 50, 100], seeds: 2}]", split="{train: 60, tuning: 10}")
    finished = scripted.run()
    row = row_of(finished.comparison)
    points = row["curve"]["points"]
    assert [p["share"] for p in points] == [25, 50, 100]
    assert points[2]["rows"] == 60
    assert points[2]["score"] == pytest.approx(sum(one["validation"] for one in row["by_seed"]) / 2)
    assert row["curve"]["last_step"]["seeds"] == 2
    assert sorted(len(job.train) for job in jobs(maker)) == sorted([points[0]["rows"], points[1]["rows"], 60, 60])
    assert {p["n"] for p in points} == {finished.comparison["splits"]["validation"]}
    assert row["curve"]["more_labels"] in ("yes", "not shown", "no")
    assert row["curve"]["last_step"]["from"] == 50
    # no files of its points are left
    assert len(list(finished.folder.glob("steps/*/customization"))) == 3


def test_a_curve_of_a_tuned_contestant_has_its_tuned_settings(scripted: World, maker: Maker) -> None:
    scripted.write("[zero_shot, {lora: {}, curve: [50, 100], tune: {trials: 5, over: {learning_rate: null}}}]")
    row = row_of(scripted.run().comparison)
    part = next(job for job in jobs(maker) if len(job.train) < len(jobs(maker)[0].train))
    assert part.settings["learning_rate"] == row["settings"]["effective"]["learning_rate"] != 5e-4


def test_a_curve_ends_with_all_rows_whether_that_was_written_or_not(scripted: World, maker: Maker) -> None:
    scripted.write("[zero_shot, {lora: {}, curve: [50]}]", split="{train: 60, tuning: 10}")
    points = row_of(scripted.run().comparison)["curve"]["points"]
    assert [p["share"] for p in points] == [50, 100]


def test_a_share_that_comes_to_the_same_rows_is_left_out(scripted: World, maker: Maker) -> None:
    """One row of each label at least: the smallest shares are one and the same training."""
    scripted.write("[zero_shot, {lora: {}, curve: [1, 2, 50]}]", split="{train: 60, tuning: 10}")
    points = row_of(scripted.run().comparison)["curve"]["points"]
    assert [p["share"] for p in points] == [1, 50, 100]
    assert points[0]["rows"] == len(WORDS)


def test_few_rows_a_label_have_no_curve_and_it_is_said(scripted: World, maker: Maker) -> None:
    scripted.write("[zero_shot, {lora: {}, curve: [10, 30]}]", split=f"{{train: {len(WORDS)}, tuning: {len(WORDS)}}}")
    row = row_of(scripted.run().comparison)
    assert row["curve"] is None
    assert row["note"].startswith("no answer curve: ")


def test_without_a_curve_there_is_none(scripted: World, maker: Maker) -> None:
    scripted.write("[zero_shot, lora]")
    row = row_of(scripted.run().comparison)
    assert (row["curve"], row["tuning"]) == (None, None)


def failing(maker: Maker, monkeypatch: pytest.MonkeyPatch, error: Exception, *, below: int) -> None:
    """Jobs with fewer Train rows raise this."""

    def customize(job: Any, out: Path) -> dict[str, Any]:
        if job.label == "lora" and len(job.train) < below:
            raise error
        return maker(job, out)

    monkeypatch.setattr("tailorbird.customize.customize", customize)


def test_a_point_that_comes_to_nothing_is_left_out_and_the_contestant_stays_measured(
    scripted: World, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted.write("[zero_shot, {lora: {}, curve: [25, 50, 100]}]", split="{train: 60, tuning: 10}")
    failing(maker, monkeypatch, NumericError("loss was not finite for 5 steps in a row"), below=20)
    finished = scripted.run()
    row = row_of(finished.comparison)
    assert row["state"] == "done" and finished.failures == {}
    assert [p["share"] for p in row["curve"]["points"]] == [50, 100]
    said = "the answer curve has no point at 25 %: loss was not finite for 5 steps in a row"
    assert said in row["note"] and said in (finished.folder / "report.html").read_text()
    assert any("NumericError" in path.read_text() for path in finished.folder.glob("steps/*/error.txt"))


def test_without_any_point_but_its_own_a_contestant_has_no_curve(
    scripted: World, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted.write("[zero_shot, {lora: {}, curve: [25, 100]}]", split="{train: 60, tuning: 10}")
    failing(maker, monkeypatch, ResourceError("lora ran out of memory"), below=60)
    row = row_of(scripted.run().comparison)
    assert (row["state"], row["curve"]) == ("done", None)
    assert row["note"] == "the answer curve has no point at 25 %: lora ran out of memory"


@pytest.mark.parametrize("error", [Interrupted("stopped"), store.DiskError("the disk is full")])
def test_a_stop_or_a_full_disk_at_a_point_stops_the_run(
    scripted: World, maker: Maker, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    scripted.write("[zero_shot, {lora: {}, curve: [25, 100]}]", split="{train: 60, tuning: 10}")
    failing(maker, monkeypatch, error, below=60)
    with pytest.raises(type(error)):
        scripted.run()


def test_after_one_made_before_from_these_rows_there_is_no_curve(
    scripted: World, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of Train were learned from there: a point of few labels would be one of many."""
    before = scripted.folder / "before"
    store.write_json(before / "manifest.json", {})
    monkeypatch.setattr("tailorbird.running.material.made_before", lambda spec: {})  # what it consists of
    contestants = "[zero_shot, {label: on, technique: lora, after: ./before, curve: [25, 100]}]"
    scripted.write(contestants, split="{train: 60, tuning: 10}")
    spec = specs.load(scripted.spec_path)
    assert read_material(spec).met == {}
    train = read_material(spec).splits.train
    write_learned_from(before, LearnedFrom(frozenset(input_hash(row) for row in train[:30])))
    material = read_material(spec)
    known = sum(input_hash(row) in {input_hash(row) for row in train[:30]} for row in material.splits.train)
    assert known > 0 and material.met == {"on": known}
    with pytest.raises(SpecError, match=f"has learned from {known} of the 60 Train rows already"):
        make_plan(spec, material.facts(torch=False))
