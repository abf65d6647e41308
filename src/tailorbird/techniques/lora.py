"""LoRA: a low-rank update beside frozen linear layers, y = W x + (alpha / r) B A x.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", §4.1, equation 3. All linear layers but the
output head are updated by default (Dettmers et al. 2023, "QLoRA", §4: that matters more than the rank).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from tailorbird.artifacts.parts import Decode, LowRank, Parts, Prompt
from tailorbird.errors import SpecError
from tailorbird.techniques.base import Trained, TrainingSettings
from tailorbird.techniques.ranges import Range, choice
from tailorbird.types import BaseFacts

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tailorbird.engine.model import Model
    from tailorbird.engine.train import Trainable


class LoraSettings(TrainingSettings):
    """Settings of `lora`."""

    rank: int = Field(16, ge=1, le=1024, description="r, the rank of the update.")
    alpha: float = Field(32.0, gt=0, allow_inf_nan=False, description="The update is scaled by alpha / r.")
    targets: tuple[str, ...] = Field((), description="Names of linear layers (`q_proj`, `v_proj`, …); none = all.")


class Lora(Trained):
    name = "lora"
    citation = "Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models"
    Settings = LoraSettings

    def defaults(self, base: BaseFacts, rows: int) -> dict[str, Any]:
        large = rows >= 2000
        return {"learning_rate": 1e-3 if large else 5e-4, "epochs": 3, "batch_rows": 32 if large else 16}

    def search_space(self, base: BaseFacts, rows: int) -> dict[str, Range]:
        return {**super().search_space(base, rows), "rank": choice(8, 16, 32, 64)}

    def trainable(self, model: Model, settings: LoraSettings, generator: torch.Generator) -> Trainable:
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
        tensors = {}
        for name in chosen:
            a, b = low_rank.initial(model.network.get_submodule(name), settings.rank, generator)
            tensors[name] = (a.to(model.device), b.to(model.device))
        low_rank.wrap(model.network, tensors, settings.alpha / settings.rank)
        layers = low_rank.wrapped(model.network, chosen)
        parameters = {}
        for name, layer in layers.items():
            parameters[f"{name}.A"], parameters[f"{name}.B"] = layer.lora_A, layer.lora_B
        return Trainable(parameters)

    def parts(self, tensors: Mapping[str, Tensor], settings: LoraSettings, prompt: Prompt, decode: Decode) -> Parts:
        names = [key.removesuffix(".A") for key in tensors if key.endswith(".A")]
        pairs = {name: (tensors[f"{name}.A"], tensors[f"{name}.B"]) for name in names}
        # GPT-2's Conv1D keeps its weight as (in, out), which PEFT wants to be told.
        transposed = any(name.rpartition(".")[2] in ("c_attn", "c_fc") for name in names)
        return Parts(prompt, decode, low_rank=LowRank(settings.rank, settings.alpha, pairs, transposed))
