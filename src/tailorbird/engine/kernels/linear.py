"""y = x W^T + b, with a low-rank update s B A x where there is one: forward, and the gradients that somebody needs.

The update goes into the product's own output and its gradient into the input's own gradient (addmm in place): no pass
over the tokens is made for the sum alone. Hu et al. 2021, "LoRA", §4.1, equation 3.

Letters: T tokens, I inputs, O outputs, r rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from tailorbird.engine.low_rank import LowRankLinear

TENSORS = 4  # of one linear layer: weight, bias, A, B


@dataclass(frozen=True)
class Linear:
    """weight (O, I), bias (O,), A (r, I), B (O, r) and the scale s of the update; None where there is none."""

    weight: Tensor
    bias: Tensor | None
    a: Tensor | None
    b: Tensor | None
    scale: float = 1.0

    @staticmethod
    def of(layer: nn.Module) -> Linear:
        if isinstance(layer, LowRankLinear):
            base = layer.base
            assert isinstance(base, nn.Linear)
            return Linear(base.weight, base.bias, layer.lora_A, layer.lora_B, layer.scale)
        assert isinstance(layer, nn.Linear)
        return Linear(layer.weight, layer.bias, None, None)

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        return self.weight, self.bias, self.a, self.b

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """x (T, I) -> the output (T, O), and A x (T, r), which `backward` wants back."""
        out = F.linear(x, self.weight, self.bias)
        if self.a is None or self.b is None:
            return out, None
        low = F.linear(x, self.a.to(x.dtype))
        return out.addmm_(low, self._update(x).t()), low

    def _update(self, like: Tensor) -> Tensor:
        """s B in the compute dtype: the scale meets B, not the tokens."""
        assert self.b is not None
        return (self.b * self.scale).to(like.dtype)

    def backward(
        self,
        grad: Tensor,
        x: Tensor | None,
        low: Tensor | None,
        needs: Sequence[bool],
        into: Tensor | None,
        inputs: bool,
    ) -> tuple[Tensor | None, list[Tensor | None]]:
        """grad (T, O) -> the gradient of x, added to `into` (T, I) if that is given (None unless `inputs`), and those
        of weight, bias, A, B as far as `needs` asks. x and `low` are read only for the weights' gradients."""
        found: list[Tensor | None] = [None] * TENSORS
        if needs[0]:
            assert x is not None
            found[0] = grad.t() @ x
        if needs[1]:
            found[1] = grad.sum(0)
        if inputs:
            into = grad @ self.weight if into is None else into.addmm_(grad, self.weight)
        if self.a is None or self.b is None:
            return into, found
        if needs[3]:
            assert low is not None
            found[3] = (grad.t() @ low).to(self.b.dtype).mul_(self.scale)
        if inputs or needs[2]:
            through = grad @ self._update(grad)  # (T, r)
            if needs[2]:
                assert x is not None
                found[2] = (through.t() @ x).to(self.a.dtype)
            if inputs:
                assert into is not None
                into.addmm_(through, self.a.to(grad.dtype))
        return into, found
