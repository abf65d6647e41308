"""Where the blocks stand in for transformers' own decoder layers, and where they do not.

A layer is recognized by its structure (the children of Llama's, Qwen2's and Mistral's layers), not by its name, and is
believed only after its output has been compared, in fp32, with transformers' own on this model. From call to call it
goes back to transformers' own forward wherever something stands in it, or is asked of it, that the blocks do not
compute: other modules in the place of its linear layers, hooks, dropout, a cache, another device than the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tailorbird.engine.kernels import blocks, rows
from tailorbird.engine.kernels.linear import Linear
from tailorbird.engine.low_rank import LowRankLinear
from tailorbird.engine.precision import at_least_float32
from tailorbird.engine.segments import Segments

CHILDREN = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
DTYPES = (torch.float64, torch.float32, torch.bfloat16)
TOLERANCE = 1e-4  # of the largest change that a layer makes, in fp32


class Layer:
    """The forward of one decoder layer; `own` is transformers'. The last one gives the wanted positions alone."""

    def __init__(self, layer: nn.Module, last: bool) -> None:
        self.layer, self.own, self.last = layer, layer.forward, last
        self.believed = False
        self.difference: float | None = None  # to transformers' own, of the largest change, while it is being compared

    def __call__(self, hidden_states: Tensor, *args: Any, **named: Any) -> Tensor:
        """hidden_states (1, T, C) -> the same shape; (1, N, C) from the last layer where fewer positions are wanted."""
        segments = named.get("segments")
        if self.believed and not args and segments is not None and self._computes(hidden_states, segments, named):
            return self._blocks(hidden_states, segments, named["position_embeddings"])
        result: Tensor = self.own(hidden_states, *args, **named)
        return result

    def compare(self, hidden_states: Tensor, **named: Any) -> Tensor:
        """Transformers' own output, after noting how far the blocks' lies from it, both computed in fp32 or better: in
        bf16 one rounding of the sum can be more than what the layer adds to it."""
        self.difference = float("inf")
        segments = named.get("segments")
        if segments is not None and self._computes(hidden_states, segments, named):
            x, cos, sin = map(at_least_float32, (hidden_states, *named["position_embeddings"]))
            with _widened(self.layer):
                own = self.own(x, **{**named, "position_embeddings": (cos, sin)})
                apart = (own - self._blocks(x, segments, (cos, sin))).abs()
            rounding = 4 * torch.finfo(own.dtype).eps * own.abs()
            self.difference = float((apart - rounding).max().clamp(min=0.0) / (own - x).abs().max())
        result: Tensor = self.own(hidden_states, **named)
        return result

    def _computes(self, x: Tensor, segments: Any, named: dict[str, Any]) -> bool:
        return (
            x.device.type == "cpu"
            and x.dtype in DTYPES
            and type(segments) is Segments
            and segments.plain
            and named.get("cache") is None
            and named.get("attention_mask") is None
            and all(map(_plain, self._linears()))
            and not any(map(_hooked, self.layer.modules()))
        )

    def _linears(self) -> Iterator[nn.Module]:
        for parent, names in (("self_attn", ATTENTION), ("mlp", MLP)):
            within = getattr(self.layer, parent)
            for name in names:
                yield getattr(within, name)

    def _blocks(self, x: Tensor, segments: Segments, turn: tuple[Tensor, Tensor]) -> Tensor:
        layer: Any = self.layer
        first, second = layer.input_layernorm, layer.post_attention_layernorm
        size, scale = layer.self_attn.head_dim, layer.self_attn.scaling
        linears = [Linear.of(module) for module in self._linears()]
        heads, groups = linears[0].weight.shape[0] // size, linears[1].weight.shape[0] // size
        flat = x[0]
        plan = _plan(segments, len(flat), heads, groups, size, flat.dtype)
        turns = plan.turns(turn, scale)
        flat = _apply(blocks.Attention, flat, first, linears[:4], turns, plan)
        if self.last and segments.wanted is not None and len(segments.wanted) < len(flat):
            flat = flat.index_select(0, segments.wanted)
        return _apply(blocks.Mlp, flat, second, linears[4:]).unsqueeze(0)


def _apply(block: Any, flat: Tensor, norm: Any, linears: Sequence[Linear], *before: Any) -> Tensor:
    scales, tensors = [each.scale for each in linears], [tensor for each in linears for tensor in each.tensors]
    result: Tensor = block.apply(flat, norm.weight, norm.variance_epsilon, *before, scales, *tensors)
    return result


def _plan(segments: Segments, tokens: int, heads: int, groups: int, size: int, dtype: torch.dtype) -> rows.Plan:
    key = (tokens, heads, groups, size, dtype)
    if key not in segments.plans:
        segments.plans[key] = rows.plan(segments, *key)
    found: rows.Plan = segments.plans[key]
    return found


def _plain(module: nn.Module) -> bool:
    if type(module) is LowRankLinear:
        return module.plain and type(module.base) is nn.Linear
    return type(module) is nn.Linear


def _hooked(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def recognized(layer: nn.Module) -> bool:
    """Whether a decoder layer has the structure that the blocks compute."""
    if {name for name, _ in layer.named_children()} != CHILDREN:
        return False
    attention, mlp = layer.get_submodule("self_attn"), layer.get_submodule("mlp")
    norms = [layer.get_submodule(name) for name in CHILDREN if name.endswith("norm")]
    linear = [m for m in (*attention.children(), *mlp.children()) if isinstance(m, nn.Linear | LowRankLinear)]
    others = [m for m in (*attention.children(), *mlp.children()) if m not in linear]
    return (
        {name for name, m in attention.named_children() if m in linear} == set(ATTENTION)
        and {name for name, m in mlp.named_children() if m in linear} == set(MLP)
        and len(list(attention.children())) == len(ATTENTION)
        and all(isinstance(m, nn.SiLU) or type(m).__name__ == "SiLUActivation" for m in others)
        and all(hasattr(attention, name) for name in ("head_dim", "scaling"))
        and all(hasattr(m, "variance_epsilon") and [n for n, _ in m.named_parameters()] == ["weight"] for m in norms)
    )


def install(network: nn.Module) -> list[Layer]:
    """Put a `Layer` in the place of each recognized decoder layer's forward. None is believed before `compare`."""
    made = []
    for stack in network.modules():
        members = list(stack) if isinstance(stack, nn.ModuleList) else []
        for layer in filter(recognized, members):
            made.append(Layer(layer, layer is members[-1]))
            layer.forward = made[-1]
    return made


def compare(installed: list[Layer], forward: Callable[[], object]) -> list[Layer]:
    """Compare every layer in one `forward` of the model; those that agree are believed from now on; the rest."""
    with _forwards(installed, lambda each: each.compare):
        forward()
    for each in installed:
        each.believed = each.difference is not None and each.difference <= TOLERANCE
    return [each for each in installed if not each.believed]


def own_forwards(installed: list[Layer]) -> AbstractContextManager[None]:
    """Transformers' own layers inside the block."""
    return _forwards(installed, lambda each: each.own)


@contextmanager
def _widened(layer: nn.Module) -> Iterator[None]:
    """The layer's parameters in fp32 or better inside the block, and as they were afterwards."""
    before = [(parameter, parameter.data) for parameter in layer.parameters()]
    for parameter, data in before:
        parameter.data = at_least_float32(data)
    try:
        yield
    finally:
        for parameter, data in before:
            parameter.data = data


@contextmanager
def _forwards(installed: list[Layer], of: Callable[[Layer], Callable[..., Tensor]]) -> Iterator[None]:
    before = [each.layer.forward for each in installed]
    for each in installed:
        each.layer.forward = of(each)
    try:
        yield
    finally:
        for each, forward in zip(installed, before, strict=True):
            each.layer.forward = forward
