"""`after:`: what a contestant may start from is known before anything is computed, and each mistake has its line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tailorbird import spec as specs
from tailorbird.errors import SpecError
from tailorbird.plan import MadeBefore, make_plan, wrong_settings
from tailorbird.plan.chains import Link, problems
from tailorbird.plan.document import Plan
from tailorbird.techniques import get

from .conftest import BASE, make_facts, make_spec


def after(technique: str, parent: str, label: str | None = None) -> dict[str, Any]:
    return {"label": label or technique, "technique": technique, "after": parent}


def test_a_chain_is_planned_as_it_is_written() -> None:
    plan = make_plan(make_spec(contestants=["zero_shot", "sft", after("lora", "sft")]), make_facts())
    assert plan.entrant("lora").after == "sft"
    assert plan.entrant("sft").after is None
    assert Plan.from_dict(plan.as_dict()) == plan


@pytest.mark.parametrize(
    ("links", "wrong"),
    [
        ([Link("a", "lora", "a")], {"a": "goes in a circle: a after a"}),
        (
            [Link("a", "lora", "b"), Link("b", "sft", "c"), Link("c", "sft", "a"), Link("d", "lora", "a")],
            {
                "a": "goes in a circle: a after b after c after a",
                "b": "goes in a circle: b after c after a after b",
                "c": "goes in a circle: c after a after b after c",
            },
        ),
        ([Link("lora", "lora", None), Link("a", "sft", "lroa")], {"a": "no contestant is called `lroa`"}),
        ([Link("majority", "majority", None), Link("a", "sft", "majority")], {"a": "`majority` is not made here"}),
        ([Link("today", None, None), Link("a", "sft", "today")], {"a": "`today` is not made here"}),
        ([Link("x", "lora", None), Link("today", None, "x")], {"today": "only a technique can start"}),
        ([Link("f", "few_shot", None), Link("a", "lora", "f")], {"a": "`f` is a prompt, and its weights are"}),
        ([Link("p", "prompt_tuning", None), Link("z", "zero_shot", "p")], {"z": "zero_shot has no use for soft"}),
        (
            [Link("p", "prompt_tuning", None), Link("q", "p_tuning", "p")],
            {"q": "p_tuning goes on with soft only where p_tuning made it"},
        ),
        (
            [Link("p", "p_tuning", None), Link("l", "lora", "p"), Link("q", "p_tuning", "l")],
            {"q": "p_tuning goes on with soft only where p_tuning made it"},
        ),
        ([Link("k", "prefix_tuning", None), Link("p", "prompt_tuning", "k")], {"p": "prompt_tuning has no use for kv"}),
        ([Link("p", "p_tuning", None), Link("q", "p_tuning", "p"), Link("t", "prompt_tuning", "q")], {}),
        ([Link("k", "prefix_tuning", None), Link("w", "sft", "k"), Link("m", "prefix_tuning", "w")], {}),
        ([Link("l", "lora", None), Link("s", "selective", "l"), Link("w", "sft", "s")], {}),
        ([Link("s", "sft", None), Link("e", "selective", "s"), Link("f", "few_shot", "e")], {}),
        ([Link("a", "lora", "runs/other:sft"), Link("b", "my.file:Mine", "a"), Link("c", "lora", "b")], {}),
    ],
)
def test_what_cannot_follow_is_said(links: list[Link], wrong: dict[str, str]) -> None:
    found = dict(problems(links))
    assert found.keys() == wrong.keys()
    assert all(found[label].startswith(words) for label, words in wrong.items())


def test_every_wrong_link_has_its_line_and_all_are_said_at_once(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(
        "base: smollm2-135m\ndata: rows.csv\ncontestants:\n- {label: a, technique: lora, after: b}\n"
        "- {label: b, technique: lora, after: a}\n- label: c\n  technique: sft\n  after: lorra\n"
    )
    with pytest.raises(SpecError) as said:
        specs.load(path, check=wrong_settings)
    text = str(said.value)
    assert "line 4: contestants.a.after: goes in a circle: a after b after a" in text
    assert "line 5: contestants.b.after: goes in a circle: b after a after b" in text
    assert "line 8: contestants.c.after: no contestant is called `lorra`" in text
    with pytest.raises(SpecError, match=r"contestants\.a\.after: goes in a circle"):
        make_plan(specs.load(path), make_facts())


def test_a_child_of_a_skipped_parent_is_skipped_with_the_reason() -> None:
    facts = make_facts()
    spec = make_spec(
        contestants=["zero_shot", "sft", after("lora", "sft"), after("prompt_tuning", "lora", "deep")],
        limits={"memory_gb": 2.5},
    )
    plan = make_plan(spec, facts)
    assert [e.state for e in plan.entrants] == ["planned", "skipped", "skipped", "skipped"]
    assert plan.entrant("lora").note == "it starts from sft, which is skipped"
    assert plan.entrant("deep").note == "it starts from lora, which is skipped"


def test_layers_of_other_updates_are_refused_in_the_techniques_own_words() -> None:
    wrong = {"selective": {"update": "norms", "layers": 2}}
    with pytest.raises(SpecError, match="selective: layers is for update: last_layers, and update is norms"):
        make_plan(make_spec(contestants=["zero_shot", wrong]), make_facts())


def test_what_was_trained_nobody_knows_on_what_is_said() -> None:
    def said(**unsaid: str) -> list[str]:
        spec = make_spec(contestants=["zero_shot", "sft", after("lora", "runs/other:lora")])
        notes = make_plan(spec, replace(make_facts(), unsaid=unsaid)).notes
        return [note.partition(" one of which nobody knows")[0] for note in notes if "nobody knows" in note]

    assert said(lora="starts from", theirs="is") == ["lora starts from", "theirs is"]
    assert said() == []


@pytest.mark.parametrize(
    ("parent", "child", "wrong"),
    [
        ({"update": "norms"}, {"update": "last_layers"}, "update: norms, and update: last_layers, layers: 1 is asked"),
        ({"layers": 2}, {"layers": 3}, "update: last_layers, layers: 2, and update: last_layers, layers: 3 is asked"),
        ({}, {"layers": 1}, None),
        ({"update": "norms"}, {"update": "norms"}, None),
    ],
)
def test_a_kept_optimizer_is_gone_on_with_by_the_same_tensors_only(
    parent: dict[str, Any], child: dict[str, Any], wrong: str | None
) -> None:
    def chain(**kept: Any) -> Any:
        first = {"label": "first", "technique": "selective", "settings": {**parent, **kept}}
        return make_spec(contestants=[first, {**after("selective", "first", "then"), "settings": child}])

    make_plan(chain(), make_facts())
    if wrong is None:
        make_plan(chain(keep_optimizer=True), make_facts())
        return
    with pytest.raises(SpecError, match=f"contestants.then.after: goes on with an optimizer .* for {wrong}") as caught:
        make_plan(chain(keep_optimizer=True), make_facts())
    assert str(caught.value).endswith("set update and layers as they were, or make the parent without keep_optimizer")


def made_before(technique: str, **parts: Any) -> MadeBefore:
    return MadeBefore(technique, parts)


SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "prompt_tuning": ({"total_virtual_tokens": 3}, {"total_virtual_tokens": 5}),
    "prefix_tuning": ({"total_virtual_tokens": 3}, {"total_virtual_tokens": 5}),
    "lora": (
        {"rank": 4, "alpha": 8.0, "rslora": True, "targets": ["q_proj", "v_proj"]},
        {"rank": 8, "alpha": 9.0, "rslora": False, "targets": ["q_proj"]},
    ),
    "p_tuning": (
        {"total_virtual_tokens": 3, "encoder": "lstm", "encoder_hidden_size": 24, "encoder_layers": 3},
        {"total_virtual_tokens": 5, "encoder": "lstm", "encoder_hidden_size": 12, "encoder_layers": 1},
    ),
}


def chain(technique: str, first: dict[str, Any], then: dict[str, Any], **more: Any) -> Any:
    """The child stands first: where a contestant stands says nothing about who starts from whom."""
    parent = {"label": "first", "technique": technique, "settings": first}
    return make_spec(contestants=["zero_shot", {**after(technique, "first", "then"), "settings": then, **more}, parent])


def outside(technique: str, first: dict[str, Any], then: dict[str, Any]) -> tuple[Any, Any]:
    kind = next(iter(get(technique).makes))
    known = {**get(technique).settings(first, BASE, 240).model_dump(), **first}
    facts = make_facts(made_before={"then": made_before(technique, **{kind: known})})
    return make_spec(contestants=["zero_shot", {**after(technique, "runs/x:a", "then"), "settings": then}]), facts


@pytest.mark.parametrize("technique", list(SHAPES))
def test_what_a_parent_fixes_its_child_takes_and_asks_for_nothing_else(technique: str) -> None:
    first, other = SHAPES[technique]
    for spec, facts in ((chain(technique, first, {}), make_facts()), outside(technique, first, {})):
        found = make_plan(spec, facts).entrant("then")
        assert {name: found.effective[name] for name in first} == first
        assert found.asked == {}
    make_plan(chain(technique, first, first), make_facts())
    for spec, facts in ((chain(technique, first, other), make_facts()), outside(technique, first, other)):
        with pytest.raises(SpecError) as refused:
            make_plan(spec, facts)
        for name, value in other.items():
            if value != first[name]:
                assert f"contestants.then.{name}: {value!r} is asked for, and what it goes on with" in str(
                    refused.value
                )


def test_what_is_the_same_said_otherwise_is_not_another_shape() -> None:
    layers = {"encoder": "lstm", "encoder_layers": 2}
    make_plan(chain("p_tuning", {"encoder": "lstm"}, layers), make_facts())
    make_plan(chain("lora", {"targets": ["v_proj", "q_proj"]}, {"targets": ["q_proj", "v_proj"]}), make_facts())


def test_a_shape_is_taken_from_the_one_that_made_the_part_however_far_behind() -> None:
    own = {"label": "a", "technique": "lora", "settings": {"rank": 4}}
    contestants = [own, after("prompt_tuning", "a", "b"), after("selective", "b", "c"), after("lora", "c", "d")]
    assert make_plan(make_spec(contestants=contestants), make_facts()).entrant("d").effective["rank"] == 4
    folded = [own, after("sft", "a", "b"), after("lora", "b", "c")]
    assert make_plan(make_spec(contestants=folded), make_facts()).entrant("c").effective["rank"] == 16
    table = [{"label": "a", "technique": "p_tuning", "settings": {"total_virtual_tokens": 7}}]
    plan = make_plan(make_spec(contestants=[*table, after("prompt_tuning", "a", "b")]), make_facts())
    assert plan.entrant("b").effective["total_virtual_tokens"] == 7


def test_what_a_search_will_find_cannot_be_asked_for_beforehand() -> None:
    parent = {"label": "first", "technique": "lora", "tune": 4}
    asked = {**after("lora", "first", "then"), "settings": {"rank": 16}}
    with pytest.raises(SpecError, match=r"contestants.then.rank: is what the search of the one"):
        make_plan(make_spec(contestants=["zero_shot", parent, asked]), make_facts())
    make_plan(make_spec(contestants=["zero_shot", parent, {**asked, "settings": {}}]), make_facts())


@pytest.mark.parametrize("technique", ["prompt_tuning", "prefix_tuning"])
def test_how_a_part_begins_has_no_effect_where_it_is_gone_on_with(technique: str) -> None:
    text = {"initialization": "text", "initialization_text": "word"}
    for spec, facts in ((chain(technique, {}, text), make_facts()), outside(technique, {}, text)):
        with pytest.raises(SpecError) as refused:
            make_plan(spec, facts)
        for name in text:
            assert f"contestants.then.{name}: has no effect here: it goes on with what" in str(refused.value)
    beside = {**after(technique, "lora", "then"), "settings": text}  # made anew beside the parent's part
    plan = make_plan(make_spec(contestants=["zero_shot", "lora", beside]), make_facts())
    assert plan.entrant("then").effective["initialization"] == "text"


@pytest.mark.parametrize("technique", list(SHAPES))
def test_a_search_leaves_alone_what_a_parent_fixes(technique: str) -> None:
    fixed = SHAPES[technique][0].keys() | get(technique).begins
    over = make_plan(chain(technique, {}, {}, tune=4), make_facts()).entrant("then").tune["over"]  # type: ignore[index]
    assert "learning_rate" in over
    assert not fixed & over.keys()
    anew = make_plan(
        make_spec(contestants=["zero_shot", {"technique": technique, "label": "x", "tune": 4}]), make_facts()
    )
    assert fixed & anew.entrant("x").tune["over"].keys()  # type: ignore[index]
    for name in sorted(fixed):
        with pytest.raises(SpecError, match=f"contestants.then.tune.over.{name}: it is fixed by first"):
            make_plan(chain(technique, {}, {}, tune={"trials": 4, "over": {name: [3, 5]}}), make_facts())


def test_what_cannot_be_gone_on_with_is_known_before_its_parent_is_trained() -> None:
    spec = make_spec(contestants=["zero_shot", "peft", after("peft", "peft", "then")])
    with pytest.raises(
        SpecError, match=r"contestants.then.after: peft cannot go on with peft, which `peft` consists of"
    ):
        make_plan(spec, make_facts())
    with pytest.raises(SpecError, match=r"contestants.peft.keep_optimizer: no such setting of peft"):
        make_plan(make_spec(contestants=["zero_shot", {"peft": {"keep_optimizer": True}}]), make_facts())
