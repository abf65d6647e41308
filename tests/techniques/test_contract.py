"""Every technique on the shelf passes the contract, on a small pretrained base (260 k parameters)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tailorbird import techniques
from tailorbird.customize import Compute
from tailorbird.engine.model import Model
from tailorbird.engine.train import Trainable
from tailorbird.techniques.base import TrainingContext
from tailorbird.techniques.lora import Lora, LoraSettings
from tailorbird.testing import make_tiny_base, technique_contract
from tailorbird.testing.cases import CASES
from tailorbird.testing.contract import _Bench

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


class Deaf(Lora):
    """Trains with alpha 16 whatever is asked for, and writes down what was asked for."""

    def trainable(self, model: Model, settings: LoraSettings, context: TrainingContext) -> Trainable:
        return super().trainable(model, settings.model_copy(update={"alpha": 16.0}), context)


def test_a_setting_that_is_only_written_down_has_no_effect(tmp_path: Path) -> None:
    bench = _Bench(Deaf(), tmp_path, make_tiny_base(tmp_path / "base"), Compute(), lambda text: None)
    bench.every_setting_has_an_effect({"rank": 4})
    with pytest.raises(AssertionError, match=r"the setting alpha = 8.0 changed nothing"):
        bench.every_setting_has_an_effect({"alpha": 8.0})
