"""The one largest micro-batch, forward and backward, before step 1: what a training will hold at its peak.

All that is not there yet (masters, moments, sums, the start that L2-SP pulls to) has a size known to the byte and is
added; an accelerator, which says only by failing that it is full, holds as much. Nothing is learned: the gradients are
thrown away.
"""

from __future__ import annotations

import torch

from tailorbird.engine.batches import Batch, RowSource
from tailorbird.engine.memory import PeakMemory, give_back_freed_memory, resident
from tailorbird.engine.model import Model
from tailorbird.engine.train import Loss, Trainable

SCATTERED = 0.1  # of what a batch takes: what lies free between blocks in use after many batches of other sizes


def rehearse_memory(
    model: Model, trainable: Trainable, loss: Loss, batch: Batch, *, several: bool, l2_to_start: float = 0.0
) -> float:
    """Megabytes that the training will hold at its peak. several: a step has other micro-batches, too, so that
    gradients are summed."""
    give_back_freed_memory()
    device, later = model.device.type, optimizer_bytes(trainable, several, l2_to_start)
    before = resident()
    try:
        with PeakMemory(device) as peak:
            held = torch.empty(0 if device == "cpu" else later, dtype=torch.uint8, device=model.device)
            loss(model, batch).backward()  # type: ignore[no-untyped-call]
            del held
    finally:
        for parameter in trainable.parameters.values():
            parameter.grad = None
        give_back_freed_memory()
    seen = later if device == "cuda" else 0  # by the peak; that of other accelerators is the host's alone
    scattered = SCATTERED * max(0.0, peak.megabytes - before / 2**20) if device == "cpu" else 0.0
    return peak.megabytes + scattered + (later - seen) / 2**20


def optimizer_bytes(trainable: Trainable, several: bool, l2_to_start: float = 0.0) -> int:
    """Both moments, the sums of several micro-batches' gradients, and the start; where the network computes in less
    than fp32, a master and the room in which the largest gradient is widened."""
    total = room = 0
    for parameter in trainable.parameters.values():
        low = parameter.element_size() < 4
        width = max(4, parameter.element_size())
        total += parameter.numel() * width * (2 + several + low + bool(l2_to_start))
        room = max(room, parameter.numel() * width * low)
    return total + room


def largest_batch(source: RowSource, steps: int) -> Batch:
    """The micro-batch that takes most of all those of `steps` steps: flat tokens and tokens padded for attention."""

    found = (0, 0, 0)  # size, step, place in it
    for step in range(steps):
        for place, group in enumerate(source.groups(step)):
            lengths = [len(source.rows[number].ids) - source.head for number in group]  # the head stands once
            found = max(found, (sum(lengths) + len(lengths) * max(lengths), step, place))
    return source.next(found[1])[found[2]]


def has_several(source: RowSource, steps: int) -> bool:
    """Whether any of `steps` steps has more than one micro-batch."""
    return any(len(source.groups(step)) > 1 for step in range(steps))
