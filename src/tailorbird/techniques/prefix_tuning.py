"""Prefix tuning: in every layer trained keys and values P_K, P_V before those of the text; the base stays frozen.

Li & Liang 2021, "Prefix-Tuning: Optimizing Continuous Prompts for Generation", §4.2: the activations of a prefix are
free parameters, at all layers; Liu et al. 2022, "P-Tuning v2", §3.2, without the reparameterization that the first
trains through:

    head = softmax(q [P_K; K]^T / sqrt(D)) [P_V; V]

They start from the keys and values that the base itself has for a text (§7.4 of the first: the task's own words are
better than noise), keys after rotation, at the positions 0 to n - 1, n = total_virtual_tokens; the text starts at n.
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


class PrefixTuningSettings(TrainingSettings):
    """Settings of `prefix_tuning`."""

    total_virtual_tokens: int = Field(20, ge=1, le=2048, description="Pairs of a key and a value, in every layer.")
    initialization: Literal["text", "random"] = Field(
        "text",
        description="Start from the base's own keys and values for a text, or from noise of the same spread.",
    )
    initialization_text: str | None = Field(
        None, min_length=1, description="Which text, repeated or cut to fit; none = the task's own words."
    )

    @model_validator(mode="after")
    def _text_of_text(self) -> PrefixTuningSettings:
        if self.initialization_text is not None and self.initialization != "text":
            raise ValueError(
                f"initialization_text is for initialization: text, and initialization is {self.initialization}"
            )
        return self


class PrefixTuning(Trained):
    name = "prefix_tuning"
    citation = "Li & Liang 2021, Prefix-Tuning: Optimizing Continuous Prompts for Generation"
    revision = 2
    Settings = PrefixTuningSettings
    makes = frozenset({"kv"})
    begins = frozenset({"initialization", "initialization_text"})
    beside = frozenset({"low_rank", "peft", "delta", "weights"})

    def defaults(self, base: BaseFacts, rows: int) -> dict[str, Any]:
        large = rows >= 2000
        return {"learning_rate": 0.01, "epochs": 3 if large else 6, "batch_rows": 32 if large else 16}

    def search_space(self, base: BaseFacts, rows: int, asked: Mapping[str, Any] = NOTHING) -> dict[str, Range]:
        space = {**super().search_space(base, rows, asked), "total_virtual_tokens": choice(10, 20, 50)}
        if "initialization_text" not in asked:
            space["initialization"] = choice("text", "random")
        return space

    def learned(self, settings: PrefixTuningSettings, base: BaseFacts) -> Learned:
        pairs = settings.total_virtual_tokens
        return Learned(pairs * base.layers * 2 * base.kv_heads * base.head_dim, pairs=pairs)

    def shape(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        return {"total_virtual_tokens": settings["total_virtual_tokens"]}

    def trainable(self, model: Model, settings: PrefixTuningSettings, context: TrainingContext) -> Trainable:
        import torch

        from tailorbird.engine.train import Trainable

        count = settings.total_virtual_tokens
        if model.kv is not None and model.pairs != count:  # a parent's, which this one goes on with
            raise SpecError(
                f"prefix_tuning goes on with {model.pairs} pairs, and {count} are asked for",
                remedy=f"set total_virtual_tokens: {model.pairs}",
            )
        start = model.kv if model.kv is not None else _start(model, settings, context)
        model.kv = torch.nn.Parameter(start.detach().float().clone())
        return Trainable({"prefix": model.kv})

    def parts(
        self, tensors: Mapping[str, Tensor], settings: PrefixTuningSettings, prompt: Prompt, decode: Decode
    ) -> Parts:
        return Parts(prompt, decode, kv=tensors["prefix"])


def _start(model: Model, settings: PrefixTuningSettings, context: TrainingContext) -> Tensor:
    """(layers, 2, G, n, D): the base's own keys and values for a text, or noise as widely spread as those of sampled
    common tokens, in each layer."""
    import torch

    count = settings.total_virtual_tokens
    if settings.initialization == "text":
        return _activations(model, context.text_ids(settings.initialization_text, count))
    own = _activations(model, context.sampled_ids(count))
    noise = torch.randn(own.shape, generator=context.generator).to(own)
    return noise * own.std(dim=(2, 3, 4), keepdim=True)


def _activations(model: Model, ids: list[int]) -> Tensor:
    import torch

    found = model.cache_head(ids)
    assert found is not None  # there is at least one id
    pairs = zip(found.keys, found.values, strict=True)
    return torch.stack([torch.cat([key, value]) for key, value in pairs]).float()
