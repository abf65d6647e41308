"""No field of `data` and `split` is ignored: each, set to something else, gives other rows, other splits, or an error.

That a field stands in the plan says nothing here: `Plan.reading` is a copy of the spec.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tailorbird import spec as specs
from tailorbird.errors import TailorbirdError
from tailorbird.running.material import read_material
from tailorbird.spec import ExampleSource, ReplaySpec, Spec
from tailorbird.spec.fields import DataSpec, SplitSpec

from .conftest import BASE, World

SOURCE: dict[str, Any] = {"path": "some.csv", "name": "some", "instruction": "Name it.", "share": 0.5}
TALK: dict[str, Any] = {"path": "talk.jsonl", "share": 0.5}
EXTRA = {"examples": ["rows.csv"]}

# field -> (what stands beside it, another value)
DATA: dict[str, tuple[dict[str, Any], Any]] = {
    "examples": ({}, ["some.csv"]),
    "replay": ({}, TALK),
    "test": ({}, "fresh.csv"),
    "validation": ({}, "fresh.csv"),
    "retention": ({"replay": TALK}, "texts.txt"),
    "shape": ({}, "messages"),
    "columns": ({}, {"prompt": "customer"}),
    "sheet": ({}, "Rows"),
    "supervise": ({"examples": ["talk.jsonl"]}, "last"),
    "group": ({}, "customer"),
    "slices": ({}, ["customer"]),
    "max_bad_share": ({"examples": ["torn.csv"]}, 0.5),
    "overlap": ({"test": "some.csv"}, "drop_from_train"),
}
SOURCES: dict[str, Any] = {
    "path": "torn.csv",
    "name": "other",
    "instruction": "Say it.",
    "share": 0.25,
    "shape": "messages",
    "columns": {"prompt": "customer"},
    "sheet": "Rows",
}
REPLAY: dict[str, Any] = {
    "path": "more.jsonl",
    "share": 0.2,
    "shape": "alpaca",
    "columns": {"prompt": "no such"},
    "sheet": "Rows",
}
SPLIT: dict[str, int] = {"train": 30, "tuning": 9, "validation": 20, "test": 20}


def write_table(path: Path, start: int, count: int, torn: int = 0) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "customer"])
        for n in range(start, start + count):
            writer.writerow(
                [f"{n} {chr(97 + n % 26) * 7} {n * 7919}", ("card", "cash")[n % 2], f"of customer {n // 4}"]
            )
        for n in range(torn):
            writer.writerow([f"unanswered {n}", "", "none"])


def asks(n: int) -> str:
    return f"tell me of {n} and {n} and {n} again"


def write_talk(path: Path, start: int, count: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        for n in range(start, start + count):
            said = [f"{asks(n)} {what}" for what in ("now", "so", "then", "well")]
            turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]
            file.write(json.dumps({"messages": turns}) + "\n")


@pytest.fixture
def files(world: World) -> Path:
    write_table(world.folder / "rows.csv", 0, 80)
    write_table(world.folder / "some.csv", 40, 60)
    write_table(world.folder / "fresh.csv", 200, 20)
    write_table(world.folder / "torn.csv", 300, 60, torn=4)
    write_talk(world.folder / "talk.jsonl", 0, 60)
    write_talk(world.folder / "more.jsonl", 500, 60)
    texts = [f"A text that is measured on, the {n}th of them, and {asks(n)}" for n in range(40)]
    (world.folder / "texts.txt").write_text("\n\n".join(texts), encoding="utf-8")
    return world.folder


def outcome(folder: Path, data: dict[str, Any], **fields: Any) -> Any:
    """All that training and scoring see of the rows, or the error."""
    asked = {"base": str(BASE), "data": data, **fields}
    path = folder / "try.yaml"
    path.write_text(json.dumps(asked), encoding="utf-8")
    try:
        found = read_material(specs.load(path))
    except TailorbirdError as error:
        return str(error)
    return {
        "splits": [[*getattr(found.splits, name)] for name in ("train", "tuning", "validation", "test")],
        "replay": [*found.replay_for(found.replayed.share)] if found.replayed else None,
        "left out": found.replayed.left_out if found.replayed else None,
    }


def test_the_lists_above_are_complete() -> None:
    assert set(DATA) == set(DataSpec.model_fields)
    assert set(SOURCES) == set(ExampleSource.model_fields)
    assert set(REPLAY) == set(ReplaySpec.model_fields)
    assert set(SPLIT) == set(SplitSpec.model_fields)


@pytest.mark.parametrize("field", list(DATA))
def test_each_field_of_the_data_is_read(files: Path, field: str) -> None:
    beside, other = DATA[field]
    data = {**EXTRA, **beside}
    before = outcome(files, data)
    assert isinstance(before, str) == (field in ("max_bad_share", "overlap"))  # these two are to let pass
    assert before != outcome(files, {**data, field: other})


@pytest.mark.parametrize("field", list(SOURCES))
def test_each_field_of_a_source_is_read(files: Path, field: str) -> None:
    first, second = (
        outcome(files, {"examples": [one, {"path": "fresh.csv", "share": 1 - one["share"]}]})
        for one in (SOURCE, {**SOURCE, field: SOURCES[field]})
    )
    assert isinstance(first, dict)
    assert first != second


@pytest.mark.parametrize("field", list(REPLAY))
def test_each_field_of_replay_is_read(files: Path, field: str) -> None:
    first, second = (outcome(files, {**EXTRA, "replay": one}) for one in (TALK, {**TALK, field: REPLAY[field]}))
    assert isinstance(first, dict)
    assert first != second


@pytest.mark.parametrize("field", list(SPLIT))
def test_each_size_is_kept(files: Path, field: str) -> None:
    found = outcome(files, EXTRA, split={field: SPLIT[field]})
    assert len(found["splits"][list(SPLIT).index(field)]) == SPLIT[field]
    assert found != outcome(files, EXTRA)


def test_the_seed_is_taken(files: Path) -> None:
    assert outcome(files, EXTRA) == outcome(files, EXTRA, seed=Spec.model_fields["seed"].default)
    assert outcome(files, EXTRA) != outcome(files, EXTRA, seed=7)
