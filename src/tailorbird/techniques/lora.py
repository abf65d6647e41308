"""LoRA: a low-rank update beside frozen linear layers, y = W x + (alpha / r) B A x.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", §4.1, equation 3. All linear layers but the
output head are updated by default (Dettmers et al. 2023, "QLoRA", §4: that matters more than the rank). `rslora` scales
by alpha / sqrt(r), with which large ranks go on learning (Kalajdzievski 2023, "A Rank Stabilization Scaling Factor for
Fine-Tuning with LoRA", theorem 3.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from tailorbird.artifacts.parts import Decode, LowRank, Parts, Prompt
from tailorbird.errors import SpecError
from tailorbird.techniques.base import (
    NOTHING,
    Learned,
    Trained,
    TrainingContext,
    TrainingSettings,
    by_width,
    low_rank_learned,
)
from tailorbird.techniques.ranges import Range, choice
from tailorbird.types import BaseFacts

if TYPE_CHECKING:
    from torch import Tensor

    from tailorbird.engine.low_rank import LowRankLinear
    from tailorbird.engine.model import Model
    from tailorbird.engine.train import Trainable


class LoraSettings(TrainingSettings):
    """Settings of `lora`."""

    rank: int = Field(16, ge=1, le=1024, description="r, the rank of the update.")
    alpha: float = Field(32.0, gt=0, allow_inf_nan=False, description="The update is scaled by alpha / r.")
    rslora: bool = Field(False, description="Scale by alpha / sqrt(r) instead (rsLoRA): for large ranks.")
    targets: tuple[str, ...] = Field((), description="Names of linear layers (`q_proj`, `v_proj`, …); none = all.")


class Lora(Trained):
    name = "lora"
    citation = "Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models"
    Settings = LoraSettings
    makes = frozenset({"low_rank"})
    beside = frozenset({"soft", "kv", "delta", "weights"})

    def defaults(self, base: BaseFacts, rows: int) -> dict[str, Any]:
        large = rows >= 2000
        rate = by_width(1e-3 if large else 5e-4, base)
        return {"learning_rate": rate, "epochs": 3, "batch_rows": 32 if large else 16}

    def search_space(self, base: BaseFacts, rows: int, asked: Mapping[str, Any] = NOTHING) -> dict[str, Range]:
        return {**super().search_space(base, rows, asked), "rank": choice(8, 16, 32, 64)}

    def learned(self, settings: LoraSettings, base: BaseFacts) -> Learned:
        return low_rank_learned(base, settings.rank)

    def shape(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        own = {name: settings[name] for name in ("rank", "alpha", "rslora")}
        return {**own, "targets": sorted(settings["targets"])}

    def trainable(self, model: Model, settings: LoraSettings, context: TrainingContext) -> Trainable:
        from tailorbird.engine import low_rank
        from tailorbird.engine.train import Trainable

        names = low_rank.linear_names(model.network, model.output)
        known = sorted({name.rpartition(".")[2] for name in names})
        unknown = [target for target in settings.targets if target not in known]
        if unknown:
            raise SpecError(
                f"lora targets {unknown} name no linear layer of this base", remedy=f"choose from {', '.join(known)}"
            )
        chosen = [name for name in names if not settings.targets or name.rpartition(".")[2] in settings.targets]
        layers = low_rank.present(model.network)
        if layers:  # a parent's, which this one goes on with
            _same_shape(layers, chosen, settings)
            for layer in layers.values():  # the parent's own tensors stay as they are: a training may begin again
                layer.lora_A.data, layer.lora_B.data = layer.lora_A.data.clone(), layer.lora_B.data.clone()
        else:
            tensors = {}
            for name in chosen:
                a, b = low_rank.initial(model.network.get_submodule(name), settings.rank, context.generator)
                tensors[name] = (a.to(model.device), b.to(model.device))
            low_rank.wrap(model.network, tensors, _scale(settings))
            layers = low_rank.present(model.network)
        parameters = {}
        for name, layer in layers.items():
            layer.lora_A.requires_grad_(True), layer.lora_B.requires_grad_(True)
            parameters[f"{name}.A"], parameters[f"{name}.B"] = layer.lora_A, layer.lora_B
        return Trainable(parameters)

    def parts(self, tensors: Mapping[str, Tensor], settings: LoraSettings, prompt: Prompt, decode: Decode) -> Parts:
        names = [key.removesuffix(".A") for key in tensors if key.endswith(".A")]
        pairs = {name: (tensors[f"{name}.A"], tensors[f"{name}.B"]) for name in names}
        # GPT-2's Conv1D keeps its weight as (in, out), which PEFT wants to be told.
        transposed = any(name.rpartition(".")[2] in ("c_attn", "c_fc") for name in names)
        update = LowRank(settings.rank, settings.alpha, pairs, transposed, settings.rslora, settings.dropout)
        return Parts(prompt, decode, low_rank=update)


def _scale(settings: LoraSettings) -> float:
    return LowRank(settings.rank, settings.alpha, {}, rslora=settings.rslora).scale


def _same_shape(layers: Mapping[str, LowRankLinear], chosen: list[str], settings: LoraSettings) -> None:
    """SpecError unless the low-rank layers in place are those that these settings would make."""
    first = next(iter(layers.values()))
    rank = int(first.lora_A.shape[0])
    if rank != settings.rank:
        raise SpecError(
            f"lora goes on with a LoRA of rank {rank}, and rank {settings.rank} is asked for",
            remedy=f"set rank: {rank}",
        )
    if abs(first.scale - _scale(settings)) > 1e-9 * first.scale:
        raise SpecError(
            f"lora goes on with a LoRA scaled by {first.scale:g}, and these settings scale by {_scale(settings):g}",
            remedy="set alpha and rslora as they were",
        )
    if set(layers) != set(chosen):
        were = ", ".join(sorted({name.rpartition(".")[2] for name in layers}))
        raise SpecError("lora goes on with a LoRA of other layers", remedy=f"set targets: [{were}]")
