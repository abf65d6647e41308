"""Prompt tuning: a `total_virtual_tokens x hidden_size` matrix P before the embedded text; the base stays frozen.

Lester et al. 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning", §2: maximize log Pr(Y | [P; X]) over P
alone. §3.2: P starts from embeddings of tokens sampled among the 5,000 most common, or of a text such as the task's own
words (class labels in the paper). Nothing else is changed, so other tasks cannot be.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from tailorbird.artifacts.parts import Decode, Parts, Prompt
from tailorbird.errors import SpecError
from tailorbird.techniques.base import NOTHING, Learned, Trained, TrainingContext, TrainingSettings
from tailorbird.techniques.ranges import Range, choice
from tailorbird.types import BaseFacts

if TYPE_CHECKING:
    from torch import Tensor

    from tailorbird.engine.model import Model
    from tailorbird.engine.train import Trainable


class PromptTuningSettings(TrainingSettings):
    """Settings of `prompt_tuning`."""

    total_virtual_tokens: int = Field(20, ge=1, le=2048, description="Rows of the trained matrix.")
    initialization: Literal["vocabulary", "text", "random"] = Field(
        "vocabulary",
        description="Start from embeddings of sampled common tokens, of a text, or from noise as widely spread.",
    )
    initialization_text: str | None = Field(
        None,
        min_length=1,
        description="initialization: text: which one, repeated or cut to fit; none = the task's own words.",
    )

    @model_validator(mode="after")
    def _text_of_text(self) -> PromptTuningSettings:
        if self.initialization_text is not None and self.initialization != "text":
            raise ValueError(
                f"initialization_text is for initialization: text, and initialization is {self.initialization}"
            )
        return self


class PromptTuning(Trained):
    name = "prompt_tuning"
    citation = "Lester et al. 2021, The Power of Scale for Parameter-Efficient Prompt Tuning"
    revision = 2
    Settings = PromptTuningSettings
    makes = frozenset({"soft"})
    begins = frozenset({"initialization", "initialization_text"})
    beside = frozenset({"low_rank", "peft", "delta", "weights"})

    def defaults(self, base: BaseFacts, rows: int) -> dict[str, Any]:
        large = rows >= 2000
        return {"learning_rate": 0.05, "epochs": 3 if large else 6, "batch_rows": 32 if large else 16}

    def search_space(self, base: BaseFacts, rows: int, asked: Mapping[str, Any] = NOTHING) -> dict[str, Range]:
        space = {**super().search_space(base, rows, asked), "total_virtual_tokens": choice(10, 20, 50)}
        if "initialization_text" not in asked:
            space["initialization"] = choice("vocabulary", "text")
        return space

    def learned(self, settings: PromptTuningSettings, base: BaseFacts) -> Learned:
        tokens = settings.total_virtual_tokens
        return Learned(tokens * base.hidden_size, virtual_tokens=tokens)

    def shape(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        return {"total_virtual_tokens": settings["total_virtual_tokens"]}

    def trainable(self, model: Model, settings: PromptTuningSettings, context: TrainingContext) -> Trainable:
        import torch

        from tailorbird.engine.train import Trainable

        embeddings = model.embedding_weight.detach()

        def rows(ids: Tensor) -> Tensor:
            """As the base's own module looks them up: some scale what they look up."""
            with torch.no_grad():
                found: Tensor = model.embeddings(ids.to(embeddings.device))
            return found.float().clone()

        count = settings.total_virtual_tokens
        if model.soft is not None:  # a parent's, which this one goes on with
            if model.virtual_tokens != count:
                raise SpecError(
                    f"prompt_tuning goes on with {model.virtual_tokens} virtual tokens, and {count} are asked for",
                    remedy=f"set total_virtual_tokens: {model.virtual_tokens}",
                )
            start = model.soft.detach().float().clone()
        elif settings.initialization == "vocabulary":
            start = rows(torch.tensor(context.sampled_ids(count)))
        elif settings.initialization == "text":
            ids = context.text_ids(settings.initialization_text, count)
            start = rows(torch.tensor(ids))
        else:
            noise = torch.randn(count, embeddings.shape[1], generator=context.generator)
            start = noise.to(embeddings.device) * embeddings.float().std()
        model.soft = torch.nn.Parameter(start)
        return Trainable({"prompt_embeddings": model.soft})

    def parts(
        self, tensors: Mapping[str, Tensor], settings: PromptTuningSettings, prompt: Prompt, decode: Decode
    ) -> Parts:
        return Parts(prompt, decode, soft=tensors["prompt_embeddings"])
