"""A contestant with a search, several seeds or an answer curve: what is made, measured, kept and said. The techniques
are scripted: their Tuning loss is a formula of the settings and the seed, told look by look as a training tells it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tailorbird import spec as specs
from tailorbird import store
from tailorbird.errors import Interrupted, NumericError
from tailorbird.measure.comparison import SEVERAL_SEEDS, stable
from tailorbird.running import run_spec
from tailorbird.types import Answer, Request, Stop, Train

from .conftest import WORDS, World

Loss = Callable[[dict[str, Any], int], float]


def bowl(settings: dict[str, Any], seed: int) -> float:
    """Lowest at a learning rate of 0.002; a seed moves it by a hundredth."""
    return (math.log10(settings["learning_rate"]) - math.log10(0.002)) ** 2 + 0.01 * (seed % 3)


class Maker:
    """Stands in for `customize`: notes every job, tells its looks, writes a folder with what it was made from."""

    def __init__(self, loss: Loss = bowl) -> None:
        self.loss = loss
        self.jobs: list[Any] = []
        self.ended_at: list[int] = []

    def __call__(self, job: Any, out: Path) -> dict[str, Any]:
        self.jobs.append(job)
        trained = "learning_rate" in job.settings
        loss = self.loss(job.settings, job.seed) if trained else 0.0
        steps = 3
        if trained:
            steps = job.settings["epochs"] * math.ceil(len(job.train) / job.settings["batch_rows"])
        for look in (1, 2, 3):
            store.write_json(job.work / "seconds.json", 2.0 * look / 3)
            if job.stop():
                raise Interrupted("stopped")
            at = round(steps * look / 3)
            self.ended_at.append(at)
            job.progress(at, steps, "")
            if not math.isfinite(loss):
                raise NumericError("loss or gradient was not finite for 5 steps in a row (last at step 5)")
            job.judged(at, loss + (3 - look) * 0.3)
        made = {"technique": job.technique, "settings": job.settings, "seed": job.seed, "train": len(job.train)}
        store.write_json(out / "prompt.json", made)
        store.write_jsonl(job.work / "log.jsonl", [{"step": steps, "loss": loss, "tuning_loss": loss}])
        return {"train_seconds": 2.0, "train_tokens": 10, "peak_memory_mb": 10.0, "notes": [], "steps": steps,
                "tuning_loss": loss}  # fmt: skip


class Shaky:
    """Right on a share of rows that grows with the rows it learned from, each seed on others."""

    def __init__(self, made: dict[str, Any]) -> None:
        self.made = made

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        right = 0.95 - 10.0 / max(11, self.made["train"])
        for request in requests:
            words = request.input_text.split()
            true = next(label for label in sorted(WORDS) if set(WORDS[label]) & set(words))
            wrong = next(label for label in sorted(WORDS) if label != true)
            hit = int(store.key(request.id, self.made["seed"] // 2), 16) % 1000 < 1000 * right
            label = true if hit else wrong
            yield Answer(request.id, label, label, None, 0.9, Stop.SCORED, 10)

    def bits(self, texts: Iterable[str]) -> Iterator[float]:
        for text in texts:
            yield 2.0 * len(text)

    def kl(self, walks: Iterable[Any], base: Any) -> Iterator[float]:
        yield from (0.01 * walk.positions for walk in walks)

    def cost_facts(self) -> dict[str, Any]:
        return {"prompt_tokens": 10.0, "flops_per_request": 1e9, "deployed_bytes": 1000, "trainable_parameters": 10}


@pytest.fixture
def maker(scripted: World, monkeypatch: pytest.MonkeyPatch) -> Maker:
    made = Maker()
    monkeypatch.setattr("tailorbird.customize.customize", made)

    def opened(shop: Any, work: Any) -> Shaky:
        assert work.artifact is not None
        return Shaky(store.read_json(work.artifact / "prompt.json"))

    monkeypatch.setattr("tailorbird.running.workshop.Workshop._open_local", opened)
    return made


def row_of(comparison: dict[str, Any], label: str = "lora") -> dict[str, Any]:
    return next(row for row in comparison["rows"] if row["label"] == label)


def jobs(maker: Maker, label: str = "lora") -> list[Any]:
    return [job for job in maker.jobs if job.label == label]


# seeds


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


# search


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
    assert row["tuning"]["trials"][row["tuning"]["best"]]["value"] < row["tuning"]["trials"][0]["value"]
    assert row["tuning"]["beyond_noise"] is False


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
    assert row["settings"]["effective"]["learning_rate"] <= 1e-3


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
    def seconds(shop: Any, entrant: Any) -> float:
        return float(entrant.effective["epochs"])

    monkeypatch.setattr("tailorbird.running.tuning.Budget._seconds", staticmethod(seconds))
    scripted.write("[zero_shot, {lora: {epochs: 2}, tune: {minutes: 1.0, over: {epochs: [2, 12]}}}]")
    row = row_of(scripted.run().comparison)
    epochs = [t["settings"]["epochs"] for t in row["tuning"]["trials"]]
    assert len(epochs) < 11  # eleven values of 2 s would fit; the long ones do not


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


# answer curve


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
    assert points[2]["score"] == pytest.approx(row["by_seed"][0]["validation"])
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


def test_without_a_curve_there_is_none(scripted: World, maker: Maker) -> None:
    scripted.write("[zero_shot, lora]")
    row = row_of(scripted.run().comparison)
    assert (row["curve"], row["tuning"]) == (None, None)
