"""From spec to rows, task, splits and machine: every field that `plan` leaves to the facts has its effect here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tailorbird import spec as specs
from tailorbird.artifacts.parts import Prompt
from tailorbird.bases.facts import base_facts
from tailorbird.bases.renderer import Renderer
from tailorbird.customize.training import encode
from tailorbird.errors import DataError, SpecError
from tailorbird.running.material import read_material
from tailorbird.running.room import room_of

from .conftest import BASE, World


def material(world: World, **fields: Any) -> Any:
    asked = {"base": str(BASE), "data": str(world.folder / "rows.csv"), **fields}
    return read_material(specs.build(asked))


def test_what_the_task_says_reaches_the_task(world: World) -> None:
    plain = material(world)
    assert (plain.task.kind, plain.task.metric, dict(plain.task.labels)["card"]) == ("classify", "accuracy", "card")
    said = material(
        world, task={"instruction": "Say it.", "labels": {"card": "plastic", "cash": "cash", "rate": "rate"}}
    )
    assert (said.task.instruction, said.task.labels["card"]) == ("Say it.", "plastic")
    written = material(world, task={"kind": "write", "max_new_tokens": 7, "metric": "rouge_l"})
    assert (written.task.kind, written.task.max_new_tokens, written.task.metric) == ("write", 7, "rouge_l")


def test_a_metric_that_is_not_the_task_s_is_refused_at_its_line(world: World) -> None:
    world.write("[zero_shot]", task="{kind: classify, metric: rouge_l}")
    with pytest.raises(SpecError, match=r"try.yaml:3: task.metric: 'rouge_l' is not a main metric of classify"):
        read_material(specs.load(world.spec_path))


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("{kind: classify, max_new_tokens: 7}", "task.max_new_tokens: max_new_tokens has no effect for classify"),
        ("{max_new_tokens: 7}", "task.max_new_tokens: max_new_tokens has no effect for classify"),
        ("{kind: write, labels: {card: card}}", "task.labels: labels have no effect for kind write"),
    ],
)
def test_a_field_of_another_kind_of_task_is_refused_at_its_line(world: World, task: str, message: str) -> None:
    world.write("[zero_shot]", task=task)
    with pytest.raises(SpecError, match=f"try.yaml:3: {message}"):
        read_material(specs.load(world.spec_path))


def test_threads_device_and_sizes_reach_the_facts(world: World) -> None:
    facts = material(world, limits={"threads": 3}, split={"test": 17, "validation": 13}, device="cpu").facts(
        torch=False
    )
    assert facts.machine.threads == 3
    assert facts.machine.device == "cpu"
    assert (facts.sizes["test"], facts.sizes["validation"]) == (17, 13)


def test_another_seed_splits_otherwise(world: World) -> None:
    first, again, other = (material(world, seed=seed).splits.test.rows for seed in (0, 0, 1))
    assert [row.id for row in first] == [row.id for row in again]
    assert [row.id for row in first] != [row.id for row in other]


def test_a_label_that_was_not_declared_is_a_bad_row(world: World) -> None:
    with pytest.raises(DataError, match="D35"):
        material(world, task={"kind": "classify", "labels": {"card": "card", "cash": "cash"}})


def test_one_label_alone_is_no_task(world: World, tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("text,label\n" + "".join(f"number {n} of many,same\n" for n in range(40)))
    with pytest.raises((SpecError, DataError)):
        material(world, data=str(tmp_path / "one.csv"), task={"kind": "classify"})


def test_a_row_longer_than_the_context_is_set_aside_with_its_count(world: World) -> None:
    with open(world.folder / "rows.csv", "a", encoding="utf-8") as file:
        file.write("word " * 3000 + ",card\n")
    found = material(world)
    (rejected,) = found.dataset.rejected
    assert rejected.code == "D28"
    assert "tokens" in rejected.reason
    assert rejected.place.line == 122


LONG = "word " * 120  # 361 tokens: within the context of 512, but not behind 200 more


def add_a_long_row(world: World) -> None:
    with open(world.folder / "rows.csv", "a", encoding="utf-8") as file:
        file.write(LONG + ",card\n")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, None),
        ({"contestants": [{"prompt_tuning": {"total_virtual_tokens": 200}}]}, "behind 200 virtual tokens"),
        ({"contestants": [{"prefix_tuning": {"total_virtual_tokens": 200}}]}, "behind 200 virtual tokens"),
        ({"task": {"instruction": "Say it again. " * 25}}, "question and answer have 5"),
        ({"task": {"kind": "write", "max_new_tokens": 200}}, "(an answer may have 200)"),
    ],
)
def test_a_row_has_to_fit_as_every_contestant_is_asked_it(
    world: World, fields: dict[str, Any], reason: str | None
) -> None:
    add_a_long_row(world)
    rejected = material(world, **fields).dataset.rejected
    assert [(r.code, r.place.line) for r in rejected] == ([("D28", 122)] if reason else [])
    assert all(reason in r.reason for r in rejected if reason)


def before(**fields: Any) -> int:
    base = base_facts(BASE)
    return room_of(specs.build({"base": str(BASE), "data": "x", **fields}), Renderer.from_folder(BASE), base).before


def test_the_most_virtual_tokens_of_any_contestant_count() -> None:
    prompt = {"label": "p", "technique": "prompt_tuning", "settings": {"total_virtual_tokens": 30}}
    prefix = {"label": "f", "technique": "prefix_tuning", "settings": {"total_virtual_tokens": 7}}
    assert before() == 0
    assert before(contestants=["zero_shot", "lora", "majority", {"label": "x", "answers": "x.csv"}]) == 0
    assert before(contestants=[prompt, prefix]) == 30
    assert before(contestants=[prompt, {**prefix, "after": "p"}, {"label": "l", "technique": "lora"}]) == 37
    assert before(contestants=[prompt, {"label": "l", "technique": "p_tuning", "after": "p"}]) == 30
    assert before(contestants=[{"prompt_tuning": {}, "tune": 4}]) == 50  # the technique's own range
    assert before(contestants=[{"prompt_tuning": {}, "tune": {"trials": 4, "over": {"epochs": [1, 2]}}}]) == 20
    over = {"total_virtual_tokens": [5, 90]}
    assert before(contestants=[{"prompt_tuning": {}, "tune": {"trials": 4, "over": over}}]) == 90


def test_virtual_tokens_of_what_is_brought_along_count(tmp_path: Path) -> None:
    config = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 12}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
    assert before(contestants=[{"label": "brought", "adapter": str(tmp_path)}]) == 12
    after = {"label": "on", "technique": "prompt_tuning", "after": str(tmp_path)}
    assert before(contestants=[{**after, "settings": {"total_virtual_tokens": 3}}]) == 15


def test_what_is_too_long_for_a_training_all_the_same_is_named_with_a_way_out(world: World) -> None:
    found = material(world)
    row = found.splits.train[0]
    with pytest.raises(DataError, match="tokens are more than the 5 that the base's context leaves a row") as caught:
        encode(found.renderer, found.task, Prompt("Say it."), row, 5)
    assert str(caught.value).startswith(f"{row.place}: ")
    assert str(caught.value).endswith("→ shorten the row, or leave it out; fewer virtual tokens leave more")


def test_rendered_rows_mark_what_is_learned(world: World) -> None:
    tokens = material(world).rendered(1)[0]
    learned = "".join(text for text, supervised in tokens if supervised)
    assert any(word in learned for word in ("card", "cash", "rate"))
    assert "You label" not in learned
