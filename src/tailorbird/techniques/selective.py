"""Selective updating: a few of the base's own parameters learn, the rest stays as it is.

`biases`: Ben Zaken et al. 2022, "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked
Language-models", §3: all bias terms, those of normalization layers among them. `norms`: the gains (and biases) of the
normalization layers (Zhao et al. 2024, "Tuning LayerNorm in Attention", §3). `last_layers`: the last n blocks.
Not parameters beside the base as in LoRA: nothing is added, an answer costs what the base's own costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from tailorbird.artifacts.parts import Decode, Parts, Prompt
from tailorbird.errors import SpecError
from tailorbird.techniques.base import NOTHING, Learned, Trained, TrainingContext, TrainingSettings, by_width
from tailorbird.techniques.ranges import Range
from tailorbird.types import BaseFacts

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tailorbird.engine.model import Model
    from tailorbird.engine.train import Trainable


class SelectiveSettings(TrainingSettings):
    """Settings of `selective`."""

    update: Literal["biases", "norms", "last_layers"] = Field(
        "last_layers", description="Which parameters of the base learn: all biases, the norms, or the last blocks."
    )
    layers: int | None = Field(
        None, ge=1, le=1000, description="last_layers: how many blocks, counted from the end (1 when not given)."
    )

    @model_validator(mode="after")
    def _fits_what_is_updated(self) -> SelectiveSettings:
        if self.layers is not None and self.update != "last_layers":
            raise ValueError(f"layers is for update: last_layers, and update is {self.update}")
        if self.weight_decay and self.update != "last_layers":
            raise ValueError(f"weight_decay is for matrices, and {self.update} are vectors")
        return self


class Selective(Trained):
    name = "selective"
    citation = "Ben Zaken et al. 2022, BitFit: Simple Parameter-efficient Fine-tuning (biases)"
    revision = 2
    Settings = SelectiveSettings
    makes = frozenset({"delta"})
    beside = frozenset({"soft", "kv", "low_rank", "peft", "weights"})

    def settings(self, asked: Mapping[str, Any], base: BaseFacts, rows: int) -> SelectiveSettings:
        """A few vectors stand a rate ten times that of whole blocks, and as much of it at every width."""
        large = rows >= 2000
        vectors = asked.get("update", "last_layers") != "last_layers"
        if vectors:
            rate = 5e-3 if large else 2e-3
        else:
            rate = by_width(5e-4 if large else 2e-4, base)
        defaults = {"learning_rate": rate, "epochs": 3, "batch_rows": 32 if large else 16}
        return SelectiveSettings.model_validate({**defaults, **asked})

    def search_space(self, base: BaseFacts, rows: int, asked: Mapping[str, Any] = NOTHING) -> dict[str, Range]:
        space = super().search_space(base, rows, asked)
        if asked.get("update", "last_layers") != "last_layers":
            del space["weight_decay"]  # on matrices only
        return space

    def learned(self, settings: SelectiveSettings, base: BaseFacts) -> Learned:
        """Of biases and norms: a few vectors of each layer."""
        h, q, k, wide = (
            base.hidden_size, base.heads * base.head_dim, base.kv_heads * base.head_dim, base.intermediate_size,
        )  # fmt: skip
        if settings.update != "last_layers":
            return Learned((base.layers * (5 * h + q + 2 * k + 2 * wide)) + h)
        count = min(settings.layers or 1, base.layers)
        each = 2 * h * (q + k) + 3 * h * wide + 2 * h
        return Learned(count * each, inputs=True, layers=count, passes=1 + 2 * count / base.layers)

    def chooses(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        blocks = (settings["layers"] or 1) if settings["update"] == "last_layers" else None
        return {"update": settings["update"], "layers": blocks}

    def trainable(self, model: Model, settings: SelectiveSettings, context: TrainingContext) -> Trainable:
        from tailorbird.engine.low_rank import base_parameters
        from tailorbird.engine.train import Trainable

        own = base_parameters(model.network)
        wanted = _wanted(model, own, settings)
        chosen = [name for name in own if name in wanted]
        if not chosen:
            raise SpecError(
                f"this base ({type(model.network).__name__}) has no {settings.update} to update",
                remedy="set update: norms or update: last_layers; many bases (Llama, SmolLM2) have no biases at all",
            )
        for name in chosen:
            own[name].requires_grad_(True)
        return Trainable({name: own[name] for name in chosen})

    def parts(
        self, tensors: Mapping[str, Tensor], settings: SelectiveSettings, prompt: Prompt, decode: Decode
    ) -> Parts:
        return Parts(prompt, decode, delta=dict(tensors))


def _wanted(model: Model, own: Mapping[str, nn.Parameter], settings: SelectiveSettings) -> set[str]:
    """Names of the parameters that learn."""
    network: nn.Module = model.network
    if settings.update == "biases":
        return {name for name in own if name.rpartition(".")[2] == "bias"}
    if settings.update == "norms":
        norms = {name for name, module in network.named_modules() if "Norm" in type(module).__name__}
        return {name for name in own if name.rpartition(".")[0] in norms}
    blocks, count = list(model.layers), settings.layers or 1
    if count > len(blocks):
        raise SpecError(f"this base has {len(blocks)} blocks, the last {count} are asked for", remedy="fewer layers")
    learned = {id(parameter) for block in blocks[-count:] for parameter in block.parameters()}
    return {name for name, parameter in own.items() if id(parameter) in learned}
