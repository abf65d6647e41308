"""Rows as token ids, and the order in which training meets them.

The order is a pure function of (seed, epoch): nothing about it has to be saved, and a continued run meets the same
rows. Micro-batches are filled by tokens, in the order of the step's rows.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tailorbird.engine.dropout import token_keys
from tailorbird.engine.segments import Packed, few_sizes, pack


def stream(seed: int, *names: object) -> int:
    """A 63-bit seed for one named use of randomness ("order", epoch; "init"; …)."""
    digest = hashlib.sha256("/".join([str(seed), *map(str, names)]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@dataclass(frozen=True)
class Encoded:
    """One training row: ids, which of them are supervised, its weight."""

    ids: tuple[int, ...]
    supervised: tuple[bool, ...]
    weight: float = 1.0


@dataclass
class Batch:
    """One forward: `places` are flat positions whose hidden state predicts `targets`.

    label_smoothing: share of each target that is spread over the vocabulary; 0 wherever a loss is only looked at.
    """

    packed: Packed
    places: Tensor
    targets: Tensor
    weights: Tensor
    total: float  # sum of weights
    label_smoothing: float = 0.0


def shared_head(rows: Sequence[Encoded]) -> int:
    """Length of the token prefix that all rows share, ending before the token that predicts a first supervised one."""
    if len(rows) < 2:
        return 0
    first = rows[0].ids
    length = min(row.supervised.index(True) - 1 for row in rows)
    for row in rows[1:]:
        length = min(length, len(row.ids))
        while first[:length] != row.ids[:length]:
            length -= 1
    return max(0, length)


class RowSource:
    """Batches of training rows by step. `next(step)` is pure: the same step gives the same micro-batches.

    dropout, label_smoothing: for the steps of training; `everything()`, which a held-out loss is taken on, has neither.
    With dropout each row carries its own head: its mask is the row's own. first_epoch: how many epochs a training was
    long that this one goes on with: order and masks go on, too.
    """

    def __init__(
        self,
        rows: Sequence[Encoded],
        *,
        batch_rows: int,
        micro_batch_tokens: int,
        seed: int,
        soft: int = 0,
        pairs: int = 0,
        device: str = "cpu",
        dropout: bool = False,
        label_smoothing: float = 0.0,
        first_epoch: int = 0,
    ) -> None:
        if not rows:
            raise ValueError("no rows to train on")
        self.rows, self.batch_rows, self.seed, self.soft, self.device = list(rows), batch_rows, seed, soft, device
        self.micro_batch_tokens, self.pairs = micro_batch_tokens, pairs
        self.dropout, self.label_smoothing, self.first_epoch = dropout, label_smoothing, first_epoch
        self.head = 0 if dropout else shared_head(self.rows)
        self.steps_per_epoch = -(-len(self.rows) // batch_rows)
        self._epoch, self._order = -1, list[int]()

    def order(self, epoch: int) -> list[int]:
        if self._epoch != epoch:
            numbers = list(range(len(self.rows)))
            random.Random(stream(self.seed, "order", epoch)).shuffle(numbers)
            self._epoch, self._order = epoch, numbers
        return self._order

    def numbers(self, step: int) -> list[int]:
        epoch, place = divmod(step, self.steps_per_epoch)
        return self.order(self.first_epoch + epoch)[place * self.batch_rows : (place + 1) * self.batch_rows]

    def next(self, step: int) -> list[Batch]:
        found, place = self.batches([self.rows[number] for number in self.numbers(step)]), 0
        masks = step + self.first_epoch * self.steps_per_epoch  # their step's number, counted from the very first
        for batch in found:
            batch.label_smoothing = self.label_smoothing
            if self.soft:
                own = stream(self.seed, "dropout", masks, "soft")
                batch.packed.soft_keys = token_keys([own], [self.soft], self.device)
            if self.dropout:
                batch.packed.keys = self._keys(masks, place, batch.packed)
            place += len(batch.packed.starts)
        return found

    def _keys(self, step: int, first: int, packed: Packed) -> Tensor:
        """Dropout's token keys: the soft prompt's, which stands once in a step, then each row's own."""
        streams, lengths = ["soft"] * bool(self.soft), [self.soft] * bool(self.soft)
        for number, (start, end) in enumerate(zip(packed.starts, packed.ends, strict=True)):
            streams.append(str(first + number))
            lengths.append(end - start + 1)
        streams, lengths = [*streams, "padding"], [*lengths, packed.segments.padding]
        return token_keys([stream(self.seed, "dropout", step, name) for name in streams], lengths, self.device)

    def met(self, steps: int) -> Iterator[Encoded]:
        """The rows of the first `steps` steps, as often as each was met."""
        for step in range(steps):
            yield from (self.rows[number] for number in self.numbers(step))

    def everything(self) -> list[Batch]:
        """All rows in their own order: for a held-out loss."""
        return self.batches(self.rows)

    def groups(self, step: int) -> list[list[int]]:
        """Numbers of the rows of each micro-batch of a step."""
        numbers = self.numbers(step)
        rest = iter(numbers)
        return [[next(rest) for _ in group] for group in self._cut([self.rows[number] for number in numbers])]

    def batches(self, rows: Sequence[Encoded]) -> list[Batch]:
        return [self._batch(group) for group in self._cut(rows)]

    def _cut(self, rows: Sequence[Encoded]) -> list[list[Encoded]]:
        groups: list[list[Encoded]] = [[]]
        tokens = 0
        for row in rows:
            size = len(row.ids) - self.head
            if groups[-1] and tokens + size > self.micro_batch_tokens:
                groups.append([])
                tokens = 0
            groups[-1].append(row)
            tokens += size
        return groups

    def _batch(self, rows: Sequence[Encoded]) -> Batch:
        h = self.head
        packed = pack(
            [row.ids[h:] for row in rows],
            head=rows[0].ids[:h],
            soft=self.soft,
            pairs=self.pairs,
            device=self.device,
        )
        places, targets, weights = [], [], []
        for row, start in zip(rows, packed.starts, strict=True):
            for i, wanted in enumerate(row.supervised):
                if wanted:
                    places.append(start + i - h - 1)
                    targets.append(row.ids[i])
                    weights.append(row.weight)
        device, total = self.device, sum(weights)
        unused = few_sizes(len(places)) - len(places)  # of weight 0: see segments, "Few sizes"
        places += [0] * unused
        targets += [0] * unused
        weights += [0.0] * unused
        exact = torch.float32 if device.startswith("mps") else torch.float64  # MPS has no float64
        weight = torch.tensor(weights, dtype=exact, device=device)
        return Batch(packed, torch.tensor(places, device=device), torch.tensor(targets, device=device), weight, total)
