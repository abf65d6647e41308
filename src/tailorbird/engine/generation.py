"""Greedy answers for a batch of prompts: one packed prefill, then a cached step per token.

Plain on purpose: rows of a batch run until all have stopped; greedy, since a measured answer must be repeatable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tailorbird.engine import segments
from tailorbird.engine.model import Model
from tailorbird.engine.segments import DecodeStep, KeyValues, pack
from tailorbird.types import Stop


@dataclass
class Generated:
    tokens: list[int]  # without the end token
    stop: Stop


@torch.no_grad()
def generate(
    model: Model,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    end_ids: frozenset[int],
    cached: KeyValues | None = None,
) -> list[Generated]:
    """Greedy continuation of each prompt. prompts: ids behind a head whose keys are `cached`."""
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
    batch = pack(prompts, cached=cached, device=model.device)
    record = batch.segments.record = KeyValues()
    hidden = model.forward(batch)
    ends = torch.tensor(batch.ends, device=model.device)
    next_ids = model.logits(hidden[ends]).float().argmax(-1)
    step = _room(record, cached, prompts, max_new_tokens)
    answers: list[list[int]] = [[] for _ in prompts]
    stops: list[Stop | None] = [None] * len(prompts)
    for produced in range(max_new_tokens):
        for row, token in enumerate(next_ids.tolist()):
            if stops[row] is None:
                if token in end_ids:
                    stops[row] = Stop.END
                else:
                    answers[row].append(token)
        if produced + 1 == max_new_tokens or all(stop is not None for stop in stops):
            break
        embedded = model.embeddings(next_ids).unsqueeze(0)
        longest = min(segments.few_sizes(int(step.lengths.max()) + 1), step.keys[0].shape[2])
        step.mask = (torch.arange(longest, device=model.device) <= step.lengths.unsqueeze(1))[:, None, None, :]
        hidden = model.hidden_states(embedded, step.positions, step)
        step.lengths = step.lengths + 1
        next_ids = model.logits(hidden).float().argmax(-1)
    return [Generated(tokens, stop or Stop.LENGTH) for tokens, stop in zip(answers, stops, strict=True)]


def _room(record: KeyValues, cached: KeyValues | None, prompts: Sequence[Sequence[int]], new: int) -> DecodeStep:
    """Caches with room for the new tokens: [head | prompt | new], right-padded per row. A long head stays apart."""
    apart = cached is not None and cached.length >= segments.LONG_HEAD
    head = 0 if cached is None or apart else cached.length
    longest = max(map(len, prompts))
    capacity = head + longest + new
    keys, values = [], []
    for layer, (key, value) in enumerate(zip(record.keys, record.values, strict=True)):
        rows, groups, _, size = key.shape
        room_k, room_v = key.new_zeros(rows, groups, capacity, size), key.new_zeros(rows, groups, capacity, size)
        if head and cached is not None:
            room_k[:, :, :head], room_v[:, :, :head] = cached.keys[layer], cached.values[layer]
        own = slice(head, head + longest)
        room_k[:, :, own], room_v[:, :, own] = key[:, :, :longest], value[:, :, :longest]
        keys.append(room_k)
        values.append(room_v)
    lengths = torch.tensor([head + len(prompt) for prompt in prompts], device=keys[0].device)
    return DecodeStep(keys, values, lengths, mask=torch.empty(0), cached=cached if apart else None)
