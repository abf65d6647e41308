"""Greedy answers for a batch of prompts: one packed prefill, then a cached step per token.

Plain on purpose: rows of a batch run until all have stopped; greedy, since a measured answer must be repeatable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from tailorbird.engine import attention
from tailorbird.engine.model import Model
from tailorbird.engine.segments import DecodeStep, KeyValues, Packed, Segments, Several, few_sizes, pack
from tailorbird.types import Stop


@dataclass
class Generated:
    tokens: list[int]  # without the end token
    stop: Stop


@dataclass
class Prefilled:
    """Prompts behind one head, as a prefill has left them.

    record: their own keys and values. lengths, limits: prompt tokens and the most new tokens of each row.
    owner: whose rows they are, where there are several.
    """

    record: KeyValues
    cached: KeyValues | None
    lengths: list[int]
    limits: list[int]
    owner: str | None = None

    @property
    def apart(self) -> bool:
        """A long head is held once; a short one is copied to the cache of every row."""
        return self.cached is not None and self.cached.length >= attention.LONG_HEAD

    @property
    def head(self) -> int:
        """Tokens of the head in the cache of every row."""
        return 0 if self.cached is None or self.apart else self.cached.length


def prefill(
    prompts: Sequence[Sequence[int]], limits: Sequence[int], cached: KeyValues | None, device: torch.device
) -> tuple[Packed, Prefilled]:
    """The flat batch of prompts behind a head whose keys are `cached`, and where its forward leaves their own."""
    if min(limits) < 1:
        raise ValueError(f"max_new_tokens must be at least 1, not {min(limits)}")
    batch, record = pack(prompts, cached=cached, device=device), KeyValues()
    assert isinstance(batch.segments, Segments)
    batch.segments.record = record
    return batch, Prefilled(record, cached, [len(prompt) for prompt in prompts], list(limits))


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
    batch, filled = prefill(prompts, [max_new_tokens] * len(prompts), cached, model.device)
    hidden = model.forward(batch)
    return decode(model, hidden[torch.tensor(batch.ends, device=model.device)], [filled], end_ids)


@torch.no_grad()
def decode(model: Model, hidden: Tensor, filled: Sequence[Prefilled], end_ids: frozenset[int]) -> list[Generated]:
    """Greedy continuation of all rows together. hidden: (rows of all, hidden) at the last token of each prompt."""
    limits = [limit for one in filled for limit in one.limits]
    steps = _steps(filled)
    next_ids = model.logits(hidden).float().argmax(-1)
    answers: list[list[int]] = [[] for _ in limits]
    stops: list[Stop | None] = [None] * len(answers)
    while True:
        for row, token in enumerate(next_ids.tolist()):
            if stops[row] is None:
                if token in end_ids:
                    stops[row] = Stop.END
                else:
                    answers[row].append(token)
                    stops[row] = Stop.LENGTH if len(answers[row]) == limits[row] else None
        if all(stop is not None for stop in stops):
            break
        embedded = model.embeddings(next_ids).unsqueeze(0)
        for step in steps:
            longest = min(few_sizes(int(step.lengths.max()) + 1), step.keys[0].shape[2])
            step.mask = (torch.arange(longest, device=model.device) <= step.lengths.unsqueeze(1))[:, None, None, :]
        positions = torch.cat([step.positions for step in steps])
        hidden = model.hidden_states(embedded, positions, _structure(steps, filled))
        # A row that has stopped writes over its own last place from then on: its cache needs no more room.
        goes_on = torch.tensor([stop is None for stop in stops], device=model.device)
        for step, going in zip(steps, goes_on.split([len(step.lengths) for step in steps]), strict=True):
            step.lengths = step.lengths + going
        next_ids = model.logits(hidden).float().argmax(-1)
    return [Generated(tokens, stop or Stop.LENGTH) for tokens, stop in zip(answers, stops, strict=True)]


def _structure(steps: Sequence[DecodeStep], filled: Sequence[Prefilled]) -> DecodeStep | Several:
    if len(steps) == 1 and filled[0].owner is None:
        return steps[0]
    owners = [(len(one.lengths), one.owner or "") for one in filled]
    return Several([(len(step.lengths), step) for step in steps], owners)


def _steps(filled: Sequence[Prefilled]) -> list[DecodeStep]:
    """One structure for neighbours whose heads are copied to each row, one for each head that is held once."""
    together = groupby(enumerate(filled), key=lambda one: one[0] if one[1].apart else -1)
    return [_room([one for _, one in group]) for _, group in together]


def _room(filled: Sequence[Prefilled]) -> DecodeStep:
    """Caches with room for the new tokens: [head | prompt | new], right-padded per row."""
    capacity = max(
        one.head + length + limit for one in filled for length, limit in zip(one.lengths, one.limits, strict=True)
    )
    rows = sum(len(one.lengths) for one in filled)
    keys, values = [], []
    for layer, like in enumerate(filled[0].record.keys):
        shape = (rows, like.shape[1], capacity, like.shape[3])
        room_k, room_v = like.new_zeros(shape), like.new_zeros(shape)
        start = 0
        for one in filled:
            own = slice(start, start + len(one.lengths))
            start += len(one.lengths)
            if one.head and one.cached is not None:
                room_k[own, :, : one.head] = one.cached.keys[layer]
                room_v[own, :, : one.head] = one.cached.values[layer]
            longest = max(one.lengths)
            place = slice(one.head, one.head + longest)
            room_k[own, :, place] = one.record.keys[layer][:, :, :longest]
            room_v[own, :, place] = one.record.values[layer][:, :, :longest]
        keys.append(room_k)
        values.append(room_v)
    lengths = torch.tensor([one.head + length for one in filled for length in one.lengths], device=keys[0].device)
    return DecodeStep(keys, values, lengths, mask=torch.empty(0), cached=filled[0].cached if filled[0].apart else None)
