"""LoRA's linear layer: y = W x + b + (alpha / r) B A x, with W frozen.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", §4.1, equation 3. A (r, in) starts uniform as
`nn.Linear` does (Kaiming, a = sqrt 5), B (out, r) starts at zero, so that training begins at the base itself.
The layout of names and tensors is PEFT's, which is the oracle in tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _same(x: Tensor) -> Tensor:
    return x


class LowRankLinear(nn.Module):
    """Wraps a linear layer (nn.Linear, or transformers' Conv1D whose weight is (in, out))."""

    def __init__(self, base: nn.Module, a: Tensor, b: Tensor, scale: float) -> None:
        super().__init__()
        self.base = base
        self.lora_A, self.lora_B = nn.Parameter(a), nn.Parameter(b)
        self.scale = scale
        self.drop: Callable[[Tensor], Tensor] = _same  # dropout of the input of A, while training

    @property
    def plain(self) -> bool:
        """Whether `forward` is the formula above alone, which the kernels compute in their own way."""
        return self.drop is _same or getattr(self.drop, "off", False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        low = F.linear(self.drop(x), self.lora_A.to(x.dtype))
        # The scale meets B, not the tokens, and the sum is part of the product: two passes over the output less.
        update = (self.lora_B * self.scale).to(x.dtype)
        out.view(-1, out.shape[-1]).addmm_(low.flatten(0, -2), update.t())
        return out


def sizes(layer: nn.Module) -> tuple[int, int]:
    """(in, out) of a linear layer."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    weight = layer.weight  # Conv1D
    return int(weight.shape[0]), int(weight.shape[1])  # type: ignore[union-attr, operator, index]


def is_linear(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or type(layer).__name__ == "Conv1D"


def linear_names(network: nn.Module, output: nn.Module | None) -> list[str]:
    """All linear layers but the output head, as dotted names in the network's order; a wrapped layer counts under its
    own name."""
    inside = {id(layer.base) for layer in network.modules() if isinstance(layer, LowRankLinear)}
    return [
        name
        for name, layer in network.named_modules()
        if isinstance(layer, LowRankLinear) or (is_linear(layer) and layer is not output and id(layer) not in inside)
    ]


def initial(layer: nn.Module, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    inputs, outputs = sizes(layer)
    bound = 1.0 / math.sqrt(inputs)  # kaiming_uniform with a = sqrt(5): sqrt(6 / ((1 + 5) * in))
    a = torch.empty(rank, inputs).uniform_(-bound, bound, generator=generator)
    return a, torch.zeros(outputs, rank)


def wrap(network: nn.Module, tensors: Mapping[str, tuple[Tensor, Tensor]], scale: float) -> Callable[[], None]:
    """Put low-rank layers in place; returns the function that restores the network exactly as it was."""
    layers = {name: LowRankLinear(network.get_submodule(name), a, b, scale) for name, (a, b) in tensors.items()}
    return replaced(network, layers)


def replaced(network: nn.Module, layers: Mapping[str, nn.Module]) -> Callable[[], None]:
    """Put `layers` in the places of those of their names; returns the function that puts the own ones back."""
    originals: list[tuple[nn.Module, str, nn.Module]] = []
    for name, layer in layers.items():
        parent_name, _, child = name.rpartition(".")
        parent = network.get_submodule(parent_name)
        originals.append((parent, child, getattr(parent, child)))
        setattr(parent, child, layer)

    def restore() -> None:
        for parent, child, own in originals:
            setattr(parent, child, own)

    return restore


def present(network: nn.Module) -> dict[str, LowRankLinear]:
    """The low-rank layers in place, by the name of the layer they wrap."""
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, LowRankLinear)}


def base_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """The base's own parameters under their own names, whatever layers (ours, or PEFT's) are wrapped around its own."""
    added: set[int] = set()
    own: dict[str, str] = {}
    for name, layer in network.named_modules():
        inside = next((child for child in ("base", "base_layer") if _wraps(layer, child)), None)
        if inside is not None:
            kept = {id(parameter) for parameter in layer.get_submodule(inside).parameters()}
            added |= {id(parameter) for parameter in layer.parameters()} - kept
            own[f"{name}.{inside}"] = name
    found = {}
    for name, parameter in network.named_parameters():
        layer_name, _, last = name.rpartition(".")
        if id(parameter) not in added:
            place = own.get(layer_name, layer_name)
            found[f"{place}.{last}" if place else last] = parameter
    return found


def _wraps(layer: nn.Module, child: str) -> bool:
    return isinstance(layer, LowRankLinear) if child == "base" else isinstance(getattr(layer, child, None), nn.Module)


def add(network: nn.Module, tensors: Mapping[str, tuple[Tensor, Tensor]], scale: float) -> None:
    """Merge: W += scale * B A, in place, in the weights' own dtype (§4.1: no latency is left)."""
    with torch.no_grad():
        for name, (a, b) in tensors.items():
            layer = network.get_submodule(name)
            assert isinstance(layer.weight, Tensor)
            change = ((b @ a) * scale).to(layer.weight)  # (out, in)
            layer.weight += change if isinstance(layer, nn.Linear) else change.t()
