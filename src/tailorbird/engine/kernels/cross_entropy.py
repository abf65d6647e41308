"""Cross entropy over the vocabulary with the gradient computed on the way, so that logits are held for a few positions.

With p = softmax(W h): d(-log p_t) / d(W h) = p - onehot(t). As the loss is a sum, its gradient is known as soon as the
logits are: they are overwritten by it, their products with W and h are taken at once, and the backward pass is left
with one factor. Nothing is computed twice, and nothing of the vocabulary's size outlives its chunk.

Label smoothing: Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer Vision", §7.

Letters: N positions, V vocabulary, C hidden.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from tailorbird.engine.kernels.table import product
from tailorbird.engine.precision import at_least_float32
from tailorbird.engine.sizes import WIDE_ROWS


class CrossEntropy(Function):
    """hidden (N, C), weight (V, C), bias (V,) or None, targets (N,), weights (N,) or None -> the weighted sum, a scalar
    in fp32 or better. `chunk`: positions whose logits are held at once."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, weights: Tensor | None,
        smoothing: float, chunk: int,
    ) -> Tensor:  # fmt: skip
        needs = ctx.needs_input_grad[:3]
        total = at_least_float32(hidden.new_zeros(()))
        of_hidden = torch.empty_like(hidden) if needs[0] else None
        of_weight = of_bias = None
        for start in range(0, hidden.shape[0], chunk):
            part, wanted = hidden[start : start + chunk], targets[start : start + chunk]
            logits = F.linear(part, weight, bias)
            total += _losses(
                logits, wanted, None if weights is None else weights[start : start + chunk], smoothing, any(needs)
            )
            if of_hidden is not None:
                of_hidden[start : start + chunk] = logits @ weight
            if needs[1]:
                of_weight = product(logits, part, weight) if of_weight is None else of_weight.addmm_(logits.t(), part)
            if needs[2]:
                of_bias = logits.sum(0) if of_bias is None else of_bias.add_(logits.sum(0))
        ctx.found = (of_hidden, of_weight, of_bias)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        found, ctx.found = ctx.found, None  # handed over, so that more can be added to it in place
        if found is None:
            raise RuntimeError("the gradient of this cross entropy was taken before")
        factor = float(grad)
        return *(x if x is None or factor == 1.0 else x.mul_(factor) for x in found), None, None, None, None


def _losses(logits: Tensor, targets: Tensor, weights: Tensor | None, smoothing: float, gradient: bool) -> Tensor:
    """The weighted sum of the losses of logits (N, V); with `gradient` the logits are overwritten by its gradient."""
    total = at_least_float32(logits.new_zeros(()))
    size = logits.shape[1]
    for start in range(0, logits.shape[0], WIDE_ROWS):
        part, wanted = logits[start : start + WIDE_ROWS], targets[start : start + WIDE_ROWS].unsqueeze(1)
        wide = at_least_float32(part)
        share = wide.softmax(-1)
        # log sum exp from the largest: its probability is never 0
        log_sum = wide.amax(-1) - share.amax(-1).log()
        loss = log_sum - (1.0 - smoothing) * wide.gather(1, wanted).squeeze(1)
        if smoothing:
            loss -= smoothing * wide.mean(-1)
        weight = None if weights is None else weights[start : start + WIDE_ROWS].to(loss.dtype)
        total += loss.sum() if weight is None else (loss * weight).sum()
        if gradient:
            share.scatter_add_(1, wanted, share.new_full((), smoothing - 1.0).expand(wanted.shape))
            if smoothing:
                share.sub_(smoothing / size)
            part.copy_(share if weight is None else share.mul_(weight.unsqueeze(1)))
    return total
