"""P-tuning: virtual tokens that a small encoder makes, P = f(E); E and f are trained, the base stays frozen.

Liu et al. 2021, "GPT Understands, Too", §3.2: h_i = MLP([LSTM forward (h_0..h_i); LSTM backward (h_i..h_m)]), so that
the virtual tokens depend on one another. `mlp` is the encoder that NeMo and PEFT take instead. Layouts and names of
tensors are PEFT's:

    mlp     Linear, ReLU, Linear, ReLU, Linear             over E (total_virtual_tokens x hidden_size)
    lstm    bidirectional LSTM, then Linear, ReLU, Linear  over E; dropout between the LSTM's layers

After training P is computed once, without dropout, and is all that answers: a soft prompt as `prompt_tuning` makes it
(§3.2: "we only need the output embedding h and can discard the LSTM head"). The encoder stays beside it for `after:`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from tailorbird.artifacts.parts import Decode, Parts, Prompt
from tailorbird.errors import ArtifactError, SpecError
from tailorbird.techniques.base import NOTHING, Learned, Trained, TrainingContext, TrainingSettings
from tailorbird.techniques.ranges import Range, choice
from tailorbird.types import BaseFacts

if TYPE_CHECKING:
    from torch import Tensor

    from tailorbird.engine.model import Model
    from tailorbird.engine.train import Trainable

LSTM_LAYERS = 2
ROUNDING = 1e-4  # of the table's largest value: between machines; on one and the same it is 0


class PTuningSettings(TrainingSettings):
    """Settings of `p_tuning`."""

    total_virtual_tokens: int = Field(20, ge=1, le=2048, description="Virtual tokens that the encoder makes.")
    encoder: Literal["mlp", "lstm"] = Field("mlp", description="What makes them: three linear layers, or an LSTM.")
    encoder_hidden_size: int = Field(ge=1, le=16384, description="Width of the encoder (of each direction of an LSTM).")
    encoder_layers: int | None = Field(None, ge=1, le=16, description="lstm: how many layers (2 when not given).")
    encoder_dropout: float | None = Field(
        None, ge=0, lt=1, description="lstm: share dropped between its layers (0 when not given)."
    )
    keep_optimizer: bool = Field(
        True, description="Keep the optimizer's state beside the encoder: `after:` goes on with both."
    )

    @model_validator(mode="after")
    def _of_an_lstm(self) -> PTuningSettings:
        given = [name for name in ("encoder_layers", "encoder_dropout") if getattr(self, name) is not None]
        if given and self.encoder != "lstm":
            raise ValueError(f"{given[0]} is for encoder: lstm, and encoder is {self.encoder}")
        if self.encoder_dropout and self.encoder_layers == 1:
            raise ValueError("encoder_dropout is between layers, and encoder_layers is 1")
        return self

    def shapes(self, hidden: int) -> dict[str, tuple[int, ...]]:
        """Of the encoder's tensors, by PEFT's names."""
        e, width = self.encoder_hidden_size, hidden
        sizes = [hidden, e, e, hidden]
        shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (self.total_virtual_tokens, hidden)}
        if self.encoder == "lstm":
            for layer in range(self.encoder_layers or LSTM_LAYERS):
                for way in ("", "_reverse"):
                    shapes[f"lstm_head.weight_ih_l{layer}{way}"] = (4 * e, width)
                    shapes[f"lstm_head.weight_hh_l{layer}{way}"] = (4 * e, e)
                    shapes |= {f"lstm_head.bias_{kind}_l{layer}{way}": (4 * e,) for kind in ("ih", "hh")}
                width = 2 * e
            sizes = [width, width, hidden]
        for number, (inputs, outputs) in enumerate(pairwise(sizes)):
            shapes[f"mlp_head.{2 * number}.weight"] = (outputs, inputs)
            shapes[f"mlp_head.{2 * number}.bias"] = (outputs,)
        return shapes


def encoded(tensors: Mapping[str, Tensor], drop: Callable[[str, Tensor], Tensor] = lambda name, x: x) -> Tensor:
    """f(E), (total_virtual_tokens, hidden_size). `drop(name, x)`: dropout between LSTM layers, while it is trained."""
    import torch
    from torch.nn import functional as F

    x, layer = tensors["embedding.weight"], 0
    while f"lstm_head.weight_ih_l{layer}" in tensors:
        x = x if layer == 0 else drop(f"lstm_head.{layer}", x)
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        weights = [tensors[f"lstm_head.{kind}_l{layer}{way}"] for way in ("", "_reverse") for kind in kinds]
        zero = x.new_zeros(2, 1, weights[1].shape[1])
        # One layer at a time: torch's own dropout between layers draws from the one global generator. In training mode,
        # which differs in that dropout alone: cuDNN goes backward in no other.
        x = torch.lstm(x.unsqueeze(0), (zero, zero), weights, True, 1, 0.0, True, True, True)[0][0]
        layer += 1
    number = 0
    while f"mlp_head.{number}.weight" in tensors:
        x = x if number == 0 else x.relu()
        x = F.linear(x, tensors[f"mlp_head.{number}.weight"], tensors[f"mlp_head.{number}.bias"])
        number += 2
    return x


class PTuning(Trained):
    name = "p_tuning"
    citation = "Liu et al. 2021, GPT Understands, Too"
    Settings = PTuningSettings
    makes = frozenset({"soft"})
    beside = frozenset({"low_rank", "peft", "delta", "weights"})
    own_only = frozenset({"soft"})  # a table cannot be turned back into the encoder that made it
    state_folder = "prompt_encoder"

    def defaults(self, base: BaseFacts, rows: int) -> dict[str, Any]:
        large = rows >= 2000
        own = {"learning_rate": 1e-3, "epochs": 3 if large else 6, "batch_rows": 32 if large else 16}
        return {**own, "encoder_hidden_size": base.hidden_size}

    def search_space(self, base: BaseFacts, rows: int, asked: Mapping[str, Any] = NOTHING) -> dict[str, Range]:
        space = {**super().search_space(base, rows, asked), "total_virtual_tokens": choice(10, 20, 50)}
        if not {"encoder_layers", "encoder_dropout"} & asked.keys():
            space["encoder"] = choice("mlp", "lstm")
        return space

    def learned(self, settings: PTuningSettings, base: BaseFacts) -> Learned:
        parameters = sum(math.prod(shape) for shape in settings.shapes(base.hidden_size).values())
        return Learned(parameters, virtual_tokens=settings.total_virtual_tokens)

    def shape(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        own = {name: settings[name] for name in ("total_virtual_tokens", "encoder", "encoder_hidden_size")}
        return {
            **own,
            "encoder_layers": (settings["encoder_layers"] or LSTM_LAYERS) if own["encoder"] == "lstm" else None,
        }

    def trainable(self, model: Model, settings: PTuningSettings, context: TrainingContext) -> Trainable:
        from torch import nn

        from tailorbird.engine.dropout import Dropout
        from tailorbird.engine.train import Trainable

        shapes = settings.shapes(model.hidden_size)
        if model.soft is None:
            tensors: Mapping[str, Tensor] = _initial(shapes, settings.encoder_hidden_size, context)
        else:  # a parent's table, made by the encoder that it kept
            tensors = _going_on(model.soft, shapes, context)
        parameters = {name: nn.Parameter(tensor.to(model.device, copy=True)) for name, tensor in tensors.items()}
        dropout = Dropout(settings.encoder_dropout or 0.0)

        def encoder(keys: Tensor | None) -> Tensor:
            with dropout.over(keys):
                return encoded(parameters, lambda name, x: dropout.layer(name)(x))

        model.soft, model.soft_encoder = encoded(parameters).detach(), encoder
        return Trainable(parameters)

    def parts(self, tensors: Mapping[str, Tensor], settings: PTuningSettings, prompt: Prompt, decode: Decode) -> Parts:
        return Parts(prompt, decode, soft=encoded(tensors).detach())

    def kept(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return dict(tensors)


def _initial(shapes: Mapping[str, tuple[int, ...]], width: int, context: TrainingContext) -> dict[str, Tensor]:
    """As torch begins such layers: E normal, the rest uniform within 1 / sqrt(inputs), an LSTM's 1 / sqrt(width)."""
    import torch

    found = {}
    for name, shape in shapes.items():
        if name == "embedding.weight":
            found[name] = torch.randn(shape, generator=context.generator)
            continue
        inputs = width if name.startswith("lstm_head") else shapes[name.replace("bias", "weight")][1]
        bound = 1.0 / math.sqrt(inputs)
        found[name] = torch.empty(shape).uniform_(-bound, bound, generator=context.generator)
    return found


def _going_on(table: Tensor, shapes: Mapping[str, tuple[int, ...]], context: TrainingContext) -> Mapping[str, Tensor]:
    """The encoder that the parent kept, if it is of these settings and gives the parent's table."""
    if not context.kept:
        raise ArtifactError(
            "prompt_encoder/encoder.safetensors is missing: p_tuning goes on with the encoder, not with its table",
            remedy="copy the whole folder again, or take prompt_tuning, which goes on with the table",
        )
    found = {name: tuple(tensor.shape) for name, tensor in context.kept.items()}
    if found != shapes:
        name = min(n for n in found.keys() | shapes.keys() if found.get(n) != shapes.get(n))
        raise SpecError(
            f"p_tuning goes on with an encoder whose {name} is {found.get(name, 'missing')}, and these settings make "
            f"{shapes.get(name, 'none')}",
            remedy="set total_virtual_tokens, encoder, encoder_hidden_size and encoder_layers as they were",
        )
    apart = float((encoded(context.kept) - table.to(context.kept["embedding.weight"])).abs().max())
    if not apart <= ROUNDING * float(table.abs().max()):
        raise ArtifactError(
            f"prompt_encoder/encoder.safetensors does not give the table beside it: they are {apart:.2g} apart",
            remedy="copy the whole folder again, or run its spec again",
        )
    return context.kept
