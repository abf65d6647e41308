"""Slow references over transformers' own forward, one row at a time."""

from __future__ import annotations

import torch

from tailorbird.engine import segments
from tailorbird.engine.model import Model


def flat(model: Model, prompt: list[int], label: tuple[int, ...]) -> float:
    """Reference: one row, plain forward, sum of log-softmax at the label's tokens."""
    ids = torch.tensor([prompt + list(label)])
    network = model.network
    network.set_attn_implementation("sdpa")
    with torch.no_grad():
        logits = network(input_ids=ids, use_cache=False).logits[0].double()
    network.set_attn_implementation(segments.NAME)
    table = torch.log_softmax(logits, -1)
    return sum(float(table[len(prompt) + i - 1, token]) for i, token in enumerate(label))
