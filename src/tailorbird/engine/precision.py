"""In which precision sums of exponentials and of squares are taken, whatever the model computes in."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """fp32, or better where the model computes in better."""
    return x if x.dtype == torch.float64 else x.float()


def in_float64(x: Tensor) -> Tensor:
    """fp64 on the CPU, whatever device computed it: MPS has no such numbers."""
    return x.cpu().double()
