"""The flow of a run with scripted techniques: order, steps done once, failures, openings of Test, forks."""

from __future__ import annotations

import contextlib
import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tailorbird import store, techniques
from tailorbird.errors import DataError, Interrupted, ResourceError, SpecError
from tailorbird.measure.comparison import stable
from tailorbird.running.folder import RunFolder, find
from tailorbird.running.writing import count_suspects
from tailorbird.spec.fields import Requirements

from .conftest import World, write_rows

ALL = "[majority, tfidf, {label: today, answers: today.csv}, zero_shot, few_shot, lora, sft]"


def write_today(world: World, drop: int = 0) -> None:
    rows = list(csv.DictReader(open(world.folder / "rows.csv", encoding="utf-8")))
    with open(world.folder / "today.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([r["text"], r["label"] if n % 2 else "cash"] for n, r in enumerate(rows[drop:]))


def test_a_run_ends_with_a_recommendation_files_and_one_opening_of_test(scripted: World) -> None:
    write_today(scripted)
    scripted.write(ALL, split="{validation: 30, test: 30, tuning: 10}")
    finished = scripted.run()
    comparison = finished.comparison
    assert finished.exit_code == 0
    assert [row["state"] for row in comparison["rows"]] == ["done"] * 7
    assert comparison["splits"] == {
        "train": 50, "tuning": 10, "validation": 30, "test": 30, "overlap": 0, "test_openings": 1,
    }  # fmt: skip
    assert comparison["lineage"] == 1
    assert {row["test"]["n"] for row in comparison["rows"]} == {30}
    names = {p.name for p in finished.folder.iterdir()}
    assert {"spec.yaml", "plan.json", "comparison.json", "report.html", "suspects.csv", "data", "steps"} <= names
    assert store.read_json(finished.folder / "contestants" / "lora.json")["artifact"].startswith("steps/")


def test_scores_come_early_and_test_comes_last(scripted: World) -> None:
    write_today(scripted)
    scripted.write(ALL)
    scripted.run()
    stages = [(label, stage) for label, stage in scripted.stages() if label]
    first = list(dict.fromkeys(label for label, _ in stages))
    assert first == ["majority", "tfidf", "today", "zero_shot", "few_shot", "lora", "sft"]
    assert stages.index(("zero_shot", "validation")) < stages.index(("few_shot", "rehearse"))
    assert stages.index(("sft", "rehearse")) < stages.index(("few_shot", "customize"))
    sealed = next(n for n, e in enumerate(scripted.events) if e["kind"] == "sealed")
    tests = [n for n, e in enumerate(scripted.events) if e.get("stage") == "test" or e.get("split") == "test"]
    assert tests
    assert min(tests) > sealed


def test_tfidf_is_fitted_once_and_the_c_it_chose_is_shown(scripted: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from tailorbird.answerers import references

    fits: list[int] = []
    fit = references._fit
    monkeypatch.setattr(references, "_fit", lambda *arguments: fits.append(1) or fit(*arguments))
    scripted.write("[tfidf, zero_shot]")
    comparison = scripted.run().comparison
    row = next(row for row in comparison["rows"] if row["label"] == "tfidf")
    assert row["settings"]["asked"] == {}
    assert row["settings"]["effective"]["C"] in references.C_GRID
    assert row["settings"]["effective"]["C_chosen_on"] == "tuning"
    assert len(fits) == 1


def test_a_finished_run_ends_at_once_with_the_same_comparison(scripted: World) -> None:
    scripted.write("[majority, zero_shot, lora]")
    before = scripted.run()
    again = scripted.run()
    assert again.again
    assert scripted.events == []
    assert again.comparison == before.comparison
    assert again.exit_code == before.exit_code


def test_a_finished_run_needs_no_torch(scripted: World) -> None:
    scripted.write("[majority, zero_shot, lora]")
    scripted.run()
    code = (
        "import sys; from pathlib import Path; from tailorbird import spec; from tailorbird.running import run_spec\n"
        "finished = run_spec(spec.load('try.yaml'), runs=Path('runs'))\n"
        "assert finished.again and 'torch' not in sys.modules and 'sklearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=scripted.folder, check=True)


def test_a_stopped_run_goes_on_and_ends_as_the_undisturbed_one(scripted: World) -> None:
    write_today(scripted)
    scripted.write(ALL)
    undisturbed = json.dumps(stable(scripted.run().comparison), sort_keys=True)
    total = len(scripted.events)
    for after in range(3, total, total // 8):
        world = World(scripted.folder)
        other = scripted.folder / f"runs-{after}"
        seen: list[int] = []

        def stop(seen: list[int] = seen, after: int = after) -> bool:
            seen.append(1)
            return len(seen) > after

        from tailorbird import spec as specs
        from tailorbird.running import run_spec

        spec = specs.load(world.spec_path)
        with contextlib.suppress(Interrupted):
            run_spec(spec, runs=other, stop=stop)
        finished = run_spec(spec, runs=other)
        assert json.dumps(stable(finished.comparison), sort_keys=True) == undisturbed


def test_changing_one_contestant_runs_that_one_alone(scripted: World) -> None:
    scripted.write("[majority, zero_shot, few_shot, lora]")
    scripted.run()
    scripted.run("contestants.lora.rank=4")
    worked = {label for label, stage in scripted.stages() if label}
    assert worked == {"lora"}


def test_settings_changed_after_test_begin_a_new_lineage_and_are_marked(scripted: World) -> None:
    scripted.write("[majority, zero_shot, lora]")
    scripted.run()
    changed = scripted.run("contestants.lora.rank=4").comparison
    assert changed["lineage"] == 2
    assert changed["splits"]["test_openings"] == 2
    assert {row["label"]: row["after_test"] for row in changed["rows"]} == {
        "majority": False, "zero_shot": False, "lora": True,
    }  # fmt: skip
    back = scripted.run().comparison
    assert (back["lineage"], back["splits"]["test_openings"]) == (1, 1)


def test_other_data_is_refused_with_what_changed_and_forked_beside(scripted: World) -> None:
    scripted.write("[majority, zero_shot]")
    before = scripted.run()
    write_rows(scripted.folder / "rows.csv", count=90)
    with pytest.raises(SpecError) as raised:
        scripted.run()
    assert "data: rows.csv has other content" in str(raised.value)
    assert "--fork" in str(raised.value)
    fork = scripted.run(fork=True)
    assert fork.folder.name == "try-2"
    assert fork.comparison["lineage"] == 2
    assert store.read_json(before.folder / "comparison.json") == before.comparison
    assert scripted.run().again  # without --fork: the newest run that these inputs made


def test_rows_of_a_fork_that_test_had_shown_before_are_marked(scripted: World) -> None:
    scripted.write("[majority, zero_shot]", split="{test: 20}")
    scripted.run()
    with open(scripted.folder / "rows.csv", "a", encoding="utf-8") as file:
        file.write("one more row about a card nr1,card\n")
    fork = scripted.run(fork=True).comparison
    assert fork["splits"]["test_openings"] == 2
    assert all(row["after_test"] for row in fork["rows"])


def test_another_version_of_a_package_is_refused(scripted: World, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted.write("[majority, zero_shot]")
    scripted.run()
    monkeypatch.setattr("tailorbird.bases.machine.versions", lambda: {"torch": "99"})
    with pytest.raises(SpecError, match=r"version of torch: was .*, is 99"):
        scripted.run()


def test_a_failing_contestant_is_a_row_and_the_others_go_on(scripted: World) -> None:
    scripted.write("[majority, zero_shot, {lora: {learning_rate: 0.0666}}, sft]")
    finished = scripted.run()
    rows = {row["label"]: row for row in finished.comparison["rows"]}
    assert rows["lora"]["state"] == "failed"
    assert rows["lora"]["note"].startswith("RuntimeError: the rehearsal fell over")
    assert rows["sft"]["state"] == "done"
    assert finished.exit_code == 0
    assert finished.failures == {"lora": 1}
    place = rows["lora"]["note"].rpartition("(")[2].rstrip(")")
    assert "Traceback" in (finished.folder / place).read_text()


def test_when_no_technique_finishes_test_stays_closed_and_the_exit_code_is_the_failure_s(
    scripted: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(job: object, out: Path) -> None:
        raise ResourceError("no memory")

    monkeypatch.setattr("tailorbird.customize.customize", fail)
    scripted.write("[majority, zero_shot]")
    finished = scripted.run()
    assert finished.exit_code == 6
    assert finished.comparison["recommendation"]["verdict"] == "none"
    assert finished.comparison["splits"]["test_openings"] == 0
    assert ("majority", "test") not in scripted.stages()


def test_a_contestant_that_ran_out_of_memory_is_tried_again_and_no_other(
    scripted: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that is added later: when it is made after Test was opened, that is counted and marked."""
    from tailorbird import customize as module

    short, made = [True], module.customize

    def customize(job: Any, out: Path) -> Any:
        if job.label == "lora" and short:
            raise ResourceError("lora ran out of memory")
        return made(job, out)

    monkeypatch.setattr("tailorbird.customize.customize", customize)
    scripted.write("[majority, zero_shot, lora, sft]")
    first = scripted.run()
    assert (first.exit_code, first.failures) == (0, {"lora": 6})
    same = scripted.run()
    assert not same.again and {label for label, _ in scripted.stages() if label} == {"lora"}
    assert stable(same.comparison) == stable(first.comparison)
    assert same.comparison["splits"]["test_openings"] == 1
    short.clear()
    mended = scripted.run()
    assert {label for label, _ in scripted.stages() if label} == {"lora"}
    assert mended.failures == {} and mended.comparison["splits"]["test_openings"] == 2
    rows = {row["label"]: row for row in mended.comparison["rows"]}
    assert rows["lora"]["state"] == "done"
    assert {label: row["after_test"] for label, row in rows.items() if label != "majority"} == {
        "zero_shot": False, "lora": True, "sft": False,
    }  # fmt: skip
    assert scripted.run().again


def test_no_contestant_meets_the_requirements_is_exit_8(scripted: World) -> None:
    scripted.write("[majority, zero_shot]", requirements="{min_score: 0.99}")
    finished = scripted.run()
    assert finished.exit_code == 8
    assert "min_score" in finished.comparison["rows"][1]["misses"]


def test_each_requirement_is_judged_by(scripted: World) -> None:
    """That it stands in the plan says nothing: `Plan.requirements` is a copy of the spec."""
    wished = {"min_score": 0.99, "latency_ms": 1e-9, "max_forgetting": -9.0, "max_deployed_mb": 0.0}
    assert {*wished, "margin"} == set(Requirements.model_fields)
    scripted.write("[zero_shot, lora]", requirements=str({**wished, "margin": 0.07}))
    comparison = scripted.run().comparison
    assert next(row["meets"] for row in comparison["rows"] if row["label"] == "lora") == dict.fromkeys(wished, False)
    assert comparison["recommendation"]["margin"] == 0.07


def test_a_full_disk_stops_the_run_instead_of_failing_contestants(
    scripted: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted.write("[majority, zero_shot]")
    store._passes.clear()
    monkeypatch.setenv("TAILORBIRD_FAULT", "full@finish:1")
    with pytest.raises(store.DiskError, match="disk is full"):
        scripted.run()
    monkeypatch.delenv("TAILORBIRD_FAULT")
    assert scripted.run().exit_code == 0


def test_what_has_no_files_says_why(scripted: World) -> None:
    from tailorbird.running.opening import choose

    write_today(scripted)
    scripted.write("[majority, zero_shot, {label: today, answers: today.csv}]")
    folder = scripted.run().folder
    for label, why in (("majority", "it is a reference"), ("today", "it was brought along")):
        with pytest.raises(SpecError, match=f"{label} cannot be opened: {why}"):
            choose(f"{folder}:{label}")


def test_a_missing_answer_is_named_before_anything_is_computed(scripted: World) -> None:
    write_today(scripted, drop=60)
    scripted.write(ALL)
    with pytest.raises(DataError, match="no answer for"):
        scripted.run()
    assert not (scripted.runs / "try" / "steps").exists()


def test_answers_that_are_no_label_are_told_and_count_as_wrong(scripted: World) -> None:
    write_today(scripted)
    path = scripted.folder / "today.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([lines[0], *(f"{line.rpartition(',')[0]},no idea" for line in lines[1:])]) + "\n")
    scripted.write(ALL)
    rows = {row["label"]: row for row in scripted.run().comparison["rows"]}
    asked = rows["today"]["validation"]["n"] + rows["today"]["test"]["n"]
    told = f"{asked} of {asked} answers are none of the labels and count as wrong: 'no idea' ({asked})"
    assert (rows["today"]["note"], rows["today"]["validation"]["score"]) == (told, 0.0)


def test_a_run_refused_before_it_begins_leaves_no_folder(scripted: World) -> None:
    rows = "".join(f"row {n},one\n" for n in range(99))
    (scripted.folder / "rows.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
    scripted.write("[majority, zero_shot]")
    with pytest.raises(SpecError, match="at least two labels"):
        scripted.run()
    assert not scripted.runs.exists()


def test_changed_answers_of_today_run_today_again(scripted: World) -> None:
    write_today(scripted)
    scripted.write("[{label: today, answers: today.csv}, zero_shot]")
    scripted.run()
    text = (scripted.folder / "today.csv").read_text().replace(",cash", ",rate")
    (scripted.folder / "today.csv").write_text(text)
    scripted.run()
    assert {label for label, _ in scripted.stages() if label} == {"today"}


def test_a_run_too_long_for_its_limit_is_refused_before_it_begins(scripted: World) -> None:
    scripted.write("[zero_shot, lora]", limits="{minutes: 0.01, threads: 1}")
    with pytest.raises(ResourceError, match="would take about"):
        scripted.run()
    assert not (scripted.runs / "try" / "steps").exists()


def test_two_processes_do_not_share_a_folder(scripted: World) -> None:
    scripted.write("[majority, zero_shot]")
    with store.RunLock(scripted.runs / "try"), pytest.raises(ResourceError, match="locked by pid"):
        code = (
            "import sys; sys.path[:0] = " + repr(sys.path) + "\n"
            "from pathlib import Path; from tailorbird import spec, errors; from tailorbird.running import run_spec\n"
            "try:\n    run_spec(spec.load('try.yaml'), runs=Path('runs'))\n"
            "except errors.ResourceError as error:\n    print(error); raise SystemExit(6)"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=scripted.folder, stdout=subprocess.PIPE, text=True)
        assert done.returncode == 6
        raise ResourceError(done.stdout)


def test_the_plan_of_a_continued_run_is_the_one_that_was_kept(scripted: World, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted.write("[majority, zero_shot]", dtype="auto")
    first = scripted.run()
    (first.folder / "finished.json").unlink()
    monkeypatch.setattr("tailorbird.running.machine.probed", lambda machine: {"float32": 1.0, "bfloat16": 9.0})
    for probe in (scripted.folder / "home" / "probes").glob("*"):
        probe.unlink()
    scripted.run()
    assert store.read_json(first.folder / "plan.json")["dtype"] == "float32"


def test_a_technique_that_was_mended_since_is_made_again_by_the_run_that_goes_on(
    scripted: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted.write("[majority, zero_shot, lora, sft]")
    first = scripted.run()
    (first.folder / "finished.json").unlink()
    sft = type(techniques.get("sft"))
    monkeypatch.setattr(sft, "revision", sft.revision + 1)
    scripted.run()
    assert {label for label, stage in scripted.stages() if label} == {"sft"}


def test_a_run_is_found_by_folder_name_and_label(scripted: World, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted.write("[majority, zero_shot]")
    scripted.run()
    monkeypatch.chdir(scripted.folder)
    folder = Path("runs/try")
    assert find("runs/try") == (RunFolder(folder), None)
    assert find("try:zero_shot") == (RunFolder(folder), "zero_shot")
    with pytest.raises(ResourceError, match="runs here: try"):
        find("tri")


def test_suspects_name_rows_whose_label_all_good_contestants_contradict(scripted: World) -> None:
    rows = (scripted.folder / "rows.csv").read_text().splitlines()
    wrong = next(n for n, row in enumerate(rows) if row.endswith(",card"))
    rows[wrong] = rows[wrong].replace(",card", ",cash")
    (scripted.folder / "rows.csv").write_text("\n".join(rows) + "\n")
    scripted.write("[zero_shot, lora, sft]", split="{train: 20, tuning: 10}")
    folder = scripted.run().folder
    with open(folder / "suspects.csv", encoding="utf-8", newline="") as file:
        found = {row["line"]: row for row in csv.DictReader(file)}
    assert count_suspects(folder) == len(found)
    assert count_suspects(folder.parent) == 0
    splits = store.read_json(folder / "data" / "splits.json")["rows"]
    assert set(splits) >= {"train", "validation", "test"}
    assert all(row["label"] != row["suggested"] for row in found.values())
