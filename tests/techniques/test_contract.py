"""Every technique on the shelf passes the contract, on a small pretrained base (260 k parameters)."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tailorbird import techniques
from tailorbird.bases.renderer import Renderer
from tailorbird.customize import Compute
from tailorbird.engine.model import Model
from tailorbird.engine.train import Trainable
from tailorbird.techniques.base import TrainingContext
from tailorbird.techniques.lora import Lora, LoraSettings
from tailorbird.testing import make_tiny_base, technique_contract
from tailorbird.testing.cases import CASES
from tailorbird.testing.contract import _Bench
from tailorbird.types import Stop

STORIES = Path(__file__).parents[1] / "fixtures" / "stories260k"
OVERFIT: dict[str, dict[str, Any]] = {  # learn eight rows by heart; quicker than on a random base
    "zero_shot": {},
    "few_shot": {},
    "prompt_tuning": {"learning_rate": 0.3, "epochs": 200, "batch_rows": 8},
    "p_tuning": {"learning_rate": 0.01, "epochs": 200, "batch_rows": 8},
    "prefix_tuning": {"learning_rate": 0.1, "epochs": 60, "batch_rows": 8},
    "lora": {"learning_rate": 0.01, "epochs": 60, "batch_rows": 8},
    "peft": {"learning_rate": 0.01, "epochs": 60, "batch_rows": 8},
    "selective": {"learning_rate": 0.003, "epochs": 60, "batch_rows": 8, "layers": 3},
    "sft": {"learning_rate": 0.003, "epochs": 40, "batch_rows": 8},
}


def test_every_technique_has_a_case() -> None:
    assert set(OVERFIT) == set(CASES) == set(techniques.NAMES)


@pytest.mark.parametrize("name", techniques.NAMES)
def test_contract(name: str, tmp_path: Path) -> None:
    overfit, (_, changed) = OVERFIT[name], CASES[name]
    technique = techniques.get(name)
    technique_contract(technique, tmp_path, base=STORIES, overfit=overfit, changed=changed)


@pytest.fixture(scope="module")
def ending(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same base with an end of turn that it can say: in its own pretraining that token was never met, nor were some
    two hundred bytes, whose embeddings are one and the same row, so that no hidden state tells them apart."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("ending") / "base"
    shutil.copytree(STORIES, folder)
    tensors = load_file(folder / "model.safetensors")
    table = tensors["model.embed_tokens.weight"]
    (end,) = Renderer.from_folder(folder).end_ids
    own = torch.randn(table.shape[1], generator=torch.Generator().manual_seed(0))
    table[end] = own * table[end].norm() / own.norm()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("name", [name for name in techniques.NAMES if techniques.get(name).trained])
def test_eight_rows_learned_by_heart_are_written_word_for_word_and_end(name: str, ending: Path, tmp_path: Path) -> None:
    bench = _Bench(techniques.get(name), tmp_path, ending, Compute(), lambda text: None)
    bench.overfits(OVERFIT[name])
    requests = [replace(bench.task.request(row), candidates=(), max_new_tokens=12) for row in bench.rows]
    answers = bench.answers(bench.trained, requests)
    assert [answer.text for answer in answers] == [row.label for row in bench.rows]
    assert [answer.stop for answer in answers] == [Stop.END] * 8


class Deaf(Lora):
    """Trains with alpha 16 whatever is asked for, and writes down what was asked for."""

    def trainable(self, model: Model, settings: LoraSettings, context: TrainingContext) -> Trainable:
        return super().trainable(model, settings.model_copy(update={"alpha": 16.0}), context)


def test_a_setting_that_is_only_written_down_has_no_effect(tmp_path: Path) -> None:
    bench = _Bench(Deaf(), tmp_path, make_tiny_base(tmp_path / "base"), Compute(), lambda text: None)
    bench.every_setting_has_an_effect({"rank": 4})
    with pytest.raises(AssertionError, match=r"the setting alpha = 8.0 changed nothing"):
        bench.every_setting_has_an_effect({"alpha": 8.0})
