"""The two halves of a decoder layer of Llama's kind, each one step of the graph with a backward pass of its own:

    x + W_o attention(turn(W_q n), turn(W_k n), W_v n)     n = norm(x)
    x + W_d (silu(W_g n) * W_u n)                           n = norm(x)

Touvron et al. 2023, "LLaMA: Open and Efficient Foundation Language Models", §2.2. Every linear layer may bear a
low-rank update. Nothing is computed for a tensor that asks for no gradient, and nothing is kept for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from tailorbird.engine.kernels import linear, norm, rotary, rows
from tailorbird.engine.kernels.linear import TENSORS, Linear

NORM = 2  # inputs of a block before its linear layers' tensors: x and the norm's weight


class Attention(Function):
    """x (T, C), the norm's weight, the tensors of q, k, v, o -> (T, C). `turns`: of q (times the scale of the scores),
    and of k."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, eps: float, turns: tuple[rows.Turn, rows.Turn], plan: rows.Plan,
        scales: Sequence[float], *tensors: Tensor | None,
    ) -> Tensor:  # fmt: skip
        layers = _linears(tensors, scales)
        needs = _needs(ctx, len(scales))
        normal, inverse = norm.forward(x, weight, eps)
        (q, k, v), low = linear.forward(layers[:3], normal)
        q, k = rotary.rotate(q, *turns[0]), rotary.rotate(k, *turns[1])
        seen, kept = rows.forward(q, k, v, plan)
        (out,), low_o = linear.forward(layers[3:], seen)
        if any(ctx.needs_input_grad):
            of_weights = any(map(any, needs[:3]))
            ctx.save_for_backward(
                x, weight, inverse, normal if of_weights else None, seen if any(needs[3]) else None,
                low, low_o, *tensors, *kept,
            )  # fmt: skip
            ctx.turns, ctx.plan, ctx.scales, ctx.needs = turns, plan, scales, needs
        return out.add_(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight, inverse, normal, seen, low, low_o, *rest = ctx.saved_tensors
        count = TENSORS * len(ctx.scales)
        layers = _linears(rest[:count], ctx.scales)
        needs, deeper = ctx.needs, any(ctx.needs_input_grad[:NORM])
        below = deeper or any(map(any, needs[:3]))
        of_seen, of_o = linear.backward(layers[3:], [grad], seen, low_o, needs[3:], below)
        if of_seen is None:
            return (None,) * (6 + 3 * TENSORS) + tuple(of_o)
        of_q, of_k, of_v = rows.backward(of_seen, ctx.plan, rest[count:])
        of_q, of_k = (rotary.rotate(g, cos, -sin) for g, (cos, sin) in zip((of_q, of_k), ctx.turns, strict=True))
        into, of_qkv = linear.backward(layers[:3], [of_q, of_k, of_v], normal, low, needs[:3], deeper)
        of_x, of_weight = _through_norm(ctx, into, grad, x, weight, inverse)
        return of_x, of_weight, None, None, None, None, *of_qkv, *of_o


class Mlp(Function):
    """x (T, C), the norm's weight, the tensors of gate, up, down -> (T, C)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, eps: float, scales: Sequence[float], *tensors: Tensor | None
    ) -> Tensor:
        layers = _linears(tensors, scales)
        needs = _needs(ctx, len(scales))
        normal, inverse = norm.forward(x, weight, eps)
        (gate, up), low = linear.forward(layers[:2], normal)
        active = F.silu(gate)
        inner = active * up
        (out,), low_down = linear.forward(layers[2:], inner)
        if any(ctx.needs_input_grad):
            of_weights = any(map(any, needs[:2]))
            ctx.save_for_backward(
                x, weight, inverse, normal if of_weights else None, gate, up, active,
                inner if any(needs[2]) else None, low, low_down, *tensors,
            )  # fmt: skip
            ctx.scales, ctx.needs = scales, needs
        return out.add_(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight, inverse, normal, gate, up, active, inner, low, low_down, *rest = ctx.saved_tensors
        layers = _linears(rest, ctx.scales)
        needs, deeper = ctx.needs, any(ctx.needs_input_grad[:NORM])
        below = deeper or any(map(any, needs[:2]))
        of_inner, of_down = linear.backward(layers[2:], [grad], inner, low_down, needs[2:], below)
        if of_inner is None:
            return (None,) * (4 + 2 * TENSORS) + tuple(of_down)
        of_up = active * of_inner
        of_gate = torch.ops.aten.silu_backward(of_inner.mul_(up), gate)
        into, of_both = linear.backward(layers[:2], [of_gate, of_up], normal, low, needs[:2], deeper)
        of_x, of_weight = _through_norm(ctx, into, grad, x, weight, inverse)
        return of_x, of_weight, None, None, *of_both, *of_down


def _linears(tensors: Sequence[Tensor | None], scales: Sequence[float]) -> list[Linear]:
    made = []
    for number, scale in enumerate(scales):
        weight, bias, a, b = tensors[number * TENSORS : (number + 1) * TENSORS]
        assert weight is not None
        made.append(Linear(weight, bias, a, b, scale))
    return made


def _needs(ctx: Any, layers: int) -> list[tuple[bool, ...]]:
    """Of each linear layer: which of its tensors, the last inputs of a block, ask for a gradient."""
    flags = ctx.needs_input_grad[-layers * TENSORS :]
    return [tuple(flags[start : start + TENSORS]) for start in range(0, len(flags), TENSORS)]


def _through_norm(
    ctx: Any, into: Tensor | None, grad: Tensor, x: Tensor, weight: Tensor, inverse: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of x, the block's own sum included, and of the norm's weight; `into`: that of the normed x."""
    if into is None:
        return None, None
    of_x, of_weight = norm.backward(into, x, weight, inverse, ctx.needs_input_grad[1])
    return of_x.add_(grad).to(x.dtype), of_weight
