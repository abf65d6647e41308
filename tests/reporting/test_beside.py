"""Contestants of one technique that differ in a single numeric setting: drawn along it, and nobody else is."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tailorbird.reporting.page.beside import beside, groups
from tailorbird.reporting.page.chart_line import LineChart, Point, chart
from tailorbird.reporting.page.pictures import score_tick
from tailorbird.reporting.page.write import render

from .fixture import Case, bank
from .test_page import Page, assert_inert

LENGTHS = (1, 5, 20, 50, 100)


def another(case: Case, label: str, asked: dict[str, Any], **effective: Any) -> dict[str, Any]:
    one = next(row for row in case.comparison["rows"] if row["technique"] == "prompt_tuning")
    row = copy.deepcopy(one) | {"label": label}
    row["settings"] = {"asked": asked, "effective": {"total_virtual_tokens": 20, "epochs": 6, **asked, **effective}}
    return row


@pytest.fixture
def case() -> Case:
    """Soft prompts of five lengths instead of one; the third is of the default's, without having been asked."""
    found = bank()
    rows = found.comparison["rows"]
    new = []
    for place, count in enumerate(LENGTHS):
        row = another(found, f"tokens-{count}", {} if count == 20 else {"total_virtual_tokens": count})
        score = 0.5 + 0.1 * place
        row["validation"] |= {"score": score, "low": score - 0.05, "high": score + 0.05}
        row["cost"] |= {"deployed_bytes": 2304 * count + 600, "latency_ms": {"median": 30.0 + count, "p95": 60.0}}
        new.append(row)
    found.comparison["rows"] = [row for row in rows if row["label"] != "prompt_tuning"] + new[::-1]
    return found


def test_score_size_and_latency_are_drawn_along_the_setting(case: Case) -> None:
    source = render(case.report())
    assert_inert(source)
    (one,) = beside(case.comparison, score_tick("accuracy"))
    assert (one["technique"], one["setting"]) == ("prompt_tuning", "total_virtual_tokens")
    assert one["labels"] == [f"tokens-{count}" for count in LENGTHS]
    captions = [caption for caption, _ in one["pictures"]]
    assert captions == [
        "Score on Validation (accuracy)", "To deploy beyond the base", "Latency of one request alone, median",
    ]  # fmt: skip
    assert "1: 50 %; 5: 60 %; 20: 70 %; 50: 80 %; 100: 90 %" in source
    assert "1: 31 ms; 5: 35 ms; 20: 50 ms; 50: 80 ms; 100: 130 ms" in source
    assert "total_virtual_tokens, logarithmic" in source
    assert "prompt_tuning: total_virtual_tokens" in Page(source).text


def test_whoever_differs_in_more_or_in_words_or_was_searched_is_not_beside_them(case: Case) -> None:
    rows = case.comparison["rows"]
    rows.append(another(case, "both", {"total_virtual_tokens": 7, "epochs": 3}))
    rows.append(another(case, "words", {"initialization": "random"}))
    rows.append(another(case, "searched", {"total_virtual_tokens": 9}))
    rows[-1]["tuning"] = {"trials": [{"number": 0}]}
    rows.append(another(case, "later", {"total_virtual_tokens": 8}) | {"after": "lora"})
    ((_, name, one),) = groups(case.comparison)
    assert name == "total_virtual_tokens"
    assert {row["label"] for row in one} == {f"tokens-{count}" for count in LENGTHS}


def test_what_follows_from_the_setting_does_not_part_them(case: Case) -> None:
    case.comparison["rows"] = [another(case, f"r{n}", {"rank": n}, alpha=2.0 * n) for n in (4, 8)]
    assert [(name, len(rows)) for _, name, rows in groups(case.comparison)] == [("rank", 2)]


def test_without_such_contestants_the_page_has_no_such_section() -> None:
    assert 'id="beside"' not in render(bank().report())


def test_one_point_is_no_line() -> None:
    assert chart(LineChart("n", "t", "a", [Point(1.0, 2.0)], str, str)) is None
