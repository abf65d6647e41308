"""Prompt tuning: a `total_virtual_tokens x hidden_size` matrix P before the embedded text; the base stays frozen.

Lester et al. 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning", §2: maximize log Pr(Y | [P; X]) over P
alone. §3.2: P starts from embeddings of sampled vocabulary. Nothing else is changed, so other tasks cannot be.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from tailorbird.artifacts.parts import Decode, Parts, Prompt
from tailorbird.errors import SpecError
from tailorbird.techniques.base import NOTHING, Trained, TrainingSettings
from tailorbird.techniques.ranges import Range, choice
from tailorbird.types import BaseFacts

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tailorbird.engine.model import Model
    from tailorbird.engine.train import Trainable


class PromptTuningSettings(TrainingSettings):
    """Settings of `prompt_tuning`."""

    total_virtual_tokens: int = Field(20, ge=1, le=2048, description="Rows of the trained matrix.")
    initialization: Literal["vocabulary", "random"] = Field(
        "vocabulary", description="Start from embeddings of sampled tokens, or from noise of the embeddings' spread."
    )


class PromptTuning(Trained):
    name = "prompt_tuning"
    citation = "Lester et al. 2021, The Power of Scale for Parameter-Efficient Prompt Tuning"
    Settings = PromptTuningSettings
    makes = frozenset({"soft"})
    beside = frozenset({"low_rank", "peft", "delta", "weights"})

    def defaults(self, base: BaseFacts, rows: int) -> dict[str, Any]:
        large = rows >= 2000
        return {"learning_rate": 0.05, "epochs": 3 if large else 6, "batch_rows": 32 if large else 16}

    def search_space(self, base: BaseFacts, rows: int, asked: Mapping[str, Any] = NOTHING) -> dict[str, Range]:
        return {**super().search_space(base, rows, asked), "total_virtual_tokens": choice(10, 20, 50)}

    def trainable(self, model: Model, settings: PromptTuningSettings, generator: torch.Generator) -> Trainable:
        import torch

        from tailorbird.engine.train import Trainable

        embeddings = model.embedding_weight.detach().float()
        count = settings.total_virtual_tokens
        if model.soft is not None:  # a parent's, which this one goes on with
            if model.virtual_tokens != count:
                raise SpecError(
                    f"prompt_tuning goes on with {model.virtual_tokens} virtual tokens, and {count} are asked for",
                    remedy=f"set total_virtual_tokens: {model.virtual_tokens}",
                )
            start = model.soft.detach().float().clone()
        elif settings.initialization == "vocabulary":
            chosen = torch.randint(embeddings.shape[0], (count,), generator=generator)
            start = embeddings[chosen.to(embeddings.device)].clone()
        else:
            noise = torch.randn(count, embeddings.shape[1], generator=generator)
            start = noise.to(embeddings.device) * embeddings.std()
        model.soft = torch.nn.Parameter(start)
        return Trainable({"prompt_embeddings": model.soft})

    def parts(
        self, tensors: Mapping[str, Tensor], settings: PromptTuningSettings, prompt: Prompt, decode: Decode
    ) -> Parts:
        return Parts(prompt, decode, soft=tensors["prompt_embeddings"])
