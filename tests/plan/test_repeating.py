"""A search for settings, several seeds, an answer curve: what is planned for them, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tailorbird.errors import SpecError
from tailorbird.plan import Plan, make_plan
from tailorbird.plan.repeating import told
from tailorbird.techniques import NAMES, get

from .conftest import BASE, make_facts, make_spec


def entrant(contestant: Any, **facts: Any) -> Any:
    plan = make_plan(make_spec(contestants=["zero_shot", contestant]), make_facts(**facts))
    return plan.entrant(plan.entrants[1].label)


def refused(contestant: Any, **facts: Any) -> str:
    with pytest.raises(SpecError) as raised:
        entrant(contestant, **facts)
    return str(raised.value)


def test_what_a_search_goes_over_is_decided_in_the_plan() -> None:
    found = entrant({"lora": {}, "tune": 8})
    assert found.tune["trials"] == 8
    assert found.tune["over"]["learning_rate"] == {"kind": "log", "low": 1e-4, "high": 2.5e-3}  # 5e-4 / 5, x 5
    assert found.tune["over"]["epochs"] == {"kind": "whole", "low": 1, "high": 6}
    assert found.tune["over"]["rank"] == {"kind": "choice", "choices": [8, 16, 32, 64]}
    assert found.effective["learning_rate"] == 5e-4


def test_a_setting_that_the_spec_gives_is_not_searched_unless_it_is_named() -> None:
    assert "rank" not in entrant({"lora": {"rank": 4}, "tune": 8}).tune["over"]
    named = entrant({"lora": {"rank": 4}, "tune": {"trials": 8, "over": {"rank": None}}})
    assert named.tune["over"] == {"rank": {"kind": "choice", "choices": [8, 16, 32, 64]}}
    assert named.effective["rank"] == 4


@pytest.mark.parametrize(
    ("name", "values", "found"),
    [
        ("learning_rate", [1e-4, 1e-3], {"kind": "log", "low": 1e-4, "high": 1e-3}),
        ("learning_rate", [1e-4, 2e-4, 5e-4], {"kind": "choice", "choices": [1e-4, 2e-4, 5e-4]}),
        ("rank", [4, 64], {"kind": "whole", "low": 4, "high": 64}),
        ("alpha", [8, 16], {"kind": "linear", "low": 8.0, "high": 16.0}),
        ("alpha", [1, 100], {"kind": "log", "low": 1.0, "high": 100.0}),
        ("weight_decay", [0, 0.5], {"kind": "linear", "low": 0.0, "high": 0.5}),
        ("schedule", ["linear", "cosine"], {"kind": "choice", "choices": ["linear", "cosine"]}),
    ],
)
def test_ranges_as_a_spec_gives_them(name: str, values: list[Any], found: Any) -> None:
    assert entrant({"lora": {}, "tune": {"trials": 4, "over": {name: values}}}).tune["over"] == {name: found}


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        ({"trials": 4, "over": {"lerning_rate": None}}, "no such setting of lora; did you mean `learning_rate`?"),
        ({"trials": 4, "over": {"clip": None}}, "lora has no range of its own for it: give [low, high]"),
        ({"trials": 4, "over": {"rank": [64, 4]}}, "needs [low, high] with low < high, or several choices"),
        ({"trials": 4, "over": {"rank": [4.5, 8]}}, "needs [low, high] with low < high"),
        ({"trials": 4, "over": {"rank": [8]}}, "or several choices, is [8]"),
        ({"trials": 4, "over": {"learning_rate": [0.0, 0.1]}}, "0.0: input should be greater than 0"),
        ({"trials": 4, "over": {"schedule": ["linear", "square"]}}, "'square': input should be 'linear', 'cosine'"),
        ({"trials": 4, "minutes": 3.0}, "needs one of trials, minutes"),
        ({"over": {"rank": None}}, "needs one of trials, minutes"),
        (1, "must be >= 2"),
    ],
)
def test_a_search_that_cannot_be_is_refused_where_it_stands(tune: Any, message: str) -> None:
    said = refused({"lora": {}, "tune": tune})
    assert "contestants.lora.tune" in said
    assert message in said


def test_without_tuning_rows_there_is_nothing_to_search_by() -> None:
    said = refused({"lora": {}, "tune": 4}, sizes={"train": 240, "tuning": 0, "validation": 300, "test": 300})
    assert "needs Tuning rows" in said


@pytest.mark.parametrize("field", [{"seeds": 3}, {"tune": 4}, {"curve": [50, 100]}])
@pytest.mark.parametrize(
    ("contestant", "because"),
    [
        ({"technique": "zero_shot", "label": "zero"}, "comes out the same whatever the seed"),
        ({"technique": "tfidf", "label": "zero"}, "only what is made here can be made again"),
        ({"answers": "x.csv", "label": "zero"}, "only what is made here can be made again"),
    ],
)
def test_what_cannot_vary_is_not_repeated(contestant: dict[str, Any], because: str, field: dict[str, Any]) -> None:
    assert because in refused({**contestant, **field})


def test_shares_of_a_curve_rise() -> None:
    assert "shares rise" in refused({"lora": {}, "curve": [100, 50]})


def test_trials_seeds_and_points_of_the_curve_count_in_the_time() -> None:
    plain, seeds = entrant("lora"), entrant({"lora": {}, "seeds": 3})
    tuned, both = entrant({"lora": {}, "tune": 8}), entrant({"lora": {}, "tune": 8, "seeds": 3})
    curve = entrant({"lora": {}, "curve": [25, 50, 100]})
    making = (tuned.seconds - plain.seconds) / 9  # seven more trials, two repeats
    assert making > 5
    once = seeds.seconds - plain.seconds
    assert once / 2 > making  # made and measured
    # two seeds more are the two repeats of the best settings
    assert both.seconds - seeds.seconds == pytest.approx(7 * making)
    assert 0.75 * making < curve.seconds - plain.seconds < 0.75 * making + once
    assert entrant({"lora": {}, "tune": {"minutes": 10.0}}).seconds == pytest.approx(plain.seconds + 600)


def test_the_plan_is_read_back_equal_and_says_it_in_words() -> None:
    spec = make_spec(
        contestants=[{"lora": {}, "tune": {"trials": 8, "over": {"rank": None}}, "seeds": 5, "curve": [50, 100]}]
    )
    plan = make_plan(spec, make_facts())
    assert Plan.from_dict(plan.as_dict()) == plan
    assert told(plan.entrant("lora")) == [
        "tuned: 8 trials over rank 8, 16, 32, 64", "5 seeds", "answer curve at 50, 100 % of the Train rows",
    ]  # fmt: skip
    assert told(replace(plan.entrant("lora"), tune=None, seeds=1, curve=())) == []


@pytest.mark.parametrize("name", [name for name in NAMES if get(name).trained])
def test_a_training_s_rate_and_length_are_searched_around_its_own_defaults(name: str) -> None:
    space = get(name).search_space(BASE, 300)
    assert {"learning_rate", "epochs", "batch_rows"} <= set(space)


def test_a_range_goes_around_the_default_that_other_settings_lead_to() -> None:
    """IA3 trains vectors, whose rate is twenty times that of DoRA's matrices."""
    dora, ia3 = (get("peft").search_space(BASE, 300, {"method": m})["learning_rate"] for m in ("dora", "ia3"))
    assert dora.high < ia3.high
    assert (dora.holds(5e-4), ia3.holds(5e-4)) == (True, False)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rows", [10, 300, 5000])
def test_every_end_of_a_declared_range_is_a_setting_that_the_technique_takes(name: str, rows: int) -> None:
    technique = get(name)
    for setting, found in technique.search_space(BASE, rows).items():
        for value in found.ends():
            technique.settings({setting: value}, BASE, rows)
        default = technique.settings({}, BASE, rows).model_dump()[setting]
        assert default is None or found.holds(default), f"{name}: {setting} {default} outside {found}"


def test_shares_of_rows_that_were_learned_from_before_are_no_curve() -> None:
    """The parent knows them all: a point at 20 % of the labels would be one at 100 %."""
    lora, more = {"lora": {}}, {"label": "more", "technique": "lora", "after": "lora", "curve": [20, 100]}
    with pytest.raises(SpecError, match="`lora`, which more starts from, has learned from all Train rows already"):
        make_plan(make_spec(contestants=["zero_shot", lora, more]), make_facts())
    outside = {**more, "after": "runs/before:lora"}
    said = refused(outside, met={"more": 200})
    assert "contestants.more.curve: would not be one of labels" in said and "has learned from 200 of the 240" in said
    assert entrant(outside, met={"more": 0}).curve == (20, 100)
