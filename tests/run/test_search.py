"""A contestant with a search: what is tried, ended early, kept, taken over and said; the minutes; what it may see."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tailorbird import spec as specs
from tailorbird import store
from tailorbird.customize.fitting import TooLarge
from tailorbird.errors import Interrupted, NumericError, ResourceError
from tailorbird.measure.comparison import stable
from tailorbird.running import run_spec

from .conftest import World
from .made_by_formula import Maker, bowl, jobs, row_of


def test_a_search_begins_with_the_defaults_and_the_best_is_what_is_used(scripted: World, maker: Maker) -> None:
    scripted.write("[zero_shot, {lora: {}, tune: {trials: 8, over: {learning_rate: null}}}]")
    row = row_of(scripted.run().comparison)
    tuning = row["tuning"]
    assert len(tuning["trials"]) == 8
    assert tuning["trials"][0]["settings"] == {"learning_rate": 5e-4}
    best = tuning["trials"][tuning["best"]]
    done = [t for t in tuning["trials"] if t["state"] == "done"]
    assert best["value"] == min(t["value"] for t in done)
    assert row["settings"]["effective"]["learning_rate"] == best["settings"]["learning_rate"]
    assert row["settings"]["effective"]["rank"] == 16
    assert row["settings"]["asked"] == {}
    assert abs(math.log10(best["settings"]["learning_rate"] / 0.002)) < abs(math.log10(5e-4 / 0.002))


def test_a_trial_worse_than_the_median_is_ended_at_its_look(scripted: World, maker: Maker) -> None:
    scripted.write("[zero_shot, {lora: {}, tune: {trials: 12, over: {learning_rate: [1.0e-5, 1]}}}]")
    tuning = row_of(scripted.run().comparison)["tuning"]
    pruned = [t for t in tuning["trials"] if t["state"] == "pruned"]
    assert pruned
    for trial in pruned:
        assert trial["value"] is None
        assert trial["looks"][-1][0] < 100
    assert all(len(t["looks"]) == 3 for t in tuning["trials"] if t["state"] == "done")


def test_what_the_best_trial_made_is_taken_over_and_the_rest_is_dropped(scripted: World, maker: Maker) -> None:
    scripted.write("[zero_shot, {lora: {}, tune: {trials: 4, over: {learning_rate: null}}, seeds: 3}]")
    finished = scripted.run()
    assert len(jobs(maker)) == 4 + 2  # four trials; the two repeats are the other two seeds
    left = [p.parent.name for p in finished.folder.glob("steps/*/customization")]
    names = {store.read_json(finished.folder / "steps" / key / "inputs.json")["step"] for key in left}
    assert names == {"customize"}
    assert len(left) == 4  # zero_shot and three seeds
    assert not list(finished.folder.glob("steps/*/work"))


def test_seeds_without_repeats_of_their_own_are_made_as_usual(scripted: World, maker: Maker) -> None:
    scripted.write("[zero_shot, {lora: {}, tune: {trials: 2, over: {learning_rate: null}}, seeds: 5}]")
    row = row_of(scripted.run().comparison)
    assert len(jobs(maker)) == 2 + 2 + 2
    assert len(row["by_seed"]) == 5
    assert row["cost"]["tuning_seconds"] == 4 * 2.0  # two trials, two repeats
    assert row["cost"]["all_seconds"] == 6 * 2.0


def test_a_gain_beyond_the_noise_is_said_and_one_within_it_too(scripted: World, maker: Maker) -> None:
    scripted.write("[zero_shot, {lora: {}, tune: {trials: 8, over: {learning_rate: null}}}]")
    row = row_of(scripted.run().comparison)
    noise = row["tuning"]["noise"]
    assert len(noise["values"]) == 3
    assert noise["sd"] == pytest.approx(0.01)  # the seeds add 0, 0.01, 0.02
    assert row["tuning"]["gain"] > 0.2
    low, high = row["tuning"]["gain_interval"]  # t(2 degrees of freedom) = 4.303
    assert high - row["tuning"]["gain"] == pytest.approx(4.303 * 0.01 * math.sqrt(1.5), rel=1e-3)
    assert 0 < low < row["tuning"]["gain"]
    assert row["tuning"]["beyond_noise"] is True
    assert row["note"].startswith("tuning: Tuning loss better by 0.")

    maker.loss = lambda settings, seed: bowl(settings, 0) * 0.01 + (0.0, 0.3, 0.1)[seed % 3]
    row = row_of(scripted.run("name=noisy").comparison)
    assert row["tuning"]["beyond_noise"] is False
    assert row["note"].startswith("tuning found nothing beyond noise in 8 trials")


def test_pure_noise_is_not_taken_for_a_gain(scripted: World, maker: Maker) -> None:
    """S7: the best of thirty lucky draws is not better when it is made again."""

    def luck(settings: dict[str, Any], seed: int) -> float:
        return 1.0 + int(store.key(settings["learning_rate"], seed)[:6], 16) / 16**6 * 0.1

    maker.loss = luck
    scripted.write("[zero_shot, {lora: {}, tune: {trials: 30, over: {learning_rate: null}}}]")
    row = row_of(scripted.run().comparison)
    tuning = row["tuning"]
    assert tuning["trials"][tuning["best"]]["value"] < tuning["trials"][0]["value"]
    # of the repeats alone: the value that won is lucky by construction
    again = tuning["noise"]["values"][1:]
    assert tuning["gain"] == pytest.approx(tuning["trials"][0]["value"] - sum(again) / 2)
    assert tuning["gain"] < tuning["trials"][0]["value"] - tuning["trials"][tuning["best"]]["value"]
    assert tuning["beyond_noise"] is False


def test_a_gain_of_repeats_that_are_all_alike_has_no_interval(scripted: World, maker: Maker) -> None:
    """Scores on few rows tie: that says nothing of the luck in them."""
    maker.loss = lambda settings, seed: 0.25 if settings["learning_rate"] > 1e-3 else 0.3
    scripted.write("[zero_shot, {lora: {}, tune: {trials: 5, over: {learning_rate: null}}}]")
    row = row_of(scripted.run().comparison)
    assert row["tuning"]["noise"]["sd"] == 0.0
    assert (row["tuning"]["gain_interval"], row["tuning"]["beyond_noise"]) == (None, False)
    assert row["note"].endswith("its repeats are all alike, so how much is luck is not known")


def test_best_settings_that_are_worse_when_made_again_are_called_so(scripted: World, maker: Maker) -> None:
    maker.loss = lambda settings, seed: (0.3 if settings["learning_rate"] == 5e-4 else 0.2) + (0.0, 0.5, 0.7)[seed % 3]
    scripted.write("[zero_shot, {lora: {}, tune: {trials: 3, over: {learning_rate: null}}}]")
    row = row_of(scripted.run().comparison)
    assert "the best settings are used nonetheless: Tuning loss worse by 0.500 than with the defaults" in row["note"]
    assert row["note"].endswith("the luck of these 12 Tuning rows is not in it")


def test_a_search_that_has_tried_everything_says_so(scripted: World, maker: Maker) -> None:
    scripted.write("[zero_shot, {lora: {rank: 8}, tune: {trials: 6, over: {rank: [8, 16, 32]}}}]")
    row = row_of(scripted.run().comparison)
    assert len(row["tuning"]["trials"]) == 3
    assert "3 trials (of 6 asked: no untried settings were left)" in row["note"]


def test_when_the_defaults_are_best_it_is_said(scripted: World, maker: Maker) -> None:
    maker.loss = lambda settings, seed: abs(settings["learning_rate"] - 5e-4)
    scripted.write("[zero_shot, {lora: {}, tune: {trials: 4, over: {learning_rate: null}}}]")
    row = row_of(scripted.run().comparison)
    assert row["tuning"]["best"] == 0
    assert row["note"] == "tuning: none of 4 trials was better than the defaults"


def test_a_failed_trial_is_kept_with_its_reason_and_the_search_goes_on(scripted: World, maker: Maker) -> None:
    maker.loss = lambda settings, seed: math.nan if settings["learning_rate"] > 1e-3 else bowl(settings, seed)
    scripted.write("[zero_shot, {lora: {}, tune: {trials: 8, over: {learning_rate: null}}}]")
    row = row_of(scripted.run().comparison)
    failed = [t for t in row["tuning"]["trials"] if t["state"] == "failed"]
    assert failed
    assert all(t["note"].startswith("loss or gradient was not finite") for t in failed)
    assert row["state"] == "done"
    assert f"8 trials ({len(failed)} of them failed)" in row["note"]
    assert row["settings"]["effective"]["learning_rate"] <= 1e-3


def test_a_child_goes_on_with_the_shape_that_the_search_of_its_parent_has_found(scripted: World, maker: Maker) -> None:
    maker.loss = lambda settings, seed: 1.0 / settings.get("rank", 1)
    scripted.write(
        "[zero_shot, {label: first, technique: lora, tune: {trials: 4, over: {rank: [8, 16, 64]}}}, "
        "{label: between, technique: prompt_tuning, after: first}, {label: then, technique: lora, after: between}]"
    )
    rows = {row["label"]: row for row in scripted.run().comparison["rows"]}
    assert [rows[label]["settings"]["effective"]["rank"] for label in ("first", "then")] == [64, 64]
    assert (rows["then"]["state"], rows["then"]["settings"]["asked"]) == ("done", {})


def test_when_every_trial_fails_the_contestant_fails_with_a_table(scripted: World, maker: Maker) -> None:
    """S4: exit 3, the trials told, no best."""
    maker.loss = lambda settings, seed: math.nan if "rank" in settings else 0.0
    scripted.write("[zero_shot, {lora: {}, tune: {trials: 3, over: {learning_rate: null}}}]")
    finished = scripted.run()
    row = row_of(finished.comparison)
    assert row["state"] == "failed"
    assert finished.failures == {"lora": 3}
    assert "none of 3 trials finished" in row["note"]
    assert "trial 3: learning_rate" in row["note"]
    assert row["tuning"]["best"] is None
    assert len(row["tuning"]["trials"]) == 3


def failing(maker: Maker, monkeypatch: pytest.MonkeyPatch, error: Exception, *, rate: float) -> list[bool]:
    """Trials of `lora` above this learning rate raise this, as long as the list that is returned is not empty."""
    so_long = [True]

    def customize(job: Any, out: Path) -> dict[str, Any]:
        if so_long and job.label == "lora" and job.settings["learning_rate"] > rate:
            raise error
        return maker(job, out)

    monkeypatch.setattr("tailorbird.customize.customize", customize)
    return so_long


def test_memory_that_ran_out_in_a_trial_is_no_result_of_it(
    scripted: World, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command goes on with that trial, with less; what was tried before is not tried again."""
    scripted.write("[zero_shot, {lora: {}, tune: {trials: 5, over: {learning_rate: null}}}]")
    undisturbed = row_of(scripted.run().comparison)
    spec, other = specs.load(scripted.spec_path), scripted.folder / "runs-short"
    short = failing(maker, monkeypatch, ResourceError("lora ran out of memory"), rate=1e-3)
    finished = run_spec(spec, runs=other)
    assert finished.failures == {"lora": 6} and row_of(finished.comparison)["tuning"] is None
    tried = len(jobs(maker))
    short.clear()
    row = row_of(run_spec(spec, runs=other).comparison)
    assert [row[what] for what in ("tuning", "settings", "validation", "test")] == [
        undisturbed[what] for what in ("tuning", "settings", "validation", "test")
    ]
    again = {id(job): job.settings["learning_rate"] for job in jobs(maker)[tried:]}
    assert again and 5e-4 not in again.values()  # the first trial's


def test_a_trial_that_is_too_large_for_the_memory_fails_and_the_search_goes_on(
    scripted: World, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted.write("[zero_shot, {lora: {}, tune: {trials: 5, over: {learning_rate: null}}, seeds: 2}]")
    failing(maker, monkeypatch, TooLarge("training lora takes about 9.0 GB"), rate=1e-3)
    row = row_of(scripted.run().comparison)
    failed = [t for t in row["tuning"]["trials"] if t["state"] == "failed"]
    assert failed and all(t["note"] == "training lora takes about 9.0 GB" for t in failed)
    assert row["state"] == "done" and row["settings"]["effective"]["learning_rate"] <= 1e-3


def test_when_every_trial_is_too_large_the_exit_code_says_so_and_all_are_tried_again(
    scripted: World, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted.write("[zero_shot, {lora: {}, tune: {trials: 3, over: {learning_rate: null}}}]")
    large = failing(maker, monkeypatch, TooLarge("training lora takes about 9.0 GB"), rate=0.0)
    finished = scripted.run()
    assert finished.failures == {"lora": 6}
    assert "none of 3 trials finished" in row_of(finished.comparison)["note"]
    large.clear()
    row = row_of(scripted.run().comparison)
    assert row["state"] == "done" and {t["state"] for t in row["tuning"]["trials"]} <= {"done", "pruned"}


@pytest.mark.parametrize("after", [0, 7, 14, 23, 31, 44, 60])
def test_a_search_that_is_stopped_goes_on_as_if_undisturbed(scripted: World, maker: Maker, after: int) -> None:
    scripted.write("[zero_shot, {lora: {}, tune: {trials: 5, over: {learning_rate: null, rank: null}}, seeds: 2}]")
    undisturbed = json.dumps(stable(scripted.run().comparison), sort_keys=True)
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > after and len(asked) < after + 3

    spec, other = specs.load(scripted.spec_path), scripted.folder / "runs-stopped"
    with pytest.raises(Interrupted):
        run_spec(spec, runs=other, stop=stop)
    assert json.dumps(stable(run_spec(spec, runs=other).comparison), sort_keys=True) == undisturbed


@pytest.mark.parametrize("point", ["finish:4", "finish:6", "finish:8", "publish:1", "rename:25"])
def test_files_that_were_lost_on_their_way_are_made_again(
    scripted: World, maker: Maker, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """The disk fills while the folder of the best trial becomes the contestant's: moved, but its step not finished."""
    scripted.write("[zero_shot, {lora: {}, tune: {trials: 2, over: {learning_rate: null}}}]")
    undisturbed = stable(scripted.run().comparison)
    spec, other = specs.load(scripted.spec_path), scripted.folder / "runs-full"
    store._passes.clear()
    monkeypatch.setenv("TAILORBIRD_FAULT", f"full@{point}")
    with pytest.raises(store.DiskError):
        run_spec(spec, runs=other)
    monkeypatch.delenv("TAILORBIRD_FAULT")
    assert stable(run_spec(spec, runs=other).comparison) == undisturbed


def test_more_trials_later_keep_the_ones_that_were_made(scripted: World, maker: Maker) -> None:
    scripted.write("[zero_shot, {lora: {}, tune: {trials: 4, over: {learning_rate: null}}}]")
    first = row_of(scripted.run().comparison)["tuning"]["trials"]
    before = len(maker.jobs)
    again = row_of(scripted.run("contestants.lora.tune.trials=6").comparison)["tuning"]["trials"]
    assert again[:4] == first
    assert 2 <= len(maker.jobs) - before <= 5  # two trials, and repeats where another one is best


@pytest.mark.parametrize("minutes", [0.2, 0.5, 1.0])
def test_the_minutes_of_a_search_are_kept(scripted: World, maker: Maker, minutes: float) -> None:
    """S6: each training takes 2 s here; trials and repeats together stay within the minutes and use them up."""
    scripted.write(
        f"[zero_shot, {{lora: {{}}, tune: {{minutes: {minutes}, over: {{learning_rate: [1.0e-3, 4.0e-3]}}}}}}]"
    )
    row = row_of(scripted.run().comparison)
    spent = row["cost"]["tuning_seconds"]
    assert 60 * minutes - 4.0 <= spent <= 1.1 * 60 * minutes
    assert len(row["tuning"]["noise"]["values"]) == 3


@pytest.mark.parametrize(("first", "later"), [(2.0, 3.0), (4.0, 2.0)])
def test_the_minutes_are_kept_where_the_first_trial_was_not_like_the_others(
    scripted: World, maker: Maker, monkeypatch: pytest.MonkeyPatch, first: float, later: float
) -> None:
    make = maker.__call__

    def timed(job: Any, out: Path) -> dict[str, Any]:
        facts = make(job, out)
        store.write_json(job.work / "seconds.json", first if len(jobs(maker)) == 1 else later)
        return facts

    monkeypatch.setattr("tailorbird.customize.customize", timed)
    scripted.write("[zero_shot, {lora: {}, tune: {minutes: 1.0, over: {learning_rate: [1.0e-3, 4.0e-3]}}}]")
    row = row_of(scripted.run().comparison)
    assert 60.0 - 2 * later <= row["cost"]["tuning_seconds"] <= 66.0


@pytest.mark.parametrize("ended", ["patience", "failed"])
def test_a_first_trial_that_ended_early_is_not_the_measure_of_the_others(
    scripted: World, maker: Maker, monkeypatch: pytest.MonkeyPatch, ended: str
) -> None:
    """Its 2 s were a tenth of a training: one minute is three whole ones."""
    make = maker.__call__

    def early(job: Any, out: Path) -> dict[str, Any]:
        facts = make(job, out)
        if len(jobs(maker)) != 1 or job.label != "lora":
            return facts
        steps = facts["steps"]
        job.progress(steps // 10, steps, "")
        if ended == "failed":
            raise NumericError("loss or gradient was not finite for 5 steps in a row")
        return {**facts, "steps": steps // 10}

    monkeypatch.setattr("tailorbird.customize.customize", early)
    scripted.write(
        "[zero_shot, {lora: {batch_rows: 1}, tune: {minutes: 1.0, over: {learning_rate: [1.0e-3, 4.0e-3]}}}]"
    )
    row = row_of(scripted.run().comparison)
    assert len(row["tuning"]["trials"]) <= 2


def test_longer_trainings_take_more_of_the_minutes(
    scripted: World, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes a second an epoch, and the plan knows it."""
    make = maker.__call__

    def timed(job: Any, out: Path) -> dict[str, Any]:
        facts = make(job, out)
        store.write_json(job.work / "seconds.json", float(job.settings["epochs"]))
        return facts

    monkeypatch.setattr("tailorbird.customize.customize", timed)
    monkeypatch.setattr(
        "tailorbird.running.tuning.Budget._planned", lambda budget, entrant: float(entrant.effective["epochs"])
    )
    scripted.write("[zero_shot, {lora: {epochs: 2}, tune: {minutes: 1.0, over: {epochs: [2, 12]}}}]")
    row = row_of(scripted.run().comparison)
    epochs = [t["settings"]["epochs"] for t in row["tuning"]["trials"]]
    assert len(epochs) < 11  # of eleven values, 77 s and two repeats
    assert row["cost"]["tuning_seconds"] <= 60.0


def test_a_time_for_one_trial_alone_makes_the_defaults(scripted: World, maker: Maker) -> None:
    scripted.write("[zero_shot, {lora: {}, tune: {minutes: 0.03, over: {learning_rate: null}}}]")
    row = row_of(scripted.run().comparison)
    assert len(row["tuning"]["trials"]) == 1
    assert len(jobs(maker)) == 1
    assert row["state"] == "done"


def test_a_prompt_search_is_tuned_by_its_score(scripted: World, maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    def search(job: Any, out: Path) -> dict[str, Any]:
        maker.jobs.append(job)
        store.write_json(out / "prompt.json", {"seed": job.seed, "train": len(job.train)})
        score = 0.5 if job.settings.get("examples") is None else job.settings["examples"] / 10
        return {"train_seconds": 1.0, "peak_memory_mb": 1.0, "notes": [], "steps": 1, "tuning_score": score}

    monkeypatch.setattr("tailorbird.customize.customize", search)
    scripted.write("[zero_shot, {few_shot: {}, tune: {trials: 4, over: {examples: [6, 8]}}}]")
    row = row_of(scripted.run().comparison, "few_shot")
    assert row["tuning"]["measure"] == "tuning_score"
    assert row["settings"]["effective"]["examples"] == 8
    assert row["tuning"]["trials"][0]["settings"]["examples"] is None
    assert len(row["tuning"]["trials"]) == 4  # the defaults, 6, 7, 8


def test_validation_and_test_cannot_be_reached_from_a_trial(
    scripted: World, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S5: a trial is given Train and Tuning by type, and no attribute of its job leads to another split."""
    seen: list[str] = []
    make = maker.__call__

    def watched(job: Any, out: Path) -> dict[str, Any]:
        from dataclasses import fields

        from tailorbird.types import Split, Splits

        held = [getattr(job, f.name) for f in fields(job)]
        seen.extend(type(value).__name__ for value in held if isinstance(value, Split | Splits))
        return make(job, out)

    monkeypatch.setattr("tailorbird.customize.customize", watched)
    scripted.write("[zero_shot, {lora: {}, tune: {trials: 3, over: {learning_rate: null}}}]")
    scripted.run()
    order = [(label, stage) for label, stage in scripted.stages() if label == "lora"]
    assert {"Train", "Tuning"} <= set(seen) <= {"Train", "Tuning", "Replay"}
    assert order.index(("lora", "trial 3 of 3")) < order.index(("lora", "validation"))


def test_the_rehearsal_of_a_search_is_its_first_trial_s(scripted: World, maker: Maker) -> None:
    scripted.write("[zero_shot, {lora: {}, tune: {trials: 2, over: {learning_rate: null}}}]")
    finished = scripted.run()
    unfinished = [
        p.parent for p in finished.folder.glob("steps/*/inputs.json") if not (p.parent / "done.json").is_file()
    ]
    assert unfinished == []
