"""Rows as token ids, and the order in which training meets them.

The order is a pure function of (seed, epoch): nothing about it has to be saved, and a continued run meets the same
rows. Micro-batches are filled by tokens, in the order of the step's rows.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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
    """One forward: `places` are flat positions whose hidden state predicts `targets`."""

    packed: Packed
    places: Tensor
    targets: Tensor
    weights: Tensor
    total: float  # sum of weights


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
    """Batches of training rows by step. `next(step)` is pure: the same step gives the same micro-batches."""

    def __init__(
        self,
        rows: Sequence[Encoded],
        *,
        batch_rows: int,
        micro_batch_tokens: int,
        seed: int,
        soft: int = 0,
        device: str = "cpu",
    ) -> None:
        if not rows:
            raise ValueError("no rows to train on")
        self.rows, self.batch_rows, self.seed, self.soft, self.device = list(rows), batch_rows, seed, soft, device
        self.micro_batch_tokens = micro_batch_tokens
        self.head = shared_head(self.rows)
        self.steps_per_epoch = -(-len(self.rows) // batch_rows)

    def order(self, epoch: int) -> list[int]:
        numbers = list(range(len(self.rows)))
        random.Random(stream(self.seed, "order", epoch)).shuffle(numbers)
        return numbers

    def numbers(self, step: int) -> list[int]:
        epoch, place = divmod(step, self.steps_per_epoch)
        return self.order(epoch)[place * self.batch_rows : (place + 1) * self.batch_rows]

    def next(self, step: int) -> list[Batch]:
        return self.batches([self.rows[number] for number in self.numbers(step)])

    def everything(self) -> list[Batch]:
        """All rows in their own order: for a held-out loss."""
        return self.batches(self.rows)

    def batches(self, rows: Sequence[Encoded]) -> list[Batch]:
        groups: list[list[Encoded]] = [[]]
        tokens = 0
        for row in rows:
            size = len(row.ids) - self.head
            if groups[-1] and tokens + size > self.micro_batch_tokens:
                groups.append([])
                tokens = 0
            groups[-1].append(row)
            tokens += size
        return [self._batch(group) for group in groups]

    def _batch(self, rows: Sequence[Encoded]) -> Batch:
        h = self.head
        packed = pack([row.ids[h:] for row in rows], head=rows[0].ids[:h], soft=self.soft, device=self.device)
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
        weight = torch.tensor(weights, dtype=torch.float32, device=device)
        return Batch(packed, torch.tensor(places, device=device), torch.tensor(targets, device=device), weight, total)
