"""Supervised fine-tuning: all parameters, cross entropy on the assistant's tokens only.

Ouyang et al. 2022, "Training language models to follow instructions with human feedback", §3.5 (step 1): the mean over
the supervised tokens of a step of -log p(token | before). Masters in fp32 whatever the compute dtype.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tailorbird.artifacts.parts import Decode, Parts, Prompt
from tailorbird.techniques.base import Learned, Trained, TrainingContext, TrainingSettings, by_width
from tailorbird.types import BaseFacts

if TYPE_CHECKING:
    from torch import Tensor

    from tailorbird.engine.model import Model
    from tailorbird.engine.train import Trainable


class SftSettings(TrainingSettings):
    """Settings of `sft`."""


class Sft(Trained):
    name = "sft"
    citation = "Ouyang et al. 2022, Training language models to follow instructions with human feedback, §3.5"
    revision = 2
    Settings = SftSettings
    makes = frozenset({"weights"})
    beside = frozenset({"soft", "kv"})
    folds = frozenset({"low_rank", "peft", "delta"})

    def defaults(self, base: BaseFacts, rows: int) -> dict[str, Any]:
        large = rows >= 2000
        return {
            "learning_rate": by_width(2e-4 if large else 1e-4, base),
            "epochs": 2 if large else 3,
            "batch_rows": 32 if large else 16,
        }

    def learned(self, settings: TrainingSettings, base: BaseFacts) -> Learned:
        return Learned(base.parameters, whole=True, inputs=True, passes=3.0)

    def trainable(self, model: Model, settings: SftSettings, context: TrainingContext) -> Trainable:
        from tailorbird.engine.train import Trainable

        parameters = dict(model.network.named_parameters())
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        return Trainable(parameters)

    def parts(self, tensors: Mapping[str, Tensor], settings: SftSettings, prompt: Prompt, decode: Decode) -> Parts:
        return Parts(prompt, decode, weights=dict(tensors))
