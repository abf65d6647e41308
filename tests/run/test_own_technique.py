"""A technique of one's own in one file: the example of docs/extending.md keeps the contract and runs from a spec."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tailorbird import store
from tailorbird.techniques import get

from .conftest import BASE, World

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "own_technique"))


def test_it_keeps_the_contract_as_the_page_calls_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tailorbird import testing

    said: list[str] = []
    called = testing.technique_contract

    def contract(technique: object, folder: Path, **options: object) -> None:
        called(technique, tmp_path, **{**options, "base": BASE, "report": said.append})  # type: ignore[arg-type]

    monkeypatch.setattr(testing, "technique_contract", contract)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    path = tmp_path / "as_the_page_says.py"
    path.write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    __import__("as_the_page_says")
    assert said[-1] == "the base is unchanged"
    assert len(said) == 6


def test_a_spec_names_it_and_a_run_measures_it(world: World) -> None:
    (line,) = re.findall(r"- (\{label: mine.*\})\n", PAGE)
    world.write(
        f"[zero_shot, {line}]",
        split="{train: 40, tuning: 10, validation: 20, test: 20}",
    )
    finished = world.run("contestants.mine.epochs=1")
    row = next(row for row in finished.comparison["rows"] if row["label"] == "mine")
    assert row["state"] == "done", row["note"]
    assert row["settings"]["effective"]["total_virtual_tokens"] == 4
    folder = finished.folder / row["artifact"]
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*.safetensors")} == {
        "soft/adapter_model.safetensors", "delta/delta.safetensors",
    }  # fmt: skip
    assert store.read_json(folder / "manifest.json")["technique"] == "soft_prompt_and_biases:SoftPromptAndBiases"


def test_it_learns_the_soft_prompt_the_biases_and_the_norms(tmp_path: Path) -> None:
    from tailorbird.bases.model import load_model
    from tailorbird.engine.model import Model
    from tailorbird.testing import make_tiny_base, training_context

    technique = get("soft_prompt_and_biases:SoftPromptAndBiases")
    model = Model(load_model(make_tiny_base(tmp_path, "gpt2")))
    asked = {"learning_rate": 0.1, "epochs": 1, "batch_rows": 1, "norms": False}
    settings = technique.Settings.model_validate(asked)
    trainable = technique.trainable(model, settings, training_context())  # type: ignore[attr-defined]
    assert "prompt_embeddings" in trainable.parameters
    assert len(trainable.parameters) == 1 + 13
