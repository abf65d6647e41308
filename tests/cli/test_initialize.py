"""`init`: what it guesses from data, and that its spec says the same to `check`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tailorbird import spec
from tailorbird.errors import SpecError
from tailorbird.initialize import default_out, propose, write_spec


def rows(path: Path, records: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("records", "kind"),
    [
        ([{"text": f"t {n}", "label": "ab"[n % 2]} for n in range(40)], "classify"),
        ([{"prompt": f"p {n}", "completion": ["yes", "no"][n % 2]} for n in range(40)], "classify"),
        ([{"question": f"q {n}?", "answer": f"a{n}"} for n in range(40)], "answer"),
        ([{"prompt": f"p {n}", "completion": f"a long text about {n} " * 6} for n in range(40)], "write"),
    ],
)
def test_the_kind_is_guessed_from_the_answers(tmp_path: Path, records: list[dict[str, object]], kind: str) -> None:
    proposal = propose([rows(tmp_path / "rows.jsonl", records)], root=tmp_path)
    assert proposal.task.kind == kind
    write_spec(proposal, tmp_path / "made.yaml")
    loaded = spec.load(tmp_path / "made.yaml")
    assert loaded.task.kind == kind
    assert loaded.task.instruction == proposal.task.instruction
    assert set(loaded.task.labels) == set(proposal.task.labels)


@pytest.mark.parametrize("label", ["yes", "1", "a: b", "#x", "- y", "null", "ä 'q' \"d\"", "{z}", "*s", " lead"])
def test_labels_that_yaml_would_misread_survive(tmp_path: Path, label: str) -> None:
    records = [{"text": f"t {n}", "label": [label, "other"][n % 2]} for n in range(20)]
    proposal = propose([rows(tmp_path / "rows.jsonl", records)], root=tmp_path)
    write_spec(proposal, tmp_path / "made.yaml")
    assert set(spec.load(tmp_path / "made.yaml").task.labels) == set(proposal.task.labels)


def test_one_label_is_refused_and_nothing_is_overwritten(tmp_path: Path) -> None:
    file = rows(tmp_path / "rows.jsonl", [{"text": f"t {n}", "label": "a"} for n in range(20)])
    with pytest.raises(SpecError, match="every row has the label 'a'"):
        propose([file], root=tmp_path)
    (tmp_path / "there.yaml").write_text("mine")
    good = rows(tmp_path / "good.jsonl", [{"text": f"t {n}", "label": "ab"[n % 2]} for n in range(20)])
    with pytest.raises(SpecError, match="is there already"):
        write_spec(propose([good], root=tmp_path), tmp_path / "there.yaml")


def test_the_spec_is_named_after_the_data() -> None:
    assert default_out(["data/My Rows.CSV"]) == Path("my-rows.yaml")
