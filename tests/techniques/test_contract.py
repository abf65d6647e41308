"""Every technique on the shelf passes the contract, on a small pretrained base (260 k parameters)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tailorbird import techniques
from tailorbird.testing import Beside, technique_contract
from tailorbird.testing.cases import TRAINING

STORIES = Path(__file__).parents[1] / "fixtures" / "stories260k"
PROMPTED: dict[str, Any] = {"calibration": "on"}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "zero_shot": ({}, PROMPTED),
    "few_shot": ({}, {"examples": 2, "draws": 1, "calibration": "on"}),
    "prompt_tuning": (
        {"learning_rate": 0.3, "epochs": 100, "batch_rows": 8},
        {
            **TRAINING,
            "total_virtual_tokens": 5,
            "initialization": "random",
            "initialization_text": Beside("red or green", {"initialization": "text"}),
        },
    ),
    "p_tuning": (
        {"learning_rate": 0.01, "epochs": 200, "batch_rows": 8},
        {
            **TRAINING,
            "keep_optimizer": False,
            "total_virtual_tokens": 5,
            "encoder": "lstm",
            "encoder_hidden_size": 24,
            "encoder_layers": Beside(1, {"encoder": "lstm"}),
            "encoder_dropout": Beside(0.5, {"encoder": "lstm"}),
        },
    ),
    "prefix_tuning": (
        {"learning_rate": 0.1, "epochs": 60, "batch_rows": 8},
        {
            **TRAINING,
            "total_virtual_tokens": 5,
            "initialization": "random",
            "initialization_text": "red or green",
        },
    ),
    "lora": (
        {"learning_rate": 0.01, "epochs": 60, "batch_rows": 8},
        {**TRAINING, "rank": 4, "alpha": 8.0, "rslora": True, "targets": ("q_proj",)},
    ),
    "peft": (
        {"learning_rate": 0.01, "epochs": 60, "batch_rows": 8},
        {**TRAINING, "method": "loha", "rank": 4, "alpha": 8.0, "targets": ("q_proj",)},
    ),
    "selective": (
        {"learning_rate": 0.003, "epochs": 60, "batch_rows": 8, "layers": 3},
        {**TRAINING, "update": "norms", "layers": 2},
    ),
    "sft": ({"learning_rate": 0.003, "epochs": 40, "batch_rows": 8}, TRAINING),
}


def test_every_technique_has_a_case() -> None:
    assert set(CASES) == set(techniques.NAMES)


@pytest.mark.parametrize("name", techniques.NAMES)
def test_contract(name: str, tmp_path: Path) -> None:
    overfit, changed = CASES[name]
    technique = techniques.get(name)
    technique_contract(technique, tmp_path, base=STORIES, overfit=overfit, changed=changed)
