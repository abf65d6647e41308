"""Dropout whose masks belong to rows: a function of (seed, step, the row's number in the step, the token's place in the
row, the layer's name, the column), and of nothing else.

Srivastava et al. 2014, "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", §4, in its inverted form:
what is kept is scaled by 1 / (1 - rate), so that nothing changes where dropout is off. Low-rank layers drop the input
of A (as PEFT's `lora_dropout` does); where there is none, the embedded input is dropped (as GPT-2's `embd_pdrop`).

A mask is not drawn from a generator with a state but hashed from its counters (Salmon et al. 2011, "Parallel Random
Numbers: As Easy as 1, 2, 3"), so it is the same however a step is cut into micro-batches and packed, when a layer is
computed again in the backward pass, after a kill, and on every device. The hash is Wellons' lowbias32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tailorbird.engine.low_rank import LowRankLinear

EMBEDDINGS = "embeddings"


def signed32(number: int) -> int:
    """The low 32 bits as a two's complement number, which is what an int32 tensor holds."""
    low = number & 0xFFFFFFFF
    return low - (1 << 32) if low >= 1 << 31 else low


def mix(x: Tensor) -> Tensor:
    """lowbias32 of every element of an int32 tensor, in place. (Shifts of a signed number drag its sign along.)"""
    x ^= (x >> 16) & 0xFFFF
    x *= signed32(0x21F0AAAD)
    x ^= (x >> 15) & 0x1FFFF
    x *= signed32(0xD35A2D97)
    x ^= (x >> 15) & 0x1FFFF
    return x


def token_keys(streams: Sequence[int], lengths: Sequence[int], device: str | torch.device = "cpu") -> Tensor:
    """(sum of lengths,) int32: a key for each token of rows whose streams are given, in their order."""
    keys = []
    for number, length in zip(streams, lengths, strict=True):
        keys.append(mix(mix(torch.arange(length, dtype=torch.int32)) + signed32(number)))
    return torch.cat(keys).to(device)


class Dropout:
    """The rate of one training, and the token keys of the forward that is now running (None = off)."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.keys: Tensor | None = None
        self.inside = False  # True where low-rank layers drop their own input

    def place(self, network: nn.Module) -> None:
        """Let the low-rank layers that learn drop the input of A; without any, the embedded input is dropped."""
        for name, layer in network.named_modules():
            if isinstance(layer, LowRankLinear) and layer.lora_A.requires_grad:
                layer.drop = self.layer(name)
                self.inside = True

    def layer(self, name: str) -> Drop:
        return Drop(self, name)

    @contextmanager
    def over(self, keys: Tensor | None) -> Iterator[None]:
        """Masks by these keys inside the block; a layer that is recomputed later opens it again with the same."""
        before, self.keys = self.keys, keys
        try:
            yield
        finally:
            self.keys = before

    def embedded(self, x: Tensor) -> Tensor:
        return x if self.inside else Drop(self, EMBEDDINGS)(x)


class Drop:
    """Dropout at one place. x (…, T, columns), T as many as there are keys."""

    def __init__(self, dropout: Dropout, name: str) -> None:
        self.dropout = dropout
        self.key = signed32(int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big"))

    @property
    def off(self) -> bool:
        """Whether the forward that is now running drops nothing."""
        return self.dropout.keys is None or not self.dropout.rate

    def __call__(self, x: Tensor) -> Tensor:
        keys, rate = self.dropout.keys, self.dropout.rate
        if keys is None or self.off:
            return x
        return x * self.kept(keys, x.shape[-1]).to(x.dtype).mul_(1.0 / (1.0 - rate))

    def kept(self, keys: Tensor, columns: int) -> Tensor:
        """(T, columns) bool, True with probability 1 - rate."""
        rows = mix(keys ^ self.key)
        places = mix(torch.arange(1, columns + 1, dtype=torch.int32, device=keys.device))
        return mix(rows.unsqueeze(1) + places) >= round(self.dropout.rate * 2**32) - 2**31
