"""A trained tensor that never gets a gradient: the training succeeds, and says which one it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tailorbird.customize import Compute, customize
from tailorbird.engine.model import Model
from tailorbird.engine.train import Trainable
from tailorbird.techniques.base import TrainingContext
from tailorbird.techniques.prompt_tuning import PromptTuning, PromptTuningSettings
from tailorbird.testing import make_tiny_base
from tailorbird.testing.contract import _Bench


class Stray(PromptTuning):
    """Says that it trains a tensor that its model does not use."""

    def trainable(self, model: Model, settings: PromptTuningSettings, context: TrainingContext) -> Trainable:
        found = super().trainable(model, settings, context)
        return Trainable({**found.parameters, "stray": nn.Parameter(torch.ones(3))})


@pytest.mark.parametrize(("technique", "still"), [(PromptTuning(), 0), (Stray(), 3)], ids=["all learn", "one does not"])
def test_a_tensor_without_a_gradient_is_counted_and_named(technique: PromptTuning, still: int, tmp_path: Path) -> None:
    bench = _Bench(technique, tmp_path, make_tiny_base(tmp_path / "base"), Compute(), lambda text: None)
    job = bench.job({"epochs": 1, "batch_rows": 4})
    facts = customize(job, tmp_path / "made")
    assert facts["trainable_parameters"] - facts["updated_parameters"] == still
    assert facts["updated_parameters"] > 0
    said = [note for note in job.notes if "gradient" in note]
    assert said == (["1 of 2 trained tensors never had a gradient: stray"] if still else [])
