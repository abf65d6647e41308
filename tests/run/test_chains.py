"""A run with contestants that start from others: their order, their keys, and what becomes of orphans."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailorbird import store
from tailorbird.artifacts.learned_from import read_learned_from
from tailorbird.errors import ArtifactError, ResourceError, SpecError

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

    before, now = (split_ids(world.folder / "runs" / name) for name in ("try", "next"))
    assert before["train"] <= now["train"]
    assert not (before["train"] | before["tuning"]) & (now["validation"] | now["test"])
    child = read_learned_from(world.folder / "runs" / "next" / second["on"]["artifact"])
    parent = read_learned_from(first.folder / rows["lora"]["artifact"])
    assert child is not None
    assert parent is not None
    assert set(parent["train"]) <= set(child["train"])


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
