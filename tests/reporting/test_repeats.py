"""Several seeds, a search for settings, an answer curve: in the table, in sentences and on the page."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from tailorbird.reporting.page.answers import exported_seeds, one_row
from tailorbird.reporting.page.chart_tuning import best_so_far, placed
from tailorbird.reporting.page.confusion import recalls
from tailorbird.reporting.page.write import render
from tailorbird.reporting.price import costs
from tailorbird.reporting.repeats import between_seeds, more_labels
from tailorbird.reporting.tables import footnotes, label_cell, markdown

from .fixture import Case, bank
from .test_page import Page, assert_inert

TUNING: dict[str, Any] = {
    "measure": "tuning_loss", "lower_is_better": True, "minutes": None,
    "over": {"learning_rate": {"kind": "log", "low": 1e-4, "high": 2.5e-3}},
    "trials": [
        {"number": 0, "settings": {"learning_rate": 5e-4}, "state": "done", "value": 0.5, "note": None,
         "looks": [[33, 0.7], [67, 0.6], [100, 0.5]]},
        {"number": 1, "settings": {"learning_rate": 2e-4}, "state": "pruned", "value": None, "note": None,
         "looks": [[33, 0.9]]},
        {"number": 2, "settings": {"learning_rate": 2.4e-3}, "state": "failed", "value": None,
         "note": "loss or gradient was not finite", "looks": []},
        {"number": 3, "settings": {"learning_rate": 1e-3}, "state": "done", "value": 0.4, "note": None,
         "looks": [[33, 0.6], [67, 0.5], [100, 0.4]]},
    ],
    "best": 3, "importance": {"learning_rate": 0.9, "rank": 0.1}, "noise": {"values": [0.4, 0.42, 0.41], "sd": 0.01},
    "gain": 0.085, "beyond_noise": True,
    "said": "tuning: Tuning loss better by 0.085 than with the defaults, 0.010 between seeds, 4 trials",
}  # fmt: skip
CURVE: dict[str, Any] = {
    "points": [
        {"share": 25, "rows": 60, "score": 0.7, "low": 0.65, "high": 0.75, "n": 300},
        {"share": 50, "rows": 120, "score": 0.85, "low": 0.8, "high": 0.89, "n": 300},
        {"share": 100, "rows": 240, "score": 0.93, "low": 0.89, "high": 0.95, "n": 300},
    ],
    "last_step": {
        "from": 50,
        "to": 100,
        "from_rows": 120,
        "to_rows": 240,
        "seeds": 3,
        "difference": 0.08,
        "low": 0.04,
        "high": 0.12,
        "p": 0.001,
    },
    "more_labels": "yes",
}
SEEDS: dict[str, Any] = {
    "seeds": [0, 1, 2],
    "by_seed": [
        {"seed": n, "exported": n == 1, "validation": v, "test": t}
        for n, (v, t) in enumerate([(0.92, 0.9), (0.94, 0.92), (0.93, 0.91)])
    ],
    "seed_sd": {"validation": 0.01, "test": 0.012},
}


@pytest.fixture(scope="module")
def case() -> Case:
    found = bank()
    row = next(r for r in found.comparison["rows"] if r["label"] == "lora")
    row |= copy.deepcopy({**SEEDS, "tuning": TUNING, "curve": CURVE, "note": TUNING["said"]})
    return found


def lora(case: Case) -> dict[str, Any]:
    return next(r for r in case.comparison["rows"] if r["label"] == "lora")


def test_the_table_says_over_how_many_seeds_and_how_they_vary(case: Case) -> None:
    assert label_cell(lora(case), case.comparison)[1].strip() == "over 3 seeds"
    said = between_seeds(lora(case), case.comparison)
    assert said == (
        "lora was made over 3 seeds. With nothing but the seed changed its accuracy varies by 1 point on Validation "
        "and 1.2 points on Test (standard deviation, the noise floor); its files are those of seed 1. That is an "
        "estimate from 3 values: where seeds differ much, its 95 % intervals may be too narrow."
    )
    assert said in footnotes(case.comparison)
    assert "small added weights, over 3 seeds" in markdown(case.comparison)


def test_of_one_seed_nothing_is_said() -> None:
    plain = bank().comparison
    assert all(between_seeds(row, plain) is None and more_labels(row, plain) is None for row in plain["rows"])
    assert not any("seeds" in line for line in footnotes(plain))


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        ("yes", "Yes, the curve still rises: from 120 to 240 Train rows brought +8.0 (+4.0 to +12.0) points."),
        ("not shown", "Not shown: from 120 to 240 Train rows brought +8.0 (+4.0 to +12.0) points, which"),
        ("no", "Hardly: from 120 to 240 Train rows brought +8.0 (+4.0 to +12.0) points, less than the margin."),
    ],
)
def test_would_more_labels_help_is_answered_in_a_sentence(case: Case, verdict: str, words: str) -> None:
    row = {**lora(case), "curve": {**CURVE, "more_labels": verdict}}
    assert (more_labels(row, case.comparison) or "").startswith(f"Would more labels help? {words}")


@pytest.mark.parametrize(("seeds", "said"), [(1, True), (3, False)])
def test_a_curve_of_one_training_each_says_that_another_seed_was_not_tried(case: Case, seeds: int, said: bool) -> None:
    row = {**lora(case), "curve": {**CURVE, "last_step": {**CURVE["last_step"], "seeds": seeds}}}
    assert ("As far as one training of each can tell" in (more_labels(row, case.comparison) or "")) is said


def test_the_cost_of_making_holds_the_search_and_the_other_seeds(case: Case) -> None:
    comparison = copy.deepcopy(case.comparison)
    row = next(r for r in comparison["rows"] if r["label"] == "lora")
    row["cost"]["all_seconds"] = 600.0
    comparison["recommendation"]["label"] = "lora"
    assert "; with its search and other seeds 10 min in all." in costs(comparison)[0]
    row["tuning"] = None
    assert "; with its other seeds 10 min in all." in costs(comparison)[0]


def test_an_answer_is_marked_by_its_own_score_and_not_by_that_of_other_seeds(case: Case) -> None:
    """Two of three seeds were wrong on the first row; the answer that is shown, seed 1's, is right."""
    seen = copy.deepcopy(case.outcomes)
    mine = seen["lora"]["validation"]
    mine[0] = replace(mine[0], given=mine[0].expected, score=1 / 3, by_seed=(0.0, 1.0, 0.0))
    data = replace(case.report(), outcomes=seen)
    shown = one_row(data.rows[mine[0].row], {"lora": mine[0]}, "lora", exported_seeds(case.comparison))
    assert [(said.score, said.right) for said in shown.said] == [(1.0, True)]
    assert shown.css == "f-agree"  # not among the rows that the recommended one, or all, got wrong
    labels, lines = recalls(data)
    line = next(line for line in lines if line.label == mine[0].expected)
    own = [o.score for o in mine if o.expected == mine[0].expected]
    assert line.shares[labels.index("lora")][0] == pytest.approx(sum(own) / len(own))


def test_the_page_shows_curve_search_and_noise_and_stays_inert(case: Case) -> None:
    source = render(case.report())
    assert_inert(source)
    page = Page(source)
    ids = [attributes.get("id") for tag, attributes in page.elements if tag == "section"]
    assert ids[ids.index("table") : ids.index("labels")] == ["table", "curves", "answers", "tuning"]
    for words in (
        "over 3 seeds",
        "the noise floor",
        "Yes, the curve still rises",
        "Tuning loss better by 0.085 than with the defaults",
        "failed: loss or gradient was not finite",
        "learning_rate: 0.001",
        "90 %",
    ):
        assert words in page.text, words
    titles = [a for t, a in page.elements if t == "title"]
    assert len(titles) == len({a["id"] for a in titles if "id" in a}) + 1  # the page's own has none
    assert "None" not in page.text


def test_without_rows_a_trial_s_note_that_quotes_one_is_hidden(case: Case) -> None:
    hidden = copy.deepcopy(case)
    text = next(iter(hidden.rows.values())).input_text
    lora(hidden)["tuning"]["trials"][2]["note"] = f"could not read: {text}"
    hidden.rows_shown = "none"
    assert text not in render(hidden.report())


def test_damaged_figures_leave_pictures_out_and_break_nothing(case: Case) -> None:
    bent = copy.deepcopy(case)
    row = lora(bent)
    row["tuning"]["trials"] = [{"number": 0, "settings": {}, "state": "failed", "value": None, "looks": []}]
    row["tuning"]["importance"], row["curve"]["points"] = {}, row["curve"]["points"][:1]
    source = render(bent.report())
    assert_inert(source)
    assert "trials-" not in source
    assert "answers-" not in source


def test_trials_stand_at_their_value_or_their_last_look() -> None:
    assert placed(TUNING["trials"]) == [(0, 0.5, True), (1, 0.9, False), (3, 0.4, True)]
    assert best_so_far([(0, 0.5), (2, 0.7), (3, 0.4)], lower=True) == [(0, 0.5), (2, 0.5), (3, 0.4)]
    assert best_so_far([(0, 0.5), (2, 0.7), (3, 0.4)], lower=False) == [(0, 0.5), (2, 0.7), (3, 0.7)]
