"""AdamW over fp32 masters, clipping and the learning-rate schedule.

Weights stored in bf16 do not learn (an update of 1e-4 vanishes in the rounding of 1.0; on the default base the loss
stood at 3.99 where fp32 reached 1.40), so whatever is trained has a master copy in fp32; the network computes with its
rounding. Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor, nn

from tailorbird import store
from tailorbird.engine.kernels.table import forget, spend

WIDENED = 4 << 20  # elements whose gradients are widened at once for AdamW: 16 MB in fp32
PIECE = 1 << 18  # and for the norm: 1 MB
ON_CARD = 1 << 26  # for both on an accelerator, where no cache is to be kept warm but kernels are to be few: 256 MB
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # AdamW's state of one parameter


@dataclass(frozen=True)
class Schedule:
    """Learning rate by step: linear warm-up, then constant, linear or cosine decay to zero. Steps count from 0."""

    learning_rate: float
    steps: int
    warmup_share: float
    decay: Literal["constant", "linear", "cosine"]

    def at(self, step: int) -> float:
        warmup = math.ceil(self.warmup_share * self.steps)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        if self.decay == "constant":
            return self.learning_rate
        progress = (step - warmup) / max(1, self.steps - warmup)
        factor = 1.0 - progress if self.decay == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
        return self.learning_rate * factor


class Optimizer:
    """Owns the masters of `parameters` (the tensors the network computes with).

    l2_to_start: decoupled decay towards the values at the start, not towards zero: w -= rate * l2 * (w - w_start). Li,
    Grandvalet & Davoine 2018, "Explicit Inductive Bias for Transfer Learning with Convolutional Networks", §3.2,
    equation 2 (L2-SP), whose gradient is taken out of Adam's as weight decay's is in AdamW.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], weight_decay: float, clip: float, l2_to_start: float = 0.0
    ) -> None:
        self.parameters = dict(parameters)
        low = (torch.bfloat16, torch.float16)
        self.masters: dict[str, Tensor] = {
            name: p.detach().float().clone() if p.dtype in low else p for name, p in self.parameters.items()
        }
        self.clip, self.l2_to_start = clip, l2_to_start
        self.start = {name: m.detach().clone() for name, m in self.masters.items()} if l2_to_start else {}
        matrices = [m for m in self.masters.values() if m.dim() >= 2]
        vectors = [m for m in self.masters.values() if m.dim() < 2]
        groups = [
            {"params": group, "weight_decay": decay}
            for group, decay in ((matrices, weight_decay), (vectors, 0.0))
            if group
        ]
        self.adam = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999), eps=1e-8, foreach=False, fused=True)
        self.sums: dict[str, Tensor] = {}  # this step's gradients: as they came, in fp32 from the second micro-batch on
        self._room = torch.empty(0)  # where gradients of a lower type are widened, some at a time

    @torch.no_grad()
    def begin(self, masters: Mapping[str, Tensor], moments: Mapping[str, Tensor] = MappingProxyType({})) -> None:
        """Start from these fp32 values instead of the parameters' rounding of them, and with these moments (named as in
        `state`; of all parameters or none)."""
        for name, value in masters.items():
            self.masters[name].copy_(value)
            if name in self.start:
                self.start[name].copy_(value)
        if moments:
            self.load({**{f"master/{name}": master for name, master in self.masters.items()}, **moments})
        self.publish()

    def collect(self) -> None:
        """Move this micro-batch's gradients out of the network, summed in at least fp32."""
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                continue
            gradient, parameter.grad = parameter.grad, None
            if gradient.is_sparse:
                gradient = gradient.to_dense()
            if name in self.sums:
                self.sums[name] = self.sums[name].to(self.masters[name].dtype).add_(gradient)
                spend(parameter, gradient)
            else:
                self.sums[name] = gradient

    def norm(self, scale: float) -> float:
        """Global L2 norm of the collected gradients times `scale`."""
        squares = [torch.linalg.vector_norm(part) ** 2 for name in sorted(self.sums) for part in self._parts(name)]
        return float(torch.stack(squares).sum().sqrt()) * scale if squares else 0.0

    def _parts(self, name: str) -> Iterator[Tensor]:
        """The gradient in the master's type: whole, or piece by piece where that takes widening."""
        gradient, dtype = self.sums[name], self.masters[name].dtype
        if gradient.dtype == dtype:
            yield gradient
            return
        for part in gradient.reshape(-1).split(_at_once(gradient, PIECE)):
            yield part.to(dtype)

    def step(self, learning_rate: float, scale: float) -> None:
        """One update with the collected gradients times `scale` (1 / supervised tokens, and clipping)."""
        for group in self.adam.param_groups:
            group["lr"] = learning_rate
        with torch.no_grad():
            for name, start in self.start.items():
                self.masters[name].lerp_(start, min(1.0, learning_rate * self.l2_to_start))
        for names in self._portions():
            self._widen(names, scale)
            self.adam.step()  # of those that have a gradient
            self.publish(names)
            for name in names:
                self.masters[name].grad = None
        store.fault("optimizer")
        self.discard()
        if self.start:  # those without a gradient were drawn to the start, too
            self.publish()

    def _portions(self) -> list[list[str]]:
        """The collected names, cut so that the widened gradients of a portion are few and, on the CPU, stay in the
        cache until they are used."""
        portions: list[list[str]] = []
        room = 0
        for name in self.masters:
            if name in self.sums:
                size = self.masters[name].numel()
                if not portions or room + size > _at_once(self.masters[name], WIDENED):
                    portions.append([])
                    room = 0
                portions[-1].append(name)
                room += size
        return portions

    def _widen(self, names: list[str], scale: float) -> None:
        """Gradients times `scale`, in the masters' type, to where AdamW looks for them."""
        sizes = [self.masters[name].numel() for name in names]
        if any(self.sums[name].dtype != self.masters[name].dtype for name in names) and self._room.numel() < sum(sizes):
            self._room = torch.empty(sum(sizes), device=self.masters[names[0]].device)
        at = 0
        for name, size in zip(names, sizes, strict=True):
            master, gradient = self.masters[name], self.sums[name]
            if gradient.dtype != master.dtype:
                gradient = self._room[at : at + size].view_as(master).copy_(gradient)
                at += size
            master.grad = gradient.mul_(scale)

    def discard(self) -> None:
        for name, gradient in self.sums.items():
            spend(self.parameters[name], gradient)
        self.sums.clear()
        for master in self.masters.values():
            master.grad = None

    @torch.no_grad()
    def publish(self, names: Iterable[str] | None = None) -> None:
        """Round the masters, or those named, into the network's own dtype."""
        for name in self.parameters if names is None else names:
            parameter = self.parameters[name]
            if self.masters[name] is not parameter:
                parameter.copy_(self.masters[name])

    def state(self) -> dict[str, Tensor]:
        """All tensors a continuation needs: masters and both moments."""
        tensors = {f"master/{name}": m.detach() for name, m in self.masters.items()}
        for name, master in self.masters.items():
            for part, value in self.adam.state.get(master, {}).items():
                tensors[f"{part}/{name}"] = value if isinstance(value, Tensor) else torch.tensor(float(value))
        return tensors

    def updated(self) -> dict[str, int]:
        """How many elements of each parameter have ever had a gradient: those whose second moment is not 0."""
        none = torch.zeros(())
        squares = {name: self.adam.state.get(m, {}).get("exp_avg_sq", none) for name, m in self.masters.items()}
        return {name: int(torch.count_nonzero(square)) for name, square in squares.items()}

    def moments(self) -> dict[str, Tensor]:
        """Copies of both moments and the number of updates of every parameter; zeros where it was never updated."""
        found: dict[str, Tensor] = {}
        for name, master in self.masters.items():
            new = {"step": torch.zeros(()), "exp_avg": torch.zeros_like(master), "exp_avg_sq": torch.zeros_like(master)}
            own = {**new, **self.adam.state.get(master, {})}
            found |= {f"{part}/{name}": own[part].detach().clone() for part in MOMENTS}
        return found

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        for name, master in self.masters.items():
            master.copy_(tensors[f"master/{name}"])
            self.adam.state.pop(master, None)
            if f"exp_avg/{name}" in tensors:
                self.adam.state[master] = {
                    part: tensors[f"{part}/{name}"].to(master.device, copy=True) for part in MOMENTS
                }
        self.publish()

    def release(self) -> None:
        """Give up moments and sums, when nothing will be learned any more: three quarters of what is held."""
        self.adam.state.clear()
        self._room = torch.empty(0)
        self.discard()
        for parameter in self.parameters.values():
            forget(parameter)

    def master_copy(self) -> dict[str, Tensor]:
        return {name: m.detach() for name, m in self.masters.items()}


def _at_once(x: Tensor, on_cpu: int) -> int:
    return on_cpu if x.device.type == "cpu" else ON_CARD
