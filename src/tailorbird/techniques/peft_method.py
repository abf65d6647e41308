"""The door to other methods of the PEFT library: its layers, in our training, measured and stored like all others.

`dora`: Liu et al. 2024, "DoRA: Weight-Decomposed Low-Rank Adaptation", equation 5: W' = m (W + s B A) / ||W + s B A||,
the direction by LoRA, the magnitude m trained. `ia3`: Liu et al. 2022, "Few-Shot Parameter-Efficient Fine-Tuning is
Better and Cheaper than In-Context Learning", §3.3: outputs scaled by a trained vector. `vera`: Kopiczko et al. 2024,
"VeRA: Vector-based Random Matrix Adaptation", equation 2: random A and B shared by all layers, two trained vectors.
`loha`: Hyeon-Woo et al. 2022, "FedPara", proposition 2: the Hadamard product of two low-rank updates.

Offered is what works as layers over packed rows. Not offered: prompt learning (see `prompt_tuning`), and methods that
need a say in the loop (AdaLoRA's budget) or change the base (PiSSA's initialization).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from tailorbird.artifacts.parts import Decode, Parts, PeftAdapter, Prompt
from tailorbird.errors import SpecError
from tailorbird.techniques.base import Learned, LearningSettings, Trained, TrainingContext, by_width, low_rank_learned
from tailorbird.types import BaseFacts

if TYPE_CHECKING:
    from torch import Tensor

    from tailorbird.engine.model import Model
    from tailorbird.engine.train import Trainable

RANKS = {"dora": 16, "loha": 8, "vera": 256}
MATRICES = ("dora", "loha")  # ia3 and vera train vectors
RATES = {"dora": 5e-4, "ia3": 1e-2, "loha": 1e-3, "vera": 1e-2}


class PeftSettings(LearningSettings):
    """Settings of `peft`."""

    method: Literal["dora", "ia3", "loha", "vera"] = Field("dora", description="Which of PEFT's methods.")
    rank: int | None = Field(None, ge=1, le=1024, description="dora, loha, vera: the rank (16, 8, 256 when not given).")
    alpha: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="dora, loha: scaled by alpha / rank (2 rank when not given).",
    )
    targets: tuple[str, ...] = Field(
        (), description="Names of linear layers; none = all, and for ia3 those that PEFT knows for the base."
    )

    @model_validator(mode="after")
    def _of_this_method(self) -> PeftSettings:
        if self.rank is not None and self.method not in RANKS:
            raise ValueError(f"{self.method} has no rank")
        if self.alpha is not None and self.method not in ("dora", "loha"):
            raise ValueError(f"{self.method} has no alpha")
        return self


class PeftMethod(Trained):
    name = "peft"
    citation = "Liu et al. 2024, DoRA: Weight-Decomposed Low-Rank Adaptation; the methods of the PEFT library"
    Settings = PeftSettings
    makes = frozenset({"peft"})
    goes_on = False  # PEFT's layers are made by PEFT, and put over layers that have none
    beside = frozenset({"soft", "kv", "delta", "weights"})

    def settings(self, asked: Mapping[str, Any], base: BaseFacts, rows: int) -> PeftSettings:
        large = rows >= 2000
        method = str(asked.get("method", "dora"))
        rate = RATES.get(method, 1e-3) * (2 if large else 1)
        rate = by_width(rate, base) if method in MATRICES else rate
        defaults = {"learning_rate": rate, "epochs": 3, "batch_rows": 32 if large else 16}
        return PeftSettings.model_validate({**defaults, **asked})

    def learned(self, settings: PeftSettings, base: BaseFacts) -> Learned:
        """At most: what VeRA and IA3 train is far less, but what their layers keep of a row is not. DoRA's keep a copy
        of the weight and several outputs in fp32: counted on layers of 576 x 1536 with 17 and 385 tokens in a row."""
        weight, output = (5, 9) if settings.method == "dora" else (0, 0)
        least = low_rank_learned(base, settings.rank or RANKS.get(settings.method, 1))
        return replace(least, own_layers=True, weight_bytes=weight, output_bytes=output)

    def trainable(self, model: Model, settings: PeftSettings, context: TrainingContext) -> Trainable:
        import torch

        from tailorbird.engine import low_rank, peft_layers
        from tailorbird.engine.train import Trainable

        if any(hasattr(layer, "base_layer") for layer in model.network.modules()):
            raise SpecError(
                "peft cannot go on with another adapter of PEFT's",
                remedy="start from the one that it was made after, or put sft between, which folds it in",
            )
        names = low_rank.linear_names(model.network, model.output)
        known = sorted({name.rpartition(".")[2] for name in names})
        if unknown := [target for target in settings.targets if target not in known]:
            raise SpecError(
                f"peft targets {unknown} name no linear layer of this base", remedy=f"choose from {', '.join(known)}"
            )
        transposed = any(not hasattr(model.network.get_submodule(name), "in_features") for name in names)
        seed = int(torch.randint(2**31, (1,), generator=context.generator))
        self._layers = peft_layers.made(model.network, _config(settings, known, transposed), seed)
        self._layers.put()
        return Trainable(dict(self._layers.parameters))

    def parts(self, tensors: Mapping[str, Tensor], settings: PeftSettings, prompt: Prompt, decode: Decode) -> Parts:
        adapter = PeftAdapter(self._layers.config, {**self._layers.fixed, **tensors})
        return Parts(prompt, decode, peft=adapter)


def _config(settings: PeftSettings, known: list[str], transposed: bool) -> dict[str, Any]:
    """The method as PEFT's own configuration says it. `transposed`: GPT-2's layers keep their weights as (in, out)."""
    targets = list(settings.targets) or known
    rank = settings.rank or RANKS.get(settings.method, 0)
    alpha = settings.alpha or 2.0 * rank
    match settings.method:
        case "dora":
            own = {"r": rank, "lora_alpha": alpha, "use_dora": True, "fan_in_fan_out": transposed}
            return {"peft_type": "LORA", "target_modules": targets, **own}
        case "ia3":  # outputs are scaled; with PEFT's own choice of layers the last one's inputs, as in the paper
            chosen = {"target_modules": targets, "feedforward_modules": []} if settings.targets else {}
            both = {"target_modules": None, "feedforward_modules": None, **chosen}
            return {"peft_type": "IA3", **both, "fan_in_fan_out": transposed}
        case "vera":
            own = {"r": rank, "projection_prng_key": 0, "save_projection": True, "fan_in_fan_out": transposed}
            return {"peft_type": "VERA", "target_modules": targets, **own}
        case _:
            return {"peft_type": "LOHA", "target_modules": targets, "r": rank, "alpha": alpha}
