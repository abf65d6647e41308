"""Log-probabilities of given texts: of marked tokens of whole rows, and the largest logits after a prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tailorbird.engine.model import LOGIT_ROWS, Model
from tailorbird.engine.segments import pack

Marked = tuple[Sequence[int], Sequence[bool]]
"""Token ids of a row, and which of them are to be scored."""


@torch.no_grad()
def log_probabilities(model: Model, rows: Sequence[Marked]) -> list[float]:
    """Sum of log p(token | before) over the marked tokens of each row (ids, marked), nats. Token 0 cannot be marked
    unless a soft prompt stands before it."""
    batch = pack([ids for ids, _ in rows], soft=model.virtual_tokens, pairs=model.pairs, device=model.device)
    return read_marked(model, model.forward(batch), rows, batch.starts, before=model.virtual_tokens - 1)


@torch.no_grad()
def read_marked(
    model: Model, hidden: Tensor, rows: Sequence[Marked], starts: Sequence[int], before: int = -1
) -> list[float]:
    """`log_probabilities` of rows that begin at `starts` of hidden (T, hidden). `before`: the place that predicts the
    first token of every row; negative where there is none."""
    places, targets, owner = [], [], []
    for number, ((ids, marked), start) in enumerate(zip(rows, starts, strict=True)):
        for i, wanted in enumerate(marked):
            if wanted:
                if i == 0 and before < 0:
                    raise ValueError("the first token of a row has nothing before it and cannot be scored")
                places.append(start + i - 1 if i else before)
                targets.append(ids[i])
                owner.append(number)
    sums = [0.0] * len(rows)
    for start in range(0, len(places), LOGIT_ROWS):
        stop = start + LOGIT_ROWS
        logits = model.logits(hidden[torch.tensor(places[start:stop], device=model.device)]).float()
        target = torch.tensor(targets[start:stop], device=model.device)
        picked = torch.log_softmax(logits, -1).gather(1, target.unsqueeze(1))[:, 0].double().tolist()
        for value, number in zip(picked, owner[start:stop], strict=True):
            sums[number] += value
    return sums


@torch.no_grad()
def top_logits(model: Model, ids: Sequence[int], count: int = 32) -> tuple[list[int], list[float]]:
    """The `count` largest logits (fp32) after a prompt, one row alone: token ids and values."""
    batch = pack([list(ids)], soft=model.virtual_tokens, pairs=model.pairs, device=model.device)
    logits = model.logits(model.forward(batch)[batch.ends[0]].unsqueeze(0))[0].float()
    values, places = logits.topk(min(count, logits.shape[0]))
    return places.tolist(), values.tolist()
