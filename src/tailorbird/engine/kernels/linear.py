"""y = x W^T + b, with a low-rank update s B A x where there is one: forward, and the gradients that somebody needs.

The update goes into the product's own output and its gradient into the input's own gradient (addmm in place): no pass
over the tokens is made for the sum alone. Hu et al. 2021, "LoRA", §4.1, equation 3.

Letters: T tokens, I inputs, O outputs, r rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tailorbird.engine.low_rank import LowRankLinear

TENSORS = 4  # of one linear layer: weight, bias, A, B


@dataclass(frozen=True)
class Linear:
    """weight (O, I), bias (O,), A (r, I), B (O, r) and the scale s of the update; None where there is none."""

    weight: Tensor
    bias: Tensor | None
    a: Tensor | None
    b: Tensor | None
    scale: float = 1.0

    @staticmethod
    def of(layer: nn.Module) -> Linear:
        if isinstance(layer, LowRankLinear):
            base = layer.base
            assert isinstance(base, nn.Linear)
            return Linear(base.weight, base.bias, layer.lora_A, layer.lora_B, layer.scale)
        assert isinstance(layer, nn.Linear)
        return Linear(layer.weight, layer.bias, None, None)

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        return self.weight, self.bias, self.a, self.b

    def update(self, dtype: torch.dtype) -> Tensor:
        """s B in the compute dtype: the scale meets B, not the tokens."""
        assert self.b is not None
        return (self.b * self.scale).to(dtype)


def forward(layers: Sequence[Linear], x: Tensor) -> tuple[list[Tensor], Tensor | None]:
    """x (T, I), which all of `layers` look at -> their outputs (T, O), and A x (T, sum of ranks) of those with an
    update, which `backward` wants back."""
    outputs = [F.linear(x, layer.weight, layer.bias) for layer in layers]
    if (down := _down(layers, x.dtype)) is None:
        return outputs, None
    low = F.linear(x, down)
    for layer, output, columns in zip(layers, outputs, _columns(layers), strict=True):
        if layer.b is not None:
            output.addmm_(low[:, columns], layer.update(x.dtype).t())
    return outputs, low


def backward(
    layers: Sequence[Linear],
    grads: Sequence[Tensor],
    x: Tensor | None,
    low: Tensor | None,
    needs: Sequence[Sequence[bool]],
    inputs: bool,
) -> tuple[Tensor | None, list[Tensor | None]]:
    """grads (T, O) of the outputs -> the gradient of x (None unless `inputs`), and those of weight, bias, A, B of each
    layer as far as `needs` asks. x and `low` are read only for the weights' gradients."""
    into: Tensor | None = None
    found: list[Tensor | None] = []
    columns = _columns(layers)
    for layer, grad, need, own in zip(layers, grads, needs, columns, strict=True):
        of_b = None
        if need[3]:
            assert low is not None and layer.b is not None
            of_b = (grad.t() @ low[:, own]).to(layer.b.dtype).mul_(layer.scale)
        of_weight = None
        if need[0]:
            assert x is not None
            of_weight = grad.t() @ x
        found += [of_weight, grad.sum(0) if need[1] else None, None, of_b]
        if inputs:
            into = grad @ layer.weight if into is None else into.addmm_(grad, layer.weight)
    down = _down(layers, grads[0].dtype)
    of_down = any(need[2] for need in needs)
    if down is None or not (inputs or of_down):
        return into, found
    updated = [(layer, grad) for layer, grad in zip(layers, grads, strict=True) if layer.b is not None]
    through = torch.cat([grad @ layer.update(grad.dtype) for layer, grad in updated], dim=1)  # (T, sum of ranks)
    if of_down:
        assert x is not None
        gradients = through.t() @ x
        for number, (layer, need, own) in enumerate(zip(layers, needs, columns, strict=True)):
            if need[2]:
                assert layer.a is not None
                found[number * TENSORS + 2] = gradients[own].to(layer.a.dtype, copy=True)
    if into is not None:
        into.addmm_(through, down)
    return into, found


def _down(layers: Sequence[Linear], dtype: torch.dtype) -> Tensor | None:
    """All A, one below the other, (sum of ranks, I): one product for layers that look at the same input."""
    parts = [layer.a for layer in layers if layer.a is not None]
    return torch.cat(parts).to(dtype) if parts else None


def _columns(layers: Sequence[Linear]) -> list[slice]:
    """Where each layer's A x lies among all of them."""
    found, at = [], 0
    for layer in layers:
        rank = 0 if layer.a is None else layer.a.shape[0]
        found.append(slice(at, at + rank))
        at += rank
    return found
