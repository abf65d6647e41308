"""Rotary position embedding: each pair (x_i, x_(i + D/2)) of a head is turned by an angle of its position.

Su et al. 2021, "RoFormer", §3.2.2, equation 34, in the layout of two halves that Llama's weights have.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tailorbird.engine.precision import at_least_float32


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (T, heads * D); cos and sin (T, 1, D / 2), fp32 or better -> the same turned. -sin turns back."""
    half = cos.shape[-1]
    wide = at_least_float32(x).view(x.shape[0], -1, 2 * half)
    first, second = wide[..., :half], wide[..., half:]
    turned = torch.empty_like(wide)
    torch.mul(first, cos, out=turned[..., :half]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=turned[..., half:]).addcmul_(first, sin)
    return turned.view(x.shape).to(x.dtype)
