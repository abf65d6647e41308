"""comparison.json: rows, paired differences with Holm per family, slices, verdicts, display order, what is stable."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from typing import Any

import pytest

from tailorbird.measure.compare import compare, score
from tailorbird.measure.comparison import Record, best_on_validation, build, candidates, ranked, stable, verdicts
from tailorbird.measure.detectable import smallest_detectable
from tailorbird.measure.holm import holm
from tailorbird.measure.recommend import recommend
from tailorbird.measure.slices import slices, worst
from tailorbird.tasks import build as build_task
from tailorbird.types import Measurement, Outcome, SplitName

TASK = build_task("classify", labels={"x": "x", "y": "y"})
BASE = {"name": "smollm2-135m", "fingerprint": "sha256:0", "parameters": 134515008}
SPLITS = {"train": 10, "tuning": 4, "validation": 100, "test": 100, "overlap": 0, "test_openings": 1}


def outcomes(right: int, n: int = 100, *, swapped: int = 0, languages: str = "") -> tuple[Outcome, ...]:
    """The first rows right (less `swapped`, more after), labels x for 60 rows in 100, else y, in turn."""
    found = []
    for i in range(n):
        good = i < right - swapped or right <= i < right + swapped
        expected = "x" if i % 5 < 3 else "y"
        given = expected if good else ("y" if expected == "x" else "x")
        slice_of = {"language": languages[i % len(languages)]} if languages else {}
        found.append(Outcome(f"r{i}", float(good), expected, given, slices=slice_of))
    return tuple(found)


def measurement(split: SplitName, found: tuple[Outcome, ...]) -> Measurement:
    return Measurement(split, "accuracy", score(found, TASK), found)


def record(
    label: str,
    validation: tuple[Outcome, ...] = (),
    test: tuple[Outcome, ...] = (),
    *,
    kind: Any = "technique",
    **more: Any,
) -> Record:
    measured: dict[str, Measurement] = {}
    if validation:
        measured["validation"] = measurement("validation", validation)
    if test:
        measured["test"] = measurement("test", test)
    more.setdefault("technique", label if kind != "imported" else None)
    return Record(label, kind, measurements=measured, **more)


def records() -> list[Record]:
    bare = {"validation": measurement("validation", outcomes(40)), "test": measurement("test", outcomes(41))}
    return [
        record("majority", outcomes(60), outcomes(60), kind="reference"),
        record("today", outcomes(70), outcomes(69), kind="imported"),
        record("zero_shot", outcomes(55), outcomes(54), uncalibrated=bare, cost={"deployed_bytes": 0}),
        record("lora", outcomes(88), outcomes(87), cost={"deployed_bytes": 5, "train_seconds": 1.0}, seeds=(0,)),
        record("sft", outcomes(90), outcomes(91), cost={"deployed_bytes": 500}),
        record("prompt_tuning", state="failed", note="loss is not finite"),
    ]


def made(**more: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "run": "help-desk", "task": "classify", "metric": "accuracy", "base": BASE, "splits": SPLITS,
        "requirements": {"margin": 0.03}, "records": records(),
    }  # fmt: skip
    return build(**(arguments | more))


def row(comparison: dict[str, Any], label: str) -> dict[str, Any]:
    return next(r for r in comparison["rows"] if r["label"] == label)


def test_it_has_the_names_that_others_rely_on() -> None:
    comparison = made(recommendation=recommend(candidates(records()), 0.03), on_test="confirmed", sealed_at="now")
    assert set(comparison) == {
        "schema", "run", "lineage", "task", "metric", "requirements", "base", "splits", "smallest_detectable", "rows",
        "recommendation", "verdicts",
    }  # fmt: skip
    assert set(row(comparison, "lora")) >= {
        "label", "kind", "technique", "base", "state", "after", "after_test", "seeds", "interval_is_about", "meets",
        "validation", "test", "versus_best", "versus_base", "slices",
        "forgetting", "cost", "settings", "artifact", "note",
    }  # fmt: skip
    assert set(comparison["recommendation"]) >= {
        "verdict", "label", "kept", "reason", "undecided", "rows_to_decide", "on_test", "sealed_at",
    }  # fmt: skip
    assert (comparison["recommendation"]["on_test"], comparison["recommendation"]["sealed_at"]) == ("confirmed", "now")
    assert json.loads(json.dumps(comparison)) == comparison


def test_scores_stand_as_they_were_measured() -> None:
    found = row(made(), "lora")["validation"]
    expected = score(outcomes(88), TASK)
    assert (found["score"], found["low"], found["high"], found["n"]) == (0.88, expected.low, expected.high, 100)
    assert found["other"] == expected.other


def test_the_best_is_the_technique_with_the_highest_validation_score() -> None:
    best = best_on_validation([*records(), record("reference", outcomes(99), kind="reference")])
    assert best is not None
    assert best.label == "sft"
    assert best_on_validation([record("lora", state="failed")]) is None


def test_differences_from_the_best_are_adjusted_over_their_family() -> None:
    comparison = made()
    labels = ["majority", "today", "zero_shot", "lora"]
    plain = [compare(r.outcomes("validation"), outcomes(90)) for r in records() if r.label in labels]
    for label, d, p in zip(labels, plain, holm([d.p for d in plain]), strict=True):
        assert row(comparison, label)["versus_best"]["validation"] == {
            "difference": d.difference, "low": d.low, "high": d.high, "p": p, "p_unadjusted": d.p,
        }  # fmt: skip
    assert row(comparison, "sft")["versus_best"] == {"validation": {}, "test": {}}
    assert row(comparison, "prompt_tuning")["versus_best"] == {"validation": {}, "test": {}}


def test_versus_base_is_against_the_uncalibrated_zero_shot() -> None:
    comparison = made()
    assert row(comparison, "lora")["versus_base"]["validation"]["difference"] == pytest.approx(0.88 - 0.40)
    assert row(comparison, "lora")["versus_base"]["test"]["difference"] == pytest.approx(0.87 - 0.41)
    # calibrating is itself a difference from the bare base
    assert row(comparison, "zero_shot")["versus_base"]["validation"]["difference"] == pytest.approx(0.55 - 0.40)


def test_without_uncalibrated_outcomes_zero_shot_is_the_base_and_has_no_difference_from_itself() -> None:
    plain = [record("zero_shot", outcomes(40)), record("lora", outcomes(80))]
    comparison = made(records=plain)
    assert row(comparison, "zero_shot")["versus_base"]["validation"] == {}
    assert row(comparison, "lora")["versus_base"]["validation"]["difference"] == pytest.approx(0.4)


def test_a_split_that_was_not_opened_has_no_figures() -> None:
    comparison = made(records=[record("zero_shot", outcomes(40)), record("lora", outcomes(80))])
    assert row(comparison, "lora")["test"] is None
    assert row(comparison, "lora")["versus_base"]["test"] == {}
    assert comparison["smallest_detectable"]["test"] is None
    assert comparison["recommendation"] is None


def test_a_failed_row_keeps_its_note_and_shows_no_figures() -> None:
    broken = record("lora", outcomes(80), state="failed", note="disk full")
    found = row(made(records=[record("sft", outcomes(90)), broken]), "lora")
    assert (found["state"], found["note"], found["validation"]) == ("failed", "disk full", None)


def test_the_smallest_detectable_difference_is_at_the_median_discordance_with_the_best() -> None:
    # discordant with sft (90): majority 30, today 20, zero_shot 35, lora 2: the median is (20 + 30) / 2 = 25 in 100,
    # with the sample variance in place of the population's
    psi = [(0.3 - 0.09) * 100 / 99 + 0.09, (0.2 - 0.04) * 100 / 99 + 0.04]
    assert made()["smallest_detectable"]["validation"] == pytest.approx(smallest_detectable(sum(psi) / 2, 100))


def test_graded_scores_are_not_taken_for_right_and_wrong() -> None:
    best = tuple(replace(o, score=0.30 + 0.01 * (n % 2)) for n, o in enumerate(outcomes(90)))
    other = tuple(replace(o, score=0.20 + 0.03 * (n % 2)) for n, o in enumerate(outcomes(90)))
    found = made(records=[record("sft", best), record("lora", other)])["smallest_detectable"]["validation"]
    # differences are 0.10 and 0.08 in turn: their variance is 0.01^2 * 100 / 99
    assert found == pytest.approx(math.sqrt(7.85 * 0.0001 * 100 / 99 / 100))


# Slices


def test_slices_are_labels_and_the_users_columns_the_worst_with_its_rows() -> None:
    found = slices(outcomes(60, languages="de"), by_label=True)
    assert [s.name for s in found] == ["label=x", "label=y", "language=d", "language=e"]
    assert {s.name: s.n for s in found} == {"label=x": 60, "label=y": 40, "language=d": 50, "language=e": 50}
    assert [s.name for s in slices(outcomes(60), by_label=False)] == []


def test_a_column_with_one_value_is_no_slice() -> None:
    assert [s.name for s in slices(outcomes(60, languages="d"), by_label=False)] == []


def test_parts_of_a_few_rows_are_passed_over_while_there_are_larger_ones() -> None:
    few = tuple(Outcome(f"s{i}", 0.0, "x", "y", slices={"language": "fr"}) for i in range(2))
    many = tuple(Outcome(f"m{i}", float(i % 2), "x", "x", slices={"language": "en"}) for i in range(20))
    lowest = worst(slices([*few, *many], by_label=False))
    assert lowest is not None
    assert (lowest.name, lowest.n) == ("language=en", 20)
    only = worst(slices([*few, *many[:2]], by_label=False))
    assert only is not None
    assert only.name == "language=fr"
    assert worst([]) is None


def test_the_worst_slice_is_of_test_where_it_was_opened() -> None:
    found = row(made(), "lora")["slices"]["worst"]
    assert (found["name"], found["split"], found["n"], found["of"]) == ("label=y", "test", 40, 2)
    # label y is every fourth and fifth of five rows; of the last 13 rows, wrong on Test, 6 are y
    assert found["score"] == pytest.approx(34 / 40)


# Verdicts


def test_an_interval_that_holds_0_against_the_bare_base_is_no_measurable_effect() -> None:
    found = verdicts([record("zero_shot", outcomes(70)), record("prompt_tuning", outcomes(71, swapped=8))], "answer")
    assert found == ["prompt_tuning: no measurable effect"]


def test_shown_to_be_worse_than_the_base_is_said_with_its_points() -> None:
    found = verdicts([record("zero_shot", outcomes(70)), record("sft", outcomes(50))], "answer")
    d = compare(outcomes(70), outcomes(50))
    assert found == [f"sft: worse than the untouched base by 20 points ({100 * d.low:.1f} to {100 * d.high:.1f})"]


def test_no_better_than_chance_is_said_where_the_interval_holds_the_commonest_labels_share() -> None:
    found = verdicts(
        [record("zero_shot", outcomes(62)), record("few_shot", outcomes(20)), record("lora", outcomes(90))], "classify"
    )
    chance = "(always giving the commonest label gets 0.60)"
    assert f"zero_shot: no better than chance as far as these 100 rows can show {chance}" in found
    assert "few_shot: worse than always giving the commonest label (0.60)" in found
    assert not any(text.startswith("lora") for text in found)


def test_verdicts_speak_of_test_where_it_was_opened() -> None:
    base, lora = record("zero_shot", outcomes(40), outcomes(40)), record("lora", outcomes(80), outcomes(41))
    assert verdicts([base, lora], "answer") == ["lora: no measurable effect"]


def test_references_and_failed_rows_get_no_verdict() -> None:
    rows = [record("majority", outcomes(60), kind="reference"), record("lora", outcomes(60), state="failed")]
    assert verdicts(rows, "classify") == []


# Order and stability


def test_the_best_validation_score_comes_first_and_failed_rows_last() -> None:
    comparison = made(records=[*records(), record("ppo", state="skipped"), record("tie", outcomes(88))])
    assert [r["label"] for r in ranked(comparison)] == [
        "sft", "lora", "tie", "today", "majority", "zero_shot", "prompt_tuning", "ppo",
    ]  # fmt: skip


def test_stable_leaves_out_times_memory_and_the_moment_of_sealing_and_nothing_else() -> None:
    costs = {"train_seconds": 1.0, "peak_memory_mb": 2, "latency_ms": {"p95": 1}, "energy": 1, "money": 1}
    kept = {"train_tokens": 7, "deployed_bytes": 5, "flops_per_request": 9.0}
    sealed = recommend(candidates([record("lora", outcomes(80))]), 0.02)
    one = made(records=[record("lora", outcomes(80), cost={**costs, **kept})], recommendation=sealed, sealed_at="now")
    before = copy.deepcopy(one)
    other = made(
        records=[record("lora", outcomes(80), cost={**dict.fromkeys(costs, 99), **kept})],
        recommendation=sealed.as_dict(),
        sealed_at="later",
    )
    assert stable(one) == stable(other)
    assert stable(one)["rows"][0]["cost"] == kept
    assert "sealed_at" not in stable(one)["recommendation"]
    assert one == before
    assert stable(one)["rows"][0]["validation"] == one["rows"][0]["validation"]
