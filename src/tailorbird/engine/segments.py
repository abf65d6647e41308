"""Packing: many rows in one flat sequence, their common beginning (the shared head) only once.

A forward pass sees `[head | row 1 | row 2 | …]`, T tokens and no padding, so that every linear layer works on useful
tokens only. Attention alone looks at the structure: the head attends to itself; a row attends to the head and to
itself. Because the head is part of the same graph, its gradient is the exact sum over the rows. A prefix of trained
keys and values stands before the head; head and rows attend to all of it, and it has no queries of its own.

Letters: T flat tokens, n prefix pairs, h head tokens, S rows (segments), Q longest row, H heads, G key/value heads, D
head size.

Simplification: within attention rows are padded on the right to Q. Causality keeps real tokens from seeing padding,
so no validity mask is needed; padding costs attention time only, which is small at the lengths we pack.

Few sizes: T and Q are rounded up (by at most a sixteenth beyond 128), the flat sequence ends in tokens of no row. With
ever new sizes oneDNN made new kernels at each step, and their long-lived bookkeeping tore the heap apart: after some
hundred steps a step took twice as long and the process twice the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor


class KeyValues:
    """Keys and values of one forward, layer by layer: `keys[layer]` is (S, G, length, D)."""

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    @property
    def length(self) -> int:
        return int(self.keys[0].shape[2])

    @classmethod
    def of(cls, kv: Tensor) -> KeyValues:
        """From one tensor (layers, 2, G, n, D), with its gradient."""
        found = cls()
        for pair in kv.unbind(0):
            key, value = pair.unsqueeze(1).unbind(0)  # (1, G, n, D) each
            found.keys.append(key)
            found.values.append(value)
        return found

    def then(self, other: KeyValues) -> KeyValues:
        """These, and behind them those of `other`."""
        found = KeyValues()
        found.keys = [torch.cat(pair, dim=2) for pair in zip(self.keys, other.keys, strict=True)]
        found.values = [torch.cat(pair, dim=2) for pair in zip(self.values, other.values, strict=True)]
        return found

    def add(self, layer: int, key: Tensor, value: Tensor) -> None:
        if layer != len(self.keys):
            raise RuntimeError(f"layer {layer} reported its keys out of order (expected {len(self.keys)})")
        self.keys.append(key)
        self.values.append(value)


@dataclass
class Segments:
    """The structure of one flat sequence, as attention needs it.

    gather: (S, Q) flat positions of each row's tokens (padding repeats the row's first token).
    scatter: (T - h - padding,) where each row token lies in the padded (S * Q) layout.
    mask: (Q, n + h + Q) or (S, 1, Q, n + h + Q) bool, True = may attend.
    padding: tokens at the end of the flat sequence that are of no row: nothing looks at them, they look at nothing.
    cached: keys and values of prefix and head, computed before (then h tokens are not part of the flat sequence).
    prefix: keys and values that stand before the head; with `cached` they are part of that.
    record: filled with this forward's keys and values, for a later forward to build on.
    """

    head: int
    gather: Tensor
    scatter: Tensor
    mask: Tensor
    padding: int = 0
    cached: KeyValues | None = None
    record: KeyValues | None = None
    prefix: KeyValues | None = None
    wanted: Tensor | None = None  # flat positions whose final states are read: the last layer may leave out the others
    plans: dict[Any, Any] = field(default_factory=dict)  # what the kernels made of this structure

    @property
    def plain(self) -> bool:
        """Whether this is what training has: packed rows behind a head of their own, each seeing the head and itself up
        to itself, and nothing else. A field that is not named here, and set, is something else."""
        known = {"head", "gather", "scatter", "mask", "padding", "wanted", "plans"}
        if any(getattr(self, each.name) is not None for each in fields(self) if each.name not in known):
            return False
        if "causal" not in self.plans:
            length, keys = self.gather.shape[1], self.head + self.gather.shape[1]
            causal = torch.ones(length, keys, dtype=torch.bool, device=self.mask.device).tril(self.head)
            self.plans["causal"] = self.mask.shape == causal.shape and torch.equal(self.mask, causal)
        return bool(self.plans["causal"])

    @property
    def rows(self) -> int:
        return self.gather.shape[0]


@dataclass
class DecodeStep:
    """One generated token a row: `lengths[s]` keys are already in the row's cache, the new one goes behind them.

    `cached`: the head's keys, which stand before all of them and are held once.
    """

    keys: list[Tensor]  # per layer (S, G, capacity, D), the rows' own
    values: list[Tensor]
    lengths: Tensor  # (S,)
    mask: Tensor  # (S, 1, 1, longest) bool
    cached: KeyValues | None = None

    @property
    def positions(self) -> Tensor:
        """(S,) of the new tokens."""
        return self.lengths + (self.cached.length if self.cached is not None else 0)


@dataclass
class Several:
    """Structures one behind the other in one flat sequence: rows of several customizations, each behind its own head.

    parts: (tokens, structure) in their order.
    owners: (tokens, whose they are) in their order, for layers that compute something else for each owner.
    padding: tokens of no row at the end, beyond those of the parts.
    """

    parts: Sequence[tuple[int, Segments | DecodeStep]]
    owners: Sequence[tuple[int, str]]
    padding: int = 0


@dataclass
class Windows:
    """For a forward that only asks: plain causal attention, which notes the sliding windows of the layers in tokens."""

    found: list[int] = field(default_factory=list)


@dataclass
class Packed:
    """A flat batch: ids (T,), positions (T,) and the segments; `ends[s]` is the flat position of row s's last token.

    keys: (tokens with soft prompt,) int32 while dropout is on: see `engine/dropout.py`. soft_keys: of the soft prompt's
    tokens in every training step, the same in all its micro-batches.
    """

    ids: Tensor
    positions: Tensor
    segments: Segments | Several
    starts: list[int]
    ends: list[int]
    keys: Tensor | None = None
    soft_keys: Tensor | None = None


def few_sizes(count: int) -> int:
    """`count` rounded up to one of sixteen sizes between powers of two (multiples of 8 below 128)."""
    step = max(8, 1 << max(0, count.bit_length() - 5))
    return -(-count // step) * step


def pack(
    rows: Sequence[Sequence[int]],
    *,
    head: Sequence[int] = (),
    soft: int = 0,
    pairs: int = 0,
    cached: KeyValues | None = None,
    device: str | torch.device = "cpu",
) -> Packed:
    """Lay out `rows` (token ids behind the head) for one forward.

    `soft` virtual tokens stand before the head: they take the first positions and are counted in the head's length,
    their embeddings are put there by the model. `pairs` of a prefix take the positions before these; their keys and
    values are put there by the model, too. With `cached` the keys of all these are given and only the rows are in the
    flat sequence.
    """
    if not rows or any(not row for row in rows):
        raise ValueError("every row needs at least one token behind the shared head")
    in_flat = 0 if cached is not None else soft + len(head)
    context = cached.length if cached is not None else pairs + in_flat
    lengths = [len(row) for row in rows]
    longest = few_sizes(max(lengths))
    ids: list[int] = [] if cached is not None else list(head)
    positions: list[int] = list(range(pairs, pairs + in_flat))
    starts: list[int] = []
    ends: list[int] = []
    gather: list[list[int]] = []
    scatter: list[int] = []
    cursor = in_flat
    for number, row in enumerate(rows):
        starts.append(cursor)
        ids.extend(row)
        positions.extend(range(context, context + len(row)))
        gather.append([cursor + min(i, len(row) - 1) for i in range(longest)])
        scatter.extend(range(number * longest, number * longest + len(row)))
        cursor += len(row)
        ends.append(cursor - 1)
    padding = few_sizes(cursor) - cursor
    ids.extend([0] * padding)
    positions.extend([0] * padding)
    causal = torch.ones(longest, longest, dtype=torch.bool, device=device).tril()
    mask = torch.cat([causal.new_ones(longest, context), causal], dim=1) if context else causal
    segments = Segments(
        head=in_flat,
        gather=torch.tensor(gather, device=device),
        scatter=torch.tensor(scatter, device=device),
        mask=mask,
        padding=padding,
        cached=cached,
    )
    return Packed(
        ids=torch.tensor(ids, dtype=torch.long, device=device),
        positions=torch.tensor(positions, dtype=torch.long, device=device),
        segments=segments,
        starts=starts,
        ends=ends,
    )
