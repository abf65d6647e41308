"""The ranked table, the verdict and the Markdown of a comparison."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
from rich.console import Console

from tailorbird.reporting import numbers, table_list
from tailorbird.reporting.contestants import chance, in_order, no_better_than_chance
from tailorbird.reporting.doubts import how_sure
from tailorbird.reporting.tables import markdown, ranked_table
from tailorbird.reporting.text import markdown_cell, printable
from tailorbird.reporting.verdict import (
    beside_what_you_have,
    headline,
    lead,
    missed,
    next_commands,
    standing,
    verdict,
)

from .fixture import Case, bank, with_failures, with_verdict, write_task


@pytest.fixture(scope="module")
def case() -> Case:
    return bank()


def shown(comparison: dict[str, Any], width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(ranked_table(comparison))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_table_fits_the_terminal_and_cuts_no_number(case: Case, width: int) -> None:
    lines = shown(case.comparison, width)
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines).replace("…−", "").replace("…+", "")
    text = "\n".join(lines)
    for piece in (
        "▶ sft",
        "97.3 %",
        "94.8–98.6",
        "97.0 %",
        "−4.0",
        "−6.7…−1.3",
        "+0.024",
        "19.6 MB",
        "225 ms",
        "all weights trained",
    ):
        assert piece in text
    assert ("training" in text) == (width >= 92)


def test_rows_are_ranked_by_validation_and_failures_come_last(case: Case) -> None:
    labels = [row["label"] for row in in_order(with_failures(case).comparison)]
    assert labels == ["tfidf", "lora", "today", "few_shot", "zero_shot", "majority", "sft", "prompt_tuning"]
    text = "\n".join(shown(with_failures(case).comparison, 80))
    assert "sft, failed: needs 9.1 GB, 4.0 GB are free: lower limits or use lora" in text


def test_scores_that_are_no_shares_are_shown_without_percent() -> None:
    text = "\n".join(shown(write_task().comparison, 80))
    assert "ROUGE-L" in text
    assert "%" not in text.replace("95 %", "")


def test_an_escape_sequence_in_a_label_does_not_reach_the_terminal(case: Case) -> None:
    case = copy.deepcopy(case)
    case.comparison["rows"][0]["label"] = "a\x1b]0;owned\x07\u202e"
    assert not {"\x1b", "\x07", "\u202e"} & set("\n".join(shown(case.comparison, 80)))
    assert not {"\x1b", "\x07", "\u202e"} & set(markdown(case.comparison))


def test_markdown_is_one_table_and_what_stands_in_it_stays_text(case: Case) -> None:
    case = copy.deepcopy(case)
    bad = "x|y\n<img src=a>[l](javascript:a)`c`*b*@team #1"
    case.comparison["rows"][-1]["label"] = bad
    text = markdown(case.comparison, "runs/bank-demo")
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 8
    assert {line.replace("\\|", "").count("|") for line in table} == {11}
    assert r"x\|y &lt;img src=a&gt;\[l\](javascript:a)\`c\`\*b\*\@team \#1" in text
    assert text.startswith("**Use sft.**\n")
    assert "| ▶ | **sft** | all weights trained | 97.3 % (94.8–98.6) |" in text


def test_the_verdict_says_which_why_how_sure_at_what_cost_and_what_next(case: Case) -> None:
    text = verdict(case.comparison, "runs/bank-demo")
    lines = text.splitlines()
    assert lines[0] == "Use sft."
    for word in ("Why ", "How sure ", "Cost ", "Forgetting "):
        assert any(line.startswith(word) for line in lines)
    assert max(map(len, [line for line in lines if "tailorbird" not in line])) <= 96
    assert "  tailorbird show runs/bank-demo --open " in text
    assert "  tailorbird apply runs/bank-demo FILE -o OUT " in text


def test_without_a_label_the_commands_name_a_contestant(case: Case) -> None:
    commands = [command for command, _ in next_commands(with_verdict(case, "keep").comparison, "runs/a b")]
    assert "tailorbird show 'runs/a b' --open" in commands
    assert "tailorbird apply 'runs/a b:sft' FILE -o OUT" in commands


def test_a_requirement_that_was_missed_is_named(case: Case) -> None:
    comparison = copy.deepcopy(case.comparison)
    comparison["rows"][0].update(meets={"latency_ms": False, "min_score": True}, misses="latency_ms by 37 ms")
    comparison["rows"][1].update(meets={"latency_ms": None, "min_score": True})
    labels = [row["label"] for row in comparison["rows"][:2]]
    assert missed(comparison) == [f"{labels[0]} misses latency_ms by 37 ms.", f"{labels[1]} misses latency ms."]


def test_without_a_recommendation_headline_and_lead_do_not_repeat_each_other(case: Case) -> None:
    comparison = with_verdict(case, "none").comparison
    assert headline(comparison) == "No recommendation."
    assert lead(comparison) == "No technique meets the requirements: sft misses latency_ms by 37 ms."
    assert headline({**comparison, "recommendation": None}) == "Not finished yet."


def test_what_is_yours_is_compared_on_both_splits_and_an_unbeaten_reference_is_said(case: Case) -> None:
    comparison = copy.deepcopy(case.comparison)
    rows = {row["label"]: row for row in comparison["rows"]}
    for row in rows.values():
        row["versus_best"] = {"validation": {}, "test": {}}
    rows["today"]["versus_best"] = {
        "validation": {"difference": -0.133, "low": -0.242, "high": -0.065},
        "test": {"difference": -0.017, "low": -0.128, "high": 0.092},
    }
    rows["tfidf"]["versus_best"]["validation"] = {"difference": 0.033, "low": -0.059, "high": 0.132}
    rows["tfidf"]["cost"]["latency_ms"], rows["sft"]["cost"]["latency_ms"] = {"median": 2.0}, {"median": 300.0}
    assert sorted(beside_what_you_have(comparison)) == [
        "Against today, which is yours, sft has +13.3 points on Validation (+6.5 to +24.2), "
        "+1.7 points on Test (−9.2 to +12.8).",
        "tfidf is word counts with logistic regression, no language model, and sft is not shown to be better than it, "
        "which answers 150 times faster: so far nothing says that a language model is worth its cost here.",
    ]


def test_the_standing_follows_the_rule_of_the_margin(case: Case) -> None:
    assert standing(case.comparison) == [
        "On Validation sft is shown to be better than tfidf, today and majority.",
        "Neither shown to be as good as sft nor to be worse: lora.",
        "Worse than sft by more than the margin: prompt_tuning, few_shot and zero_shot.",
    ]


def test_the_lead_drops_the_words_that_the_headline_already_says(case: Case) -> None:
    assert lead(case.comparison).startswith("The best of the techniques, 97.3 % right")
    assert lead(with_verdict(case, "undecided").comparison).startswith("lora is the best of the techniques")


@pytest.mark.parametrize(
    ("on_test", "words"),
    [
        ("confirmed", "Test confirms the choice"),
        ("not confirmed", "Test does not confirm the choice"),
        ("contradicted", "Test contradicts the choice"),
    ],
)
def test_what_test_says_about_the_choice_is_said(case: Case, on_test: str, words: str) -> None:
    comparison = copy.deepcopy(case.comparison)
    comparison["recommendation"]["on_test"] = on_test
    assert any(line.startswith(words) for line in how_sure(comparison))


def test_chance_is_counted_from_the_rows_when_majority_did_not_run() -> None:
    case = bank(skill={"zero_shot": 0.1, "lora": 0.9})
    outcomes = case.outcomes["lora"]["validation"]
    assert chance(case.comparison, outcomes) == pytest.approx(1 / 12)
    assert [row["label"] for row in no_better_than_chance(case.comparison, outcomes)] == ["zero_shot"]
    assert chance(write_task().comparison, outcomes) is None


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (numbers.score(0.934, "accuracy"), "93.4 %"),
        (numbers.score(0.934, "rouge_l"), "0.934"),
        (numbers.score(None, "accuracy"), "–"),
        (numbers.score(float("nan"), "accuracy"), "–"),
        (numbers.difference(-0.0001, "accuracy"), "0.0"),
        (numbers.difference(0.021, "accuracy"), "+2.1"),
        (numbers.difference(-0.021, "rouge_l"), "−0.021"),
        (numbers.points(0.03, "accuracy"), "3 points"),
        (numbers.size(19_560_000), "19.6 MB"),
        (numbers.size(0), "0 B"),
        (numbers.size(999_999), "1 MB"),
        (numbers.flops(8.06e9), "8.06 GFLOP"),
        (numbers.seconds(95), "1 min 35 s"),
        (numbers.seconds(59.6), "1 min"),
        (numbers.seconds(7260), "2 h 1 min"),
        (numbers.milliseconds(0.83), "0.8 ms"),
        (numbers.milliseconds(1234), "1.2 s"),
        (numbers.bits(0.0), "0"),
        (numbers.bits(-0.0123), "−0.012"),
        (numbers.probability(0.0002), "< 0.001"),
        (numbers.count(134515008), "134,515,008"),
        (numbers.clock(3729), "1:02:09"),
        (numbers.setting({"a": [1, 2e-4, True, None]}), "a: 1, 0.0002, yes, none"),
        (str(numbers.ratio(538.1, 19.56)), "28 times"),
        (str(numbers.ratio(1.1, 1.0)), "None"),
        (printable("a\tb\n\x00c"), "a b �c"),
        (markdown_cell("a_b"), r"a\_b"),
    ],
)
def test_numbers_and_words_are_written_for_people(given: str, wanted: str) -> None:
    assert given == wanted


def test_a_prompt_table_in_a_narrow_terminal_has_whole_names_and_hashes() -> None:
    row = {
        "task": "intents", "name": "intents", "version": 1, "technique": "prompt_tuning",
        "virtual_tokens": 20, "bytes": 46_512, "score": 0.33, "low": 0.14, "high": 0.61, "split": "test", "n": 300,
        "forgetting": 0.25, "identity": "sha256:b7c9adfa7ba2" + "0" * 52, "made_at": "2026-11-28", "added_at": None,
    }  # fmt: skip
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table_list.rows({"tasks": [row]}))
    shown = console.export_text()
    assert all(word in shown for word in ("intents", "b7c9adfa7ba2", "46,512", "0.33"))
