"""Every technique on the shelf passes the contract, on a small pretrained base (260 k parameters)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tailorbird import techniques
from tailorbird.testing import technique_contract
from tailorbird.testing.cases import CASES

STORIES = Path(__file__).parents[1] / "fixtures" / "stories260k"
OVERFIT: dict[str, dict[str, Any]] = {  # learn eight rows by heart; quicker than on a random base
    "zero_shot": {},
    "few_shot": {},
    "prompt_tuning": {"learning_rate": 0.3, "epochs": 100, "batch_rows": 8},
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
