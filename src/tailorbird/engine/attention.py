"""Attention over segments: what transformers calls in every layer, for packed rows, decode steps and several of both.

Each row sees the head (or the prefix, or what is cached) and itself; see `segments.py` for the structures and the
letters. Sums of exponentials are taken in fp32 or better.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tailorbird.engine.precision import at_least_float32
from tailorbird.engine.segments import DecodeStep, Segments, Several, Windows
from tailorbird.engine.sizes import EXPLICIT_WEIGHTS
from tailorbird.errors import ResourceError

NAME = "tailorbird_segments"
CHOOSE = "choose a Llama-, Qwen-, Mistral- or GPT-2-like base"
BLOCK_WEIGHTS = 1_000_000  # of a block where nothing is kept: 4 MB in fp32, which stay in the cache over the passes
LONG_HEAD = 256  # tokens of a cached head from which on its keys are not copied to every row
# What transformers hands on to every layer and no attention computes with: positions are in the keys already.
NO_ARITHMETIC = frozenset({"position_ids", "cache_position", "use_cache", "return_dict"})


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
    segments: Segments | DecodeStep | Several | Windows | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **others: object,
) -> tuple[Tensor, None]:
    """The function transformers calls in every layer. query (1, H, T, D), key and value (1, G, T, D) -> (1, T, H, D).

    `attention_mask` is None by construction (see `register`); without `segments` this is plain causal attention. That
    no row is longer than the layer's `sliding_window`, so that the window changes nothing, `Model.hidden_states` sees
    to. Anything else that a layer asks of its attention (soft-capped scores, sinks) would change every answer: refused.
    """
    if dropout:
        raise RuntimeError("attention dropout is not supported over packed rows; the base must be in evaluation mode")
    silent = NO_ARITHMETIC.union(name for name, value in others.items() if value is None or value is False)
    asked = [name for name in others if name not in silent]
    asked += ["attention_mask"] if attention_mask is not None else []
    asked += ["is_causal=False"] if is_causal is False else []
    if asked:
        raise ResourceError(
            f"the attention of this base asks for what is not computed here: {', '.join(sorted(asked))}",
            where=type(module).__name__,
            remedy=CHOOSE,
        )
    if isinstance(segments, Windows):
        segments.found += [sliding_window] if sliding_window else []
        segments = None
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
