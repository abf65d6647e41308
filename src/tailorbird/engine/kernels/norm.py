"""Root mean square normalization: y = w x / sqrt(mean(x^2) + eps), over the last dimension.

Zhang & Sennrich 2019, "Root Mean Square Layer Normalization", §4, equation 4. Sums and products in fp32 (fp64 where the
model computes in it), rounded once at the end: on CPUs a pass over bf16 takes longer than one over fp32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tailorbird.engine.precision import at_least_float32


def forward(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x (T, C), weight (C,) -> y (T, C) in the dtype of x, and 1 / rms (T, 1)."""
    wide = at_least_float32(x)
    square = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1])
    inverse = square.add_(eps).rsqrt_()
    return (wide * inverse).mul_(at_least_float32(weight)).to(x.dtype), inverse


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, inverse: Tensor, needs_weight: bool
) -> tuple[Tensor, Tensor | None]:
    """grad (T, C) of y -> the gradient of x, fp32 or better, and that of the weight.

    With n = x / rms and g = w grad: dx = (g - n mean(g n)) / rms.
    """
    wide = grad.to(inverse.dtype, copy=True)
    normal = at_least_float32(x) * inverse
    of_weight = (wide * normal).sum(0).to(weight.dtype) if needs_weight else None
    wide.mul_(at_least_float32(weight))
    mean = torch.linalg.vecdot(wide, normal).unsqueeze_(-1).div_(x.shape[-1])
    return wide.addcmul_(normal, mean, value=-1).mul_(inverse), of_weight
