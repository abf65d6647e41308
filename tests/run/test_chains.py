"""A run with contestants that start from others: their order, their keys, and what becomes of orphans."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailorbird import spec as specs
from tailorbird import store
from tailorbird.artifacts.learned_from import LearnedFrom, learned_from, read_learned_from, write_learned_from
from tailorbird.data import manifest
from tailorbird.errors import ArtifactError, ResourceError, SpecError
from tailorbird.running.material import read_material

from .conftest import World

CHAIN = (
    "[zero_shot, {label: last, technique: prompt_tuning, after: middle}, "
    "{label: middle, technique: lora, after: sft}, sft]"
)
FEW = "{epochs: 1, batch_rows: 16}"
SPLIT = "{train: 40, tuning: 10, validation: 20, test: 20}"


def test_each_is_made_behind_the_one_it_starts_from(scripted: World) -> None:
    scripted.write(CHAIN)
    finished = scripted.run()
    made = [label for label, stage in scripted.stages() if stage == "customize"]
    assert made == ["zero_shot", "sft", "middle", "last"]
    assert [row["state"] for row in finished.comparison["rows"]] == ["done"] * 4
    stages = scripted.stages()
    assert stages.index(("sft", "customize")) < stages.index(("middle", "rehearse"))


def test_another_parent_is_another_child(scripted: World) -> None:
    scripted.write(CHAIN)
    scripted.run()
    scripted.run("contestants.sft.epochs=2")
    assert {label for label, _ in scripted.stages() if label} == {"sft", "middle", "last"}
    scripted.run("contestants.sft.epochs=2", "contestants.last.epochs=2")
    assert {label for label, _ in scripted.stages() if label} == {"last"}


def test_the_children_of_a_failed_parent_are_skipped_with_the_reason(scripted: World) -> None:
    scripted.write(CHAIN)
    comparison = scripted.run("contestants.sft.learning_rate=0.0666").comparison
    rows = {row["label"]: row for row in comparison["rows"]}
    assert rows["sft"]["state"] == "failed"
    assert (rows["middle"]["state"], rows["middle"]["note"]) == ("skipped", "it starts from sft, which failed")
    assert (rows["last"]["state"], rows["last"]["note"]) == ("skipped", "it starts from middle, which is skipped")


def test_a_chain_on_a_base_and_what_goes_on_from_it_in_another_run(world: World) -> None:
    lora = "lora: {rank: 4, epochs: 1, batch_rows: 16}"
    world.write(f"[zero_shot, {{{lora}}}, {{label: more, after: lora, sft: {FEW}}}]", split=SPLIT)
    first = world.run()
    rows = {row["label"]: row for row in first.comparison["rows"]}
    assert [rows[label]["state"] for label in ("lora", "more")] == ["done", "done"]
    assert rows["more"]["note"].startswith("starts from lora (lora), sha256:")
    assert rows["more"]["forgetting"]["state"] == "measured"
    manifest = store.read_json(first.folder / rows["more"]["artifact"] / "manifest.json")
    assert manifest["parent"]["label"] == "lora"

    world.name = "next.yaml"
    folder = Path("runs") / first.folder.name / rows["lora"]["artifact"]
    world.write(
        f"[zero_shot, {{label: on, after: 'runs/try:lora', {lora}}}, "
        f"{{label: shown, after: './{folder.as_posix()}', few_shot: {{draws: 1}}}}]",
        split=SPLIT,
    )
    second = {row["label"]: row for row in world.run().comparison["rows"]}
    assert [second[label]["state"] for label in ("on", "shown")] == ["done", "done"]
    assert second["shown"]["forgetting"]["state"] == "measured"  # its weights are not the base's
    assert second["shown"]["forgetting"]["bits_per_byte"]["change"] != 0


def test_what_a_parent_has_learned_from_is_not_measured_on(world: World) -> None:
    """Another seed deals the rows anew: without that knowledge rows of the parent's Train stand in Validation and Test.

    The same for an adapter that is brought along, and for what is made after either.
    """
    lora = "lora: {rank: 2, epochs: 1, batch_rows: 16}"
    world.write(f"[zero_shot, {{{lora}}}]", split=SPLIT)
    first = world.run()
    (row,) = (row for row in first.comparison["rows"] if row["label"] == "lora")
    folder = first.folder / row["artifact"]
    before = split_ids(first.folder)
    met = before["train"] | before["tuning"]

    plain = split_of(world, "[zero_shot]")
    assert met & (plain["validation"] | plain["test"])
    assert before["train"] & plain["tuning"]
    for contestants in (
        f"[zero_shot, {{label: on, after: 'runs/try:lora', {lora}}}]",
        f"[zero_shot, {{label: theirs, adapter: '{folder}'}}]",
    ):
        dealt = split_of(world, contestants)
        assert not met & (dealt["validation"] | dealt["test"])
        assert not before["train"] & dealt["tuning"]

    world.name = "next.yaml"
    world.write(f"[zero_shot, {{label: on, after: 'runs/try:lora', {lora}}}]", split=SPLIT, seed="1")
    second = world.run()
    assert any("runs/try:lora has learned from them before" in e.get("text", "") for e in world.events)
    (row,) = (row for row in second.comparison["rows"] if row["label"] == "on")
    child, parent = (read_learned_from(place) for place in (second.folder / row["artifact"], folder))
    assert child is not None
    assert parent is not None
    assert child.complete
    assert parent.train <= child.train
    assert len(child.train | child.tuning) > len(parent.train | parent.tuning)

    (folder / "learned_from.json").unlink()
    material = read_material(specs.load(world.spec_path))
    assert material.unsaid == {"on": "starts from"}


def test_what_is_not_known_of_a_parent_is_not_known_of_its_child(tmp_path: Path) -> None:
    parent, child = tmp_path / "parent", tmp_path / "child"
    for place in (parent, child):
        place.mkdir()
    write_learned_from(parent, learned_from({"train": ["0" * 16], "tuning": ["1" * 16]}, None))
    write_learned_from(child, learned_from({"train": ["1" * 16], "tuning": ["2" * 16]}, parent))
    told = read_learned_from(child)
    assert told == LearnedFrom(frozenset({"0" * 16, "1" * 16}), frozenset({"2" * 16}), complete=True)
    (parent / "learned_from.json").unlink()
    assert learned_from({"train": ["1" * 16]}, parent) == LearnedFrom(frozenset({"1" * 16}), complete=False)
    assert learned_from({}, None) == LearnedFrom()
    (child / "learned_from.json").write_text('{"schema": 1, "complete": true, "train": ["x"], "tuning": []}')
    with pytest.raises(ArtifactError, match="train: is not a list of hashes"):
        read_learned_from(child)


def test_a_run_that_starts_from_its_own_work_is_refused(world: World) -> None:
    lora = "lora: {rank: 2, epochs: 1, batch_rows: 16}"
    world.write(f"[zero_shot, {{{lora}}}]", split=SPLIT)
    world.run()
    world.write(f"[zero_shot, {{{lora}}}, {{label: on, after: 'runs/try:lora', {lora}}}]", split=SPLIT)
    with pytest.raises(SpecError, match="on starts from what this very run has made"):
        world.run()


def split_of(world: World, contestants: str) -> dict[str, set[str]]:
    world.write(contestants, split=SPLIT, seed="1")
    material = read_material(specs.load(world.spec_path))
    return {name: set(ids) for name, ids in manifest(material.splits).items()}


def split_ids(folder: Path) -> dict[str, set[str]]:
    return {name: set(ids) for name, ids in store.read_json(folder / "data" / "splits.json")["rows"].items()}


def test_a_parent_that_is_not_there_or_was_changed_stops_the_run_before_anything_is_computed(
    scripted: World, tmp_path: Path
) -> None:
    scripted.write("[zero_shot, {label: on, technique: lora, after: ./nowhere}]")
    with pytest.raises(SpecError, match="there is no customization"):
        scripted.run()
    scripted.write("[zero_shot, {label: on, technique: lora, after: 'runs/nowhere:lora'}]")
    with pytest.raises(ResourceError, match="there is no such run"):
        scripted.run()
    folder = tmp_path / "broken"
    folder.mkdir()
    store.write_json(folder / "manifest.json", {"schema": 1})
    scripted.write("[zero_shot, {label: on, technique: lora, after: ./broken}]")
    with pytest.raises(ArtifactError, match="manifest field"):
        scripted.run()
    assert not scripted.runs.exists()
