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
from torch.nn import functional as F

NAME = "tailorbird_segments"
EXPLICIT_WEIGHTS = 4_000_000  # attention weights (rows x heads x queries x keys) up to which they are held
BLOCK_WEIGHTS = 1_000_000  # of a block where nothing is kept: 4 MB in fp32, which stay in the cache over the passes
LONG_HEAD = 256  # tokens of a cached head from which on its keys are not copied to every row


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


def at_least_float32(x: Tensor) -> Tensor:
    """Sums of exponentials in fp32, or better where the model computes in better."""
    return x if x.dtype == torch.float64 else x.float()


def _grouped(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """Scaled dot-product attention where H query heads share G key/value heads. All (S, heads, length, D); `mask` as in
    `Segments`, None = causal.

    Without gradient, blocks. With one, short rows take explicit products: torch's fused kernel needs 7 x as long for
    them in bf16, forward and backward. Long rows take the fused kernel, which never holds the (Q, K) weights.
    """
    if query.device.type == "cpu" and not torch.is_grad_enabled():
        return _blocks(query, key, value, mask, scaling)
    rows, heads, length, size = query.shape
    groups, keys = key.shape[1], key.shape[2]
    if rows * heads * length * keys > EXPLICIT_WEIGHTS:
        repeats = heads // groups
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling, is_causal=mask is None)
    if mask is None:
        mask = torch.ones(length, keys, dtype=torch.bool, device=query.device).tril()
    seen = mask if mask.dim() == 2 else mask.unsqueeze(1)  # (Q, K), or (S, 1, 1, Q, K)
    together = query.reshape(rows, groups, -1, size)  # (S, G, H/G * Q, D)
    weights = at_least_float32(torch.matmul(together, key.transpose(2, 3))).view(rows, groups, -1, length, keys)
    weights = (weights * scaling).masked_fill(~seen, float("-inf")).softmax(-1).to(value.dtype)
    out = torch.matmul(weights.view(rows, groups, -1, keys), value)  # (S, G, H/G * Q, D)
    return out.view(rows, heads, length, size)


def _behind_head(query: Tensor, head: tuple[Tensor, Tensor], own: Tensor, own_sum: Tensor, scaling: float) -> Tensor:
    """Attention of tokens to a head that their rows share and to their own keys, without copying the head for each row.

    query (1, H, T, D), head (1, G, h, D) twice; what attention to the own keys alone gave: own (T, H, D) and the log
    sum exp of its scores (T, H) -> (T, H, D). All queries meet the head in one product; the two parts, each normalized
    by itself, are weighted by their shares of the common denominator. For inference.
    """
    groups, size = head[0].shape[1], query.shape[3]
    out, total = _to_head(query.reshape(1, groups, -1, size), *head, scaling)  # (1, G, H/G * T, D) and (1, G, H/G * T)
    back = out.reshape(-1, query.shape[2], size).transpose(0, 1)  # (T, H, D)
    back_sum = total.reshape(-1, query.shape[2]).t()
    together = torch.logaddexp(back_sum, own_sum)
    shares = ((part - together).exp().unsqueeze(-1) for part in (back_sum, own_sum))
    return (back * next(shares) + own * next(shares)).to(own.dtype)


def _to_head(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """query (1, G, N, D) to all of (1, G, h, D): the outputs and log sum exp of the scores (1, G, N)."""
    if query.device.type == "cpu":
        found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, scale=scaling)
        return found[0], found[1]
    at_once = max(1, EXPLICIT_WEIGHTS // (key.shape[1] * key.shape[2]))
    parts = [_explicit(part, key, value, None, scaling) for part in query.split(at_once, dim=2)]
    return torch.cat([out for out, _ in parts], dim=2), torch.cat([total for _, total in parts], dim=2)


def _to_own(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """query (S, H, Q, D) to the keys (S, G, K, D) that `mask` lets it see: the outputs and log sum exp (S, H, Q)."""
    if query.device.type == "cpu":
        total = at_least_float32(query.new_empty(query.shape[:3]))
        return _blocks(query, key, value, mask, scaling, total), total
    rows, _, length, size = query.shape
    asked = query.reshape(rows, key.shape[1], -1, length, size)
    seen = mask if mask.dim() == 2 else mask.unsqueeze(1)
    out, total = _explicit(asked, key.unsqueeze(2), value.unsqueeze(2), seen, scaling)
    return out.reshape(query.shape), total.reshape(query.shape[:3])


def _blocks(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, total: Tensor | None = None
) -> Tensor:
    """As `_grouped`, a few rows and queries at a time, for inference. total: takes the log sum exp of scores (S, H, Q).

    Blocks whose weights stay in the cache took less time than torch's fused kernel on CPU, for rows of 8 to 450 tokens.
    """
    rows, heads, length, size = query.shape
    groups, keys = key.shape[1], key.shape[2]
    if mask is None:
        mask = torch.ones(length, keys, dtype=torch.bool, device=query.device).tril()
    added = at_least_float32(query.new_zeros(mask.shape)).masked_fill_(~mask, float("-inf"))
    added = added if added.dim() == 2 else added.unsqueeze(1)  # (Q, K), or (S, 1, 1, Q, K)
    out = query.new_empty(query.shape)
    queries = min(length, max(1, BLOCK_WEIGHTS // (heads * keys)))
    at_once = max(1, BLOCK_WEIGHTS // (heads * queries * keys))
    for row in range(0, rows, at_once):
        some = slice(row, row + at_once)
        turned, values = (x[some].flatten(0, 1) for x in (key.transpose(2, 3), value))
        unseen = added if added.dim() == 2 else added[some]
        for first in range(0, length, queries):
            places = slice(first, first + queries)
            asked = query[some, :, places]
            count, many = asked.shape[0], asked.shape[2]
            products = torch.bmm(asked.reshape(count * groups, -1, size), turned)
            weights = at_least_float32(products).view(count, groups, -1, many, keys)
            weights.mul_(scaling).add_(unseen[..., places, :])
            shares = weights.softmax(-1)
            if total is not None:
                total[some, :, places] = (weights.amax(-1) - shares.amax(-1).log()).view(count, heads, many)
            found = torch.bmm(shares.to(value.dtype).view(count * groups, -1, keys), values)
            out[some, :, places] = found.view(count, heads, many, size)
    return out


def _explicit(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> tuple[Tensor, Tensor]:
    weights = at_least_float32(torch.matmul(query, key.transpose(-2, -1))) * scaling
    if mask is not None:
        weights = weights.masked_fill(~mask, float("-inf"))
    total = weights.logsumexp(-1)
    return torch.matmul((weights - total.unsqueeze(-1)).exp().to(value.dtype), value), total


def _rows_of(x: Tensor, gather: Tensor) -> Tensor:
    """(1, heads, T, D) -> (S, heads, Q, D): each row's tokens, padded to the longest."""
    heads, size = x.shape[1], x.shape[3]
    flat = x[0].transpose(0, 1).reshape(-1, heads * size)  # (T, heads * D)
    picked = flat.index_select(0, gather.reshape(-1))
    return picked.view(*gather.shape, heads, size).transpose(1, 2)


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    segments: Segments | DecodeStep | Several | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """The function transformers calls in every layer. query (1, H, T, D), key and value (1, G, T, D) -> (1, T, H, D).

    `attention_mask` is None by construction (see `register`); without `segments` this is plain causal attention.
    """
    if dropout:
        raise RuntimeError("attention dropout is not supported over packed rows; the base must be in evaluation mode")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    layer = int(getattr(module, "layer_idx", -1))
    if segments is None:
        out = _grouped(query, key, value, None, scale)
        return out.transpose(1, 2), None
    if isinstance(segments, Several):
        return _several(layer, query, key, value, scale, segments), None
    return _within(layer, query, key, value, scale, segments), None


def _within(layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, part: Segments | DecodeStep) -> Tensor:
    if isinstance(part, DecodeStep):
        return _decode(layer, query, key, value, scale, part)
    return _packed(layer, query, key, value, scale, part)


def _several(layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, several: Several) -> Tensor:
    outputs, start = [], 0
    for tokens, part in several.parts:
        q, k, v = (x[:, :, start : start + tokens] for x in (query, key, value))
        outputs.append(_within(layer, q, k, v, scale, part))
        start += tokens
    if several.padding:
        outputs.append(query.new_zeros(1, several.padding, query.shape[1], query.shape[3]))
    return torch.cat(outputs, dim=1)


def _packed(layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, s: Segments) -> Tensor:
    h, outputs = s.head, []
    if h:
        head_key, head_value, seen = key[:, :, :h], value[:, :, :h], None
        if s.prefix is not None:
            head_key = torch.cat([s.prefix.keys[layer], head_key], dim=2)
            head_value = torch.cat([s.prefix.values[layer], head_value], dim=2)
            n = s.prefix.length
            seen = torch.ones(h, n + h, dtype=torch.bool, device=key.device).tril(n)
        outputs.append(_grouped(query[:, :, :h], head_key, head_value, seen, scale).transpose(1, 2)[0])
    elif s.prefix is not None:
        head_key, head_value = s.prefix.keys[layer], s.prefix.values[layer]
    elif s.cached is not None:
        head_key, head_value = s.cached.keys[layer], s.cached.values[layer]
    rows_query, rows_key, rows_value = (_rows_of(x, s.gather) for x in (query, key, value))
    if s.record is not None:
        s.record.add(layer, rows_key, rows_value)
    if s.cached is not None and s.cached.length >= LONG_HEAD:
        own = _to_own(rows_query, rows_key, rows_value, s.mask[..., s.cached.length :], scale)
        out, total = (x.transpose(1, 2).flatten(0, 1).index_select(0, s.scatter) for x in own)
        tokens = query.shape[2] - s.padding
        outputs.append(_behind_head(query[:, :, :tokens], (head_key, head_value), out, total, scale))
    else:
        if h or s.prefix is not None or s.cached is not None:
            size = (s.rows, -1, -1, -1)
            rows_key = torch.cat([head_key.expand(size), rows_key], dim=2)
            rows_value = torch.cat([head_value.expand(size), rows_value], dim=2)
        out = _grouped(rows_query, rows_key, rows_value, s.mask, scale)  # (S, H, Q, D)
        outputs.append(out.transpose(1, 2).flatten(0, 1).index_select(0, s.scatter))  # (T - h, H, D)
    if s.padding:
        outputs.append(outputs[-1].new_zeros(s.padding, *outputs[-1].shape[1:]))
    return torch.cat(outputs, dim=0).unsqueeze(0)


def _decode(layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, step: DecodeStep) -> Tensor:
    rows = torch.arange(step.lengths.shape[0], device=query.device)
    step.keys[layer][rows, :, step.lengths] = key[0].transpose(0, 1)
    step.values[layer][rows, :, step.lengths] = value[0].transpose(0, 1)
    longest = step.mask.shape[-1]
    keys, values = step.keys[layer][:, :, :longest], step.values[layer][:, :, :longest]
    asked = query[0].transpose(0, 1).unsqueeze(2)  # (S, H, 1, D)
    if step.cached is not None:
        head = (step.cached.keys[layer], step.cached.values[layer])
        out, total = _to_own(asked, keys, values, step.mask, scale)
        return _behind_head(query, head, out.squeeze(2), total.squeeze(2), scale).unsqueeze(0)
    return _grouped(asked, keys, values, step.mask, scale).squeeze(2).unsqueeze(0)


def _no_mask(*_: object, **__: object) -> None:
    return None


def register() -> str:
    """Make `attention` known to transformers and tell it never to build a mask; returns the implementation's name."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, _no_mask)
    return NAME
