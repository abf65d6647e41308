"""How far one model's next-token distributions lie from another's, along given continuations.

KL(p || q) = sum over the vocabulary of p (log p - log q), nats (Kullback and Leibler 1951, eq. 2.4), at every position
that predicts a token of the continuation. Over the whole vocabulary and in fp32: an estimate from the sampled tokens
alone, log p - log q, has the same mean and many times the variance. Logits exist for `LOGIT_ROWS` positions at once.

Letters: N positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from tailorbird.engine.model import Model
from tailorbird.engine.precision import in_float64
from tailorbird.engine.segments import pack
from tailorbird.engine.sizes import LOGIT_ROWS

Attached = Callable[[], AbstractContextManager[Model]]
"""Gives the model with its parts in place; two of them may be one network, so they are entered in turn."""


@dataclass(frozen=True)
class Walk:
    """Token ids and the first position whose prediction is looked at; all behind it are, too."""

    ids: tuple[int, ...]
    first: int

    @property
    def positions(self) -> int:
        return len(self.ids) - self.first


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q), nats: logits (N, V) of both -> (N,) fp32. Equal logits give exactly 0."""
    log_p, log_q = torch.log_softmax(p.float(), -1), torch.log_softmax(q.float(), -1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


@torch.no_grad()
def divergences(base: Attached, custom: Attached, walks: Sequence[Walk]) -> list[float]:
    """Sum of KL(base || custom) over the positions of each walk, nats; one batch of walks, packed."""
    before, after = (_hidden(attached, walks) for attached in (base, custom))  # (N, hidden) each
    values: list[float] = []
    for start in range(0, len(before), LOGIT_ROWS):
        with base() as model:
            p = model.logits(before[start : start + LOGIT_ROWS])
        with custom() as model:
            q = model.logits(after[start : start + LOGIT_ROWS])
        values += in_float64(divergence(p, q)).tolist()
    sums, at = [], 0
    for walk in walks:
        sums.append(sum(values[at : at + walk.positions]))
        at += walk.positions
    return sums


def _hidden(attached: Attached, walks: Sequence[Walk]) -> Tensor:
    """(N, hidden): final hidden states at the positions looked at, walk by walk."""
    with attached() as model:
        batch = pack([walk.ids for walk in walks], soft=model.virtual_tokens, pairs=model.pairs, device=model.device)
        places = [
            start + i for walk, start in zip(walks, batch.starts, strict=True) for i in range(walk.first, len(walk.ids))
        ]
        return model.forward(batch)[torch.tensor(places, device=model.device)]
