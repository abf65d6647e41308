"""A technique of one's own: a soft prompt before the text, and the base's biases and norms tuned with it.

The matrix P of Lester et al. 2021 ("The Power of Scale for Parameter-Efficient Prompt Tuning", §2) tells the model what
is asked; the few vectors of Ben Zaken et al. 2022 ("BitFit", §3) let it answer so. Both together are still under a
hundredth of the weights. docs/extending.md says how it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from tailorbird.artifacts.parts import Decode, Parts, Prompt
from tailorbird.techniques.base import Trained, TrainingSettings
from tailorbird.types import BaseFacts

TABLE = "prompt_embeddings"


class SoftPromptAndBiasesSettings(TrainingSettings):
    """Settings of `soft_prompt_and_biases`."""

    total_virtual_tokens: int = Field(8, ge=1, le=2048, description="Rows of the trained matrix.")
    norms: bool = Field(True, description="Tune the gains of the normalization layers, too: many bases have no biases.")


class SoftPromptAndBiases(Trained):
    name = "soft_prompt_and_biases"
    citation = "Lester et al. 2021 (prompt tuning) with Ben Zaken et al. 2022 (BitFit)"
    Settings = SoftPromptAndBiasesSettings
    makes = frozenset({"soft", "delta"})

    def defaults(self, base: BaseFacts, rows: int) -> dict[str, Any]:
        return {"learning_rate": 0.01, "epochs": 6 if rows < 2000 else 3, "batch_rows": 16}

    def trainable(self, model: Any, settings: SoftPromptAndBiasesSettings, context: Any) -> Any:
        import torch

        from tailorbird.engine.low_rank import base_parameters
        from tailorbird.engine.train import Trainable

        embeddings = model.embedding_weight.detach().float()
        sampled = torch.randint(embeddings.shape[0], (settings.total_virtual_tokens,), generator=context.generator)
        model.soft = torch.nn.Parameter(embeddings[sampled.to(embeddings.device)].clone())
        norms = {name for name, module in model.network.named_modules() if "Norm" in type(module).__name__}
        tuned = {
            name: parameter
            for name, parameter in base_parameters(model.network).items()
            if name.endswith(".bias") or (settings.norms and name.rpartition(".")[0] in norms)
        }
        for parameter in tuned.values():
            parameter.requires_grad_(True)
        return Trainable({TABLE: model.soft, **tuned})

    def parts(
        self, tensors: Mapping[str, Any], settings: SoftPromptAndBiasesSettings, prompt: Prompt, decode: Decode
    ) -> Parts:
        values = {name: tensor for name, tensor in tensors.items() if name != TABLE}
        return Parts(prompt, decode, soft=tensors[TABLE], delta=values or None)
