"""The gradient of an embedding table that learns: a fifth of a small model, and often its output matrix, too.

What the lookup adds is rows of a few tokens. Autograd would join the two parts in a third matrix of the table's size;
here the rows are added in place, and the memory of a gradient that was used up takes the next one: fresh memory of
that size has every page faulted in anew.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# Attribute of a parameter whose gradient `product` makes: memory to write the next one to, or None.
_SPENT = "spent_gradient"


def look_up(weight: Tensor, ids: Tensor, padding_idx: int | None) -> Tensor:
    """weight (V, C), ids (N,) -> (N, C). After the backward pass `weight.grad` has these rows added; sparse if no other
    gradient of it came."""
    if not (weight.requires_grad and torch.is_grad_enabled()) or weight.device.type != "cpu":
        return F.embedding(ids, weight, padding_idx)
    alias = weight.detach().requires_grad_(True)

    def join(alias: Tensor) -> None:
        rows, alias.grad = alias.grad, None
        if rows is not None:
            weight.grad = rows if weight.grad is None else weight.grad.add_(rows)

    alias.register_post_accumulate_grad_hook(join)
    return F.embedding(ids, alias, padding_idx, sparse=True)


def product(of_logits: Tensor, hidden: Tensor, weight: Tensor) -> Tensor:
    """(N, V)^T @ (N, C): a gradient of `weight`, in the memory of the last one if that is used up."""
    if weight.device.type != "cpu":  # an accelerator's allocator keeps what is freed
        return of_logits.t() @ hidden
    memory: Tensor | None = getattr(weight, _SPENT, None)
    setattr(weight, _SPENT, None)
    return of_logits.t() @ hidden if memory is None else torch.mm(of_logits.t(), hidden, out=memory)


def spend(parameter: Tensor, gradient: Tensor) -> None:
    """The gradient is used up, and nothing else refers to its memory."""
    if hasattr(parameter, _SPENT) and gradient.shape == parameter.shape and gradient.dtype == parameter.dtype:
        setattr(parameter, _SPENT, gradient)


def forget(parameter: Tensor) -> None:
    """Give up the memory that `spend` kept."""
    if hasattr(parameter, _SPENT):
        delattr(parameter, _SPENT)
