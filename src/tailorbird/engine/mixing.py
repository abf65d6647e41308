"""Rows of many customizations of one frozen base in one forward: each behind its own head, under its own update.

What stands before a row (soft prompt, shared prompt beginning) is computed once under its own customization and kept as
keys and values. A batch is a list of shares, a share the rows of one owner: they lie side by side in the flat sequence,
attend to their own head and to themselves, and a layer with low-rank updates adds to each owner's tokens that owner's.
Everything else of the forward, all that costs, is one product over the tokens of all.

Refused: parts that change the base's own weights, or put another library's layers in their place. LoRA as in Hu et al.
2021, §4.1; one product a layer with small ones beside it for each adapter as in Sheng et al. 2023, "S-LoRA", §4.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tailorbird.artifacts.parts import Parts
from tailorbird.engine.attaching import Attachment
from tailorbird.engine.generation import Generated, Prefilled, decode, prefill
from tailorbird.engine.low_rank import replaced
from tailorbird.engine.model import Model
from tailorbird.engine.scoring import Marked, Trie, lay_out, read_labels, read_marked
from tailorbird.engine.segments import DecodeStep, KeyValues, Packed, Segments, Several, few_sizes, pack
from tailorbird.errors import ArtifactError

UNMIXABLE = {
    "weights": "whole weights, which are another base",
    "delta": "some of the base's own weights changed",
    "peft": "layers of the PEFT library in place of the base's",
}


@dataclass
class Scored:
    """Prompts (ids behind a head whose keys are `cached`) and the labels to choose from. Gives (rows, labels) scores,
    nats, float64 on the CPU."""

    prompts: Sequence[Sequence[int]]
    trie: Trie
    cached: KeyValues | None = None
    owner: str | None = None


@dataclass
class Written:
    """Prompts to be answered greedily, each with at most so many new tokens. Gives `Generated`, one a prompt."""

    prompts: Sequence[Sequence[int]]
    limits: Sequence[int]
    cached: KeyValues | None = None
    owner: str | None = None


Share = Scored | Written


@torch.no_grad()
def answer(model: Model, shares: Sequence[Share], end_ids: frozenset[int]) -> list[Tensor | list[Generated]]:
    """One forward over all rows of all shares, then a decode step a token for those that are written."""
    batches: list[Packed] = []
    nodes: list[tuple[Tensor, Trie]] = []
    filled: list[Prefilled] = []
    ends: list[int] = []
    at = 0
    for share in shares:
        if isinstance(share, Scored):
            batch, read = lay_out(share.prompts, share.trie, share.cached, model.device)
            nodes.append((read + at, share.trie))
        else:
            batch, one = prefill(share.prompts, share.limits, share.cached, model.device)
            one.owner = share.owner
            filled.append(one)
            ends += [at + end for end in batch.ends]
        batches.append(batch)
        at += batch.ids.numel()
    hidden = model.forward(joined(batches, [share.owner for share in shares]))
    scores = iter(read_labels(model, hidden, nodes) if nodes else [])
    last = hidden[torch.tensor(ends, dtype=torch.long, device=model.device)]
    del hidden
    written = iter(decode(model, last, filled, end_ids) if filled else [])
    return [next(scores) if isinstance(s, Scored) else [next(written) for _ in s.prompts] for s in shares]


@torch.no_grad()
def log_probabilities(
    model: Model, shares: Sequence[tuple[str, KeyValues | None, Sequence[Marked]]]
) -> list[list[float]]:
    """As `scoring.log_probabilities`, for (owner, keys of its soft prompt, rows); token 0 of a row cannot be marked."""
    batches = [pack([ids for ids, _ in rows], cached=cached, device=model.device) for _, cached, rows in shares]
    whole = joined(batches, [owner for owner, _, _ in shares])
    every = [row for _, _, rows in shares for row in rows]
    values = iter(read_marked(model, model.forward(whole), every, whole.starts))
    return [[next(values) for _ in rows] for _, _, rows in shares]


def joined(batches: Sequence[Packed], owners: Sequence[str | None]) -> Packed:
    """Flat batches one behind the other, as one. A batch of nobody's, alone, stays as it is."""
    if len(batches) == 1 and owners[0] is None:
        return batches[0]
    parts: list[tuple[int, Segments | DecodeStep]] = []
    starts: list[int] = []
    ends: list[int] = []
    at = 0
    for batch in batches:
        assert isinstance(batch.segments, Segments)
        parts.append((batch.ids.numel(), batch.segments))
        starts += [at + start for start in batch.starts]
        ends += [at + end for end in batch.ends]
        at += batch.ids.numel()
    padding = few_sizes(at) - at
    ids, positions = (
        F.pad(torch.cat([getattr(batch, name) for batch in batches]), (0, padding)) for name in ("ids", "positions")
    )
    whose = [(tokens, owner or "") for (tokens, _), owner in zip(parts, owners, strict=True)]
    return Packed(ids, positions, Several(parts, whose, padding), starts, ends)


class Mixture:
    """Customizations of one base, by owner, ready to be put in place together. An owner without parts is the base.

    ArtifactError where a customization has a part that cannot be mixed, or one that does not fit the base, by name.
    """

    def __init__(self, model: Model, parts: Mapping[str, Parts]) -> None:
        self.model = model
        self._whose = Whose()
        self._attachments: dict[str, Attachment] = {}
        for owner, own in parts.items():
            if kind := next((kind for kind in UNMIXABLE if kind in own.kinds), None):
                raise ArtifactError(
                    f"cannot be mixed with others: it is {UNMIXABLE[kind]}",
                    where=owner,
                    remedy="open it by itself",
                )
            try:
                self._attachments[owner] = Attachment(model, own)
            except ArtifactError as error:
                raise ArtifactError(error.what, where=owner, remedy=error.remedy) from error
        self._layers = _mixed_layers(model.network, self._attachments, self._whose)

    @contextmanager
    def alone(self, owner: str) -> Iterator[Model]:
        """The model with the parts of one owner, as it is when nothing is mixed."""
        attachment = self._attachments[owner]
        try:
            attachment.put()
            with torch.no_grad():
                yield self.model
        finally:
            attachment.take()

    def head(self, owner: str, ids: Sequence[int] = ()) -> KeyValues | None:
        """Keys and values of what stands before the rows of an owner: its soft prompt, then `ids`."""
        with self.alone(owner) as model:
            return model.cache_head(ids)

    @contextmanager
    def attached(self) -> Iterator[Model]:
        """The model with the updates of all owners; `answer` and `log_probabilities` say whose each row is."""
        restore = replaced(self.model.network, self._layers)
        hook = self.model.body.register_forward_pre_hook(self._whose.look, with_kwargs=True)
        try:
            with torch.no_grad():
                yield self.model
        finally:
            hook.remove()
            restore()


def attach(model: Model, parts: Mapping[str, Parts]) -> Mixture:
    """Many customizations on one base, for batches in which each row names its owner."""
    return Mixture(model, parts)


class Whose:
    """Whose tokens the running forward has where: (first, behind the last, owner), in the order of the sequence."""

    def __init__(self) -> None:
        self.spans: list[tuple[int, int, str]] = []

    def look(self, body: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        """A forward pre-hook: takes the owners out of the structure that the forward is given."""
        structure = named["segments"]
        if not isinstance(structure, Several):
            raise RuntimeError("with several customizations in place a forward must say whose each row is")
        self.spans, start = [], 0
        for tokens, owner in structure.owners:
            self.spans.append((start, start + tokens, owner))
            start += tokens


class MixedLowRankLinear(nn.Module):
    """A linear layer whose output gets, on the tokens of each owner that has one, that owner's update; for inference.

    updates: A (rank, in) and B (out, rank) with the scale in it, by owner, in the layer's own type.
    """

    def __init__(self, base: nn.Module, updates: Mapping[str, tuple[Tensor, Tensor]], whose: Whose) -> None:
        super().__init__()
        self.base, self.updates, self.whose = base, updates, whose

    def forward(self, x: Tensor) -> Tensor:
        """x (1, T, in) -> (1, T, out)"""
        out: Tensor = self.base(x)
        tokens, into = x.flatten(0, -2), out.view(-1, out.shape[-1])
        for start, stop, owner in self.whose.spans:
            if (update := self.updates.get(owner)) is not None:
                into[start:stop].addmm_(F.linear(tokens[start:stop], update[0]), update[1].t())
        return out


def _mixed_layers(network: nn.Module, attachments: Mapping[str, Attachment], whose: Whose) -> dict[str, nn.Module]:
    """The layers that some owner updates, wrapped, by name."""
    updates: dict[str, dict[str, tuple[Tensor, Tensor]]] = {}
    dtype = next(network.parameters()).dtype
    for owner, attachment in attachments.items():
        for name, (a, b) in attachment.update.items():
            updates.setdefault(name, {})[owner] = (a.to(dtype), (b * attachment.scale).to(dtype))
    return {name: MixedLowRankLinear(network.get_submodule(name), own, whose) for name, own in updates.items()}
