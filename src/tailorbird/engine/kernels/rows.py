"""Attention of packed rows, forward and backward, over rows grouped by their lengths.

Rows of very different lengths padded to the longest cost several times the products that are needed, so the rows of a
batch are cut into groups of similar length. Each group gathers its queries and keys, the shared head's keys among them,
in one step out of the flat sequence, and what comes out is gathered back: both ways a permutation, no sums but the
head's, to which every row contributes.

Products in the compute dtype, softmax in fp32. Batches of more than `EXPLICIT_WEIGHTS` weights never hold them: they go
through blocks of queries, each with the keys that it can see, and compute the weights again in the backward pass, as in
Dao et al. 2022, "FlashAttention", §3.1 (torch's own fused kernel took twice as long on rows of 450 tokens in bf16).

Letters as in `segments.py`; K = keys of a group: its head and Q.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tailorbird.engine import attention
from tailorbird.engine.precision import at_least_float32
from tailorbird.engine.segments import Segments, few_sizes

Turn = tuple[Tensor, Tensor]  # cos and sin, (T, 1, D / 2)
BLOCK = 128  # queries of a block
BLOCK_WEIGHTS = 2_000_000  # of a block: 8 MB in fp32, which stay in the cache
GROUP_COST = 10_000  # attention weights of a head whose computing takes as long as a further group's calls


@dataclass
class Group:
    """Rows of one padded length.

    queries: (S * H * Q,) rows of q (T * H, D); keys: (S * heads of keys * K,) rows of k (T * G, D).
    unused: those of (S * H * Q) that are of no token; mask: (Q, K), 0 or -inf; head: keys of the shared head.
    """

    rows: int
    length: int
    head: int
    queries: Tensor
    keys: Tensor
    unused: Tensor
    mask: Tensor
    blocked: bool


@dataclass
class Plan:
    """How the rows of one batch are grouped; `outputs` (T * H,), `inputs` (T * G,): where a token's slot lies among all
    groups' slots (the last slot is empty: tokens of no row). Made once a batch, by `plan`."""

    heads: int
    groups: int
    size: int
    parts: list[Group]
    outputs: Tensor
    inputs: Tensor
    _turned: tuple[Tensor, Any] | None = None

    def turns(self, embeddings: tuple[Tensor, Tensor], scale: float) -> tuple[Turn, Turn]:
        """transformers' cos and sin (1, T, D) -> those of queries (times the scale of the scores) and of keys, (T, 1,
        D / 2), fp32 or better. The same for all layers of a forward."""
        if self._turned is None or self._turned[0] is not embeddings[0]:
            cos, sin = (at_least_float32(x[0, :, : x.shape[-1] // 2]).unsqueeze(1) for x in embeddings)
            self._turned = (embeddings[0], ((cos * scale, sin * scale), (cos, sin)))
        found: tuple[Turn, Turn] = self._turned[1]
        return found


def padded_rows(rows: int, length: int) -> int:
    """Rows of a group, its empty ones included: multiples of 4 (2 beyond 64 tokens), for few sizes: see segments.py."""
    step = 1 if rows == 1 or length > 128 else 2 if length > 64 else 4
    return -(-rows // step) * step


def cut(lengths: Sequence[int], head: int) -> list[list[int]]:
    """Numbers of the rows of each group, so that padded weights and the groups' own cost are least together."""
    sizes = sorted({few_sizes(length) for length in lengths})
    count = [sum(few_sizes(length) == size for length in lengths) for size in sizes]
    best: list[tuple[int, int]] = [(0, 0)]  # least cost of the sizes so far, and where their last group begins
    for end in range(1, len(sizes) + 1):
        size = sizes[end - 1]
        costs = []
        for start in range(end):
            rows = padded_rows(sum(count[start:end]), size)
            costs.append((best[start][0] + rows * size * (head + size) + GROUP_COST, start))
        best.append(min(costs))
    found, end = list[list[int]](), len(sizes)
    while end:
        start = best[end][1]
        found.append([i for i, length in enumerate(lengths) if few_sizes(length) in sizes[start:end]])
        end = start
    return found[::-1]


def plan(s: Segments, tokens: int, heads: int, groups: int, size: int, dtype: torch.dtype) -> Plan:
    """The groups of a flat sequence of `tokens` tokens; `heads` query heads share `groups` key heads of `size`. `s` is
    packed rows behind their head, each token seeing the head and its row up to itself (`Segments.plain`)."""
    starts = s.gather[:, 0].tolist()
    lengths = [last - first + 1 for first, last in zip(starts, s.gather[:, -1].tolist(), strict=True)]
    longest = s.gather.shape[1]
    blocked = s.rows * heads * longest * (s.head + longest) > attention.EXPLICIT_WEIGHTS  # as the memory plan counts
    parts: list[Group] = []
    outputs = torch.zeros(tokens, heads, dtype=torch.long)
    inputs = torch.zeros(tokens, groups, dtype=torch.long)
    todo = [([0], [s.head], 0)] if s.head else []  # (starts, lengths, head): the head attends to itself
    for numbers in cut(lengths, s.head):
        todo.append(([starts[i] for i in numbers], [lengths[i] for i in numbers], s.head))
    slots = key_slots = 0
    for own, long, head in todo:
        part, at, key_at = _group(own, long, head, heads, groups, dtype, blocked)
        for row, (start, length) in enumerate(zip(own, long, strict=True)):
            outputs[start : start + length] = slots + at[row, :, :length].t()
            inputs[start : start + length] = key_slots + key_at[row, :, head : head + length].t()
        slots, key_slots = slots + at.numel(), key_slots + key_at.numel()
        parts.append(part)
    if s.padding:
        outputs[tokens - s.padding :] = slots
        inputs[tokens - s.padding :] = key_slots
    return Plan(heads, groups, size, parts, outputs.view(-1), inputs.view(-1))


def _group(
    starts: Sequence[int],
    lengths: Sequence[int],
    head: int,
    heads: int,
    groups: int,
    dtype: torch.dtype,
    blocked: bool,
) -> tuple[Group, Tensor, Tensor]:
    """The group, the slots (S, H, Q) of its queries, and those (S, G, K) of its keys."""
    length = few_sizes(max(lengths))
    rows = padded_rows(len(starts), length)
    place = torch.arange(length)
    own, valid = torch.zeros(rows, length, dtype=torch.long), torch.zeros(rows, length, dtype=torch.bool)
    for row, (start, count) in enumerate(zip(starts, lengths, strict=True)):
        own[row], valid[row] = start + place.clamp(max=count - 1), place < count
    before = torch.arange(head).expand(rows, head)
    seen = torch.cat([before, own], dim=1)  # (S, K)
    keys = seen.shape[1]
    queries = own.unsqueeze(1) * heads + torch.arange(heads).view(1, -1, 1)  # (S, H, Q)
    taken = seen.unsqueeze(1) * groups + torch.arange(groups).view(1, -1, 1)  # (S, G, K)
    mask = torch.zeros(length, keys, dtype=torch.promote_types(dtype, torch.float32))
    mask.masked_fill_(~torch.ones(length, keys, dtype=torch.bool).tril(head), float("-inf"))
    unused = (~valid).unsqueeze(1).expand(rows, heads, length).reshape(-1).nonzero().view(-1)
    part = Group(rows, length, head, queries.reshape(-1), taken.reshape(-1), unused, mask, blocked)
    return part, torch.arange(queries.numel()).view(queries.shape), torch.arange(taken.numel()).view(taken.shape)


def forward(q: Tensor, k: Tensor, v: Tensor, plan: Plan) -> tuple[Tensor, list[Tensor]]:
    """q (T, H * D), scaled and turned, k and v (T, G * D) -> the outputs (T, H * D), and what `backward` wants back."""
    size, kept = plan.size, list[Tensor]()
    q, k, v = (x.view(-1, size) for x in (q, k, v))
    found = q.new_empty(sum(part.queries.numel() for part in plan.parts) + 1, size)
    found[-1].zero_()
    at = 0
    for part in plan.parts:
        query = q.index_select(0, part.queries)
        key, value = k.index_select(0, part.keys), v.index_select(0, part.keys)
        out = found[at : at + len(query)]
        at += len(query)
        kept += (_blocked if part.blocked else _explicit)(query, key, value, part, plan, out)
    return found.index_select(0, plan.outputs).view(-1, plan.heads * size), kept


def backward(grad: Tensor, plan: Plan, kept: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """grad (T, H * D) of the outputs -> the gradients of q, k and v."""
    size = plan.size
    grad = grad.view(-1, size)
    slots, key_slots = (sum(getattr(part, name).numel() for part in plan.parts) for name in ("queries", "keys"))
    of_q = grad.new_empty(slots + 1, size)
    of_k, of_v = grad.new_empty(key_slots + 1, size), grad.new_empty(key_slots + 1, size)
    for x in (of_q, of_k, of_v):
        x[-1].zero_()
    at, key_at, taken = 0, 0, 0
    for part in plan.parts:
        own = grad.index_select(0, part.queries).index_fill_(0, part.unused, 0.0)
        places = slice(at, at + part.queries.numel()), slice(key_at, key_at + part.keys.numel())
        work = _blocked_backward if part.blocked else _explicit_backward
        saved = kept[taken : taken + (3 if part.blocked else 4)]
        work(own, saved, part, plan, of_q[places[0]], of_k[places[1]], of_v[places[1]])
        if part.head:  # its keys are those of the first group, the head's own
            for x in (of_k, of_v):
                by_row = x[places[1]].view(part.rows, plan.groups, -1, size)[:, :, : part.head]
                of_head = x[: plan.parts[0].keys.numel()].view(plan.groups, -1, size)[:, : part.head]
                of_head += by_row.sum(0)
        at, key_at, taken = places[0].stop, places[1].stop, taken + len(saved)
    shapes = (-1, plan.heads * size), (-1, plan.groups * size)
    return (
        of_q.index_select(0, plan.outputs).view(shapes[0]),
        of_k.index_select(0, plan.inputs).view(shapes[1]),
        of_v.index_select(0, plan.inputs).view(shapes[1]),
    )


def _explicit(query: Tensor, key: Tensor, value: Tensor, part: Group, plan: Plan, out: Tensor) -> list[Tensor]:
    together = (part.rows * plan.groups, -1, plan.size)
    query, key, value = query.view(together), key.view(together), value.view(together)  # (S * G, H/G * Q or K, D)
    weights = _weights(query, key, part.mask)
    torch.bmm(weights, value, out=out.view(query.shape))
    return [query, key, value, weights]


def _weights(query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
    """query (N, H/G * Q, D), key (N, K, D), mask (Q, K) -> (N, H/G * Q, K)."""
    wide = at_least_float32(torch.bmm(query, key.transpose(1, 2)))
    wide.view(-1, *mask.shape).add_(mask)
    return wide.softmax(-1).to(query.dtype)


def _explicit_backward(
    grad: Tensor, kept: Sequence[Tensor], part: Group, plan: Plan, of_q: Tensor, of_k: Tensor, of_v: Tensor
) -> None:
    query, key, value, weights = kept
    grad = grad.view(query.shape)
    torch.bmm(weights.transpose(1, 2), grad, out=of_v.view(value.shape))
    inner = torch.bmm(grad, value.transpose(1, 2))
    inner = torch.ops.aten._softmax_backward_data(inner, weights, -1, weights.dtype)
    torch.bmm(inner, key, out=of_q.view(query.shape))
    torch.bmm(inner.transpose(1, 2), query, out=of_k.view(key.shape))


class _Blocks:
    """Rows and queries of a group a few at a time: `for rows, queries, keys in blocks`, all slices."""

    def __init__(self, part: Group, plan: Plan) -> None:
        self.part, self.plan = part, plan
        of_queries, of_keys = ((part.rows, heads, -1, plan.size) for heads in (plan.heads, plan.groups))
        self.shapes = (of_queries, of_keys, of_keys, of_queries)  # of queries, keys, values, and outputs

    def __iter__(self) -> Iterator[tuple[slice, slice, slice]]:
        part, heads = self.part, self.plan.heads
        for start in range(0, part.length, BLOCK):
            stop = min(start + BLOCK, part.length)
            at_once = max(1, BLOCK_WEIGHTS // (heads * (stop - start) * (part.head + stop)))
            for row in range(0, part.rows, at_once):
                yield slice(row, row + at_once), slice(start, stop), slice(0, part.head + stop)

    def together(self, x: Tensor, rows: slice, places: slice) -> Tensor:
        """(S, heads, length, D) -> some rows and places of it (N * G, heads / G * L, D)."""
        part = x[rows, :, places]
        return part.reshape(part.shape[0] * self.plan.groups, -1, self.plan.size)


def _blocked(query: Tensor, key: Tensor, value: Tensor, part: Group, plan: Plan, out: Tensor) -> list[Tensor]:
    blocks = _Blocks(part, plan)
    q, k, v, out = (x.view(shape) for x, shape in zip((query, key, value, out), blocks.shapes, strict=True))
    for rows, queries, keys in blocks:
        some_keys = blocks.together(k, rows, keys)
        weights = _weights(blocks.together(q, rows, queries), some_keys, part.mask[queries, keys])
        found = torch.bmm(weights, blocks.together(v, rows, keys))
        out[rows, :, queries] = found.view(-1, plan.heads, queries.stop - queries.start, plan.size)
    return [query, key, value]


def _blocked_backward(
    grad: Tensor, kept: Sequence[Tensor], part: Group, plan: Plan, of_q: Tensor, of_k: Tensor, of_v: Tensor
) -> None:
    blocks = _Blocks(part, plan)
    q, k, v, grad = (x.view(shape) for x, shape in zip((*kept, grad), blocks.shapes, strict=True))
    sum_k, sum_v = (torch.zeros_like(x, dtype=part.mask.dtype) for x in (k, v))  # over blocks of queries
    for rows, queries, keys in blocks:
        own, some_keys = blocks.together(q, rows, queries), blocks.together(k, rows, keys)
        given = blocks.together(grad, rows, queries)
        weights = _weights(own, some_keys, part.mask[queries, keys])
        sums = sum_k[rows, :, keys], sum_v[rows, :, keys]
        sums[1].add_(torch.bmm(weights.transpose(1, 2), given).view(sums[1].shape))
        inner = torch.bmm(given, blocks.together(v, rows, keys).transpose(1, 2))
        inner = torch.ops.aten._softmax_backward_data(inner, weights, -1, weights.dtype)
        sums[0].add_(torch.bmm(inner.transpose(1, 2), own).view(sums[0].shape))
        found = torch.bmm(inner, some_keys).view(-1, plan.heads, queries.stop - queries.start, plan.size)
        of_q.view(blocks.shapes[0])[rows, :, queries] = found
    of_k.view(k.shape).copy_(sum_k)
    of_v.view(v.shape).copy_(sum_v)
