"""Attention of packed rows, forward and backward, over rows grouped by their lengths.

Rows of very different lengths padded to the longest cost several times the products that are needed, so the rows of a
batch are cut into groups of similar length. Each group gathers its queries and keys, the shared head's keys among them,
in one step out of the flat sequence, and what comes out is gathered back: both ways a permutation, no sums but the
head's, to which every row contributes.

Products in the compute dtype, softmax in fp32. Groups of more than `EXPLICIT_WEIGHTS` weights take torch's fused kernel
(Dao et al. 2022, "FlashAttention"), which never holds them.

Letters as in `segments.py`; K = keys of a group: its head and Q.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tailorbird.engine import segments
from tailorbird.engine.segments import Segments, at_least_float32, few_sizes

Turn = tuple[Tensor, Tensor]  # cos and sin, (T, 1, D / 2)
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
    fused: bool


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
    parts: list[Group] = []
    outputs = torch.zeros(tokens, heads, dtype=torch.long)
    inputs = torch.zeros(tokens, groups, dtype=torch.long)
    todo = [([0], [s.head], 0)] if s.head else []  # (starts, lengths, head): the head attends to itself
    for numbers in cut(lengths, s.head):
        todo.append(([starts[i] for i in numbers], [lengths[i] for i in numbers], s.head))
    slots = key_slots = 0
    for own, long, head in todo:
        part, at, key_at = _group(own, long, head, heads, groups, dtype)
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
    starts: Sequence[int], lengths: Sequence[int], head: int, heads: int, groups: int, dtype: torch.dtype
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
    fused = rows * heads * length * keys > segments.EXPLICIT_WEIGHTS
    queries = own.unsqueeze(1) * heads + torch.arange(heads).view(1, -1, 1)  # (S, H, Q)
    taken = seen.unsqueeze(1) * groups + torch.arange(groups).view(1, -1, 1)  # (S, G, K)
    mask = torch.zeros(length, keys, dtype=torch.promote_types(dtype, torch.float32))
    mask.masked_fill_(~torch.ones(length, keys, dtype=torch.bool).tril(head), float("-inf"))
    unused = (~valid).unsqueeze(1).expand(rows, heads, length).reshape(-1).nonzero().view(-1)
    part = Group(rows, length, head, queries.reshape(-1), taken.reshape(-1), unused, mask, fused)
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
        kept += (
            _fused(query, key, value, part, plan, out) if part.fused else _explicit(query, key, value, part, plan, out)
        )
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
        work = _fused_backward if part.fused else _explicit_backward
        saved = kept[taken : taken + (5 if part.fused else 4)]
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
    scores = torch.bmm(query, key.transpose(1, 2))
    wide = at_least_float32(scores)
    wide.view(-1, *part.mask.shape).add_(part.mask)
    weights = wide.softmax(-1).to(query.dtype)
    torch.bmm(weights, value, out=out.view(query.shape))
    return [query, key, value, weights]


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


def _repeated(x: Tensor, part: Group, plan: Plan) -> Tensor:
    """(S * G * K, D) -> (S, H, K, D): torch's kernel wants a key head for each query head."""
    return x.view(part.rows, plan.groups, -1, plan.size).repeat_interleave(plan.heads // plan.groups, dim=1)


def _fused(query: Tensor, key: Tensor, value: Tensor, part: Group, plan: Plan, out: Tensor) -> list[Tensor]:
    query = query.view(part.rows, plan.heads, -1, plan.size)
    key, value = _repeated(key, part, plan), _repeated(value, part, plan)
    found, total = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, attn_mask=_flash_mask(part, query), scale=1.0
    )
    out.view(query.shape).copy_(found)
    return [query, key, value, found, total]


def _flash_mask(part: Group, like: Tensor) -> Tensor:
    return part.mask.to(like.dtype)


def _fused_backward(
    grad: Tensor, kept: Sequence[Tensor], part: Group, plan: Plan, of_q: Tensor, of_k: Tensor, of_v: Tensor
) -> None:
    query, key, value, found, total = kept
    made = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad.view(query.shape),
        query,
        key,
        value,
        found,
        total,
        0.0,
        False,
        attn_mask=_flash_mask(part, query),
        scale=1.0,
    )
    of_q.view(query.shape).copy_(made[0])
    shared = (part.rows, plan.groups, -1, *key.shape[2:])  # (S, G, H/G, K, D)
    for place, gradient in ((of_k, made[1]), (of_v, made[2])):
        torch.sum(gradient.reshape(shared), 2, out=place.view(part.rows, plan.groups, *key.shape[2:]))
