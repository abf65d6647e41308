"""Micro-batches cut so that a training fits the memory it may use: decided once, before step 1, and kept.

The plan chose by the model's shape; here the one largest micro-batch is tried. Too large: halved, down to the longest
row; then with activation checkpointing; then refused. A smaller micro-batch gives the same gradient (up to rounding).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tailorbird import store
from tailorbird.customize.job import Job
from tailorbird.errors import ResourceError

if TYPE_CHECKING:
    from tailorbird.engine.batches import RowSource
    from tailorbird.engine.model import Model
    from tailorbird.engine.train import Loss, Trainable


class TooLarge(ResourceError):
    """Not even the longest row alone fits, with layers computed again."""


TOO_MUCH = "more memory than there is"


def fit_memory(
    job: Job, model: Model, trainable: Trainable, loss: Loss, source: RowSource, steps: int, l2_to_start: float
) -> bool:
    """Sets `source.micro_batch_tokens`, and the model to recompute where it must; returns whether it recomputes.

    A choice that is kept holds unless the limit has been lowered below what it takes, the training then ran out of
    memory, or the kernel killed for memory while it was running (see `noted_end`): then it goes on with less.
    """
    from tailorbird.engine.memory import PeakMemory, killed_for_memory, more_killed, out_of_memory
    from tailorbird.engine.rehearse_memory import has_several, largest_batch, rehearse_memory

    limit = job.compute.memory_bytes if job.compute.device == "cpu" else 0  # an accelerator says itself when it is full
    path, killed = job.fitted, killed_for_memory()
    chosen: dict[str, Any] = {"micro_batch_tokens": source.micro_batch_tokens, "recompute": job.compute.recompute}
    chosen |= {"said": [], "peak_memory_mb": None, "tried": False, "ran_out": False, "killed": killed}
    if path.is_file():
        chosen |= store.read_json(path)
    source.micro_batch_tokens = chosen["micro_batch_tokens"]
    if chosen["recompute"]:
        model.recompute_layers()
    held = None
    if more_killed(chosen["killed"], killed):
        held = "more memory than there was: the kernel stopped a process for it"
    elif chosen["ran_out"]:
        held = TOO_MUCH
    elif chosen["tried"] and _too_much(chosen["peak_memory_mb"], limit):
        held = _gigabytes(chosen["peak_memory_mb"])
    chosen["killed"] = killed
    while held or not chosen["tried"]:
        chosen |= {"tried": False, "ran_out": False}
        if held:
            store.write_json(path, chosen)  # what is refused now may fit when less runs beside it: then it is tried
            _take_less(job, model, source, steps, chosen, held, limit)
        held = None
        store.write_json(path, chosen)  # before it is tried: whoever comes after a kill knows what was too much
        try:
            store.fault("rehearse-memory")
            loaded = PeakMemory.so_far()
            batch, several = largest_batch(source, steps), has_several(source, steps)
            peak = rehearse_memory(model, trainable, loss, batch, several=several, l2_to_start=l2_to_start)
            chosen |= {"tried": True, "peak_memory_mb": peak, "loaded_mb": loaded}
            held = _gigabytes(peak) if _too_much(peak, limit) else None
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            held = TOO_MUCH
    store.write_json(path, chosen)
    for text in chosen["said"]:
        job.say(text)
    return bool(chosen["recompute"])


@contextmanager
def noted_end(job: Job) -> Iterator[None]:
    """Around a training. One that ends by an error, or is stopped, was not killed: whatever the kernel kills until it
    goes on is another program. One that ran out of memory goes on with smaller micro-batches."""
    from tailorbird.engine.memory import out_of_memory

    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        noted = {"killed": {}, "ran_out": out_of_memory(error)}
        store.write_json(job.fitted, store.read_json(job.fitted) | noted)
        raise


def after_rehearsal(job: Job) -> None:
    """The training begins with what its rehearsal had to choose; its own largest micro-batch is yet to be tried."""
    if job.fitted.is_file():
        yet: dict[str, Any] = {"tried": False, "peak_memory_mb": None, "ran_out": False, "killed": {}}
        store.write_json(job.fitted, store.read_json(job.fitted) | yet)


def _too_much(megabytes: float | None, limit: int) -> bool:
    return bool(limit) and megabytes is not None and megabytes * 2**20 > limit


def _gigabytes(megabytes: float) -> str:
    return f"about {megabytes * 2**20 / 1e9:.1f} GB"


def _take_less(
    job: Job, model: Model, source: RowSource, steps: int, chosen: dict[str, Any], held: str, limit: int
) -> None:
    """Half the micro-batch, down to the longest row; then layers computed again; then TooLarge."""
    from tailorbird.engine.rehearse_memory import largest_batch

    packed = largest_batch(source, steps).packed
    tokens = sum(end - start + 1 for start, end in zip(packed.starts, packed.ends, strict=True))
    longest = max(len(row.ids) for row in source.rows) - source.head
    if tokens > longest:
        source.micro_batch_tokens = chosen["micro_batch_tokens"] = max(longest, tokens // 2)
        said = f"a micro-batch of {tokens:,} tokens takes {held}: cut to {source.micro_batch_tokens:,}"
    elif not chosen["recompute"]:
        chosen["recompute"] = True
        model.recompute_layers()
        said = f"the longest row alone takes {held}: activations are computed again in the backward pass"
    else:
        allowed = f", and {limit / 1e9:.1f} GB may be used" if limit else ""
        raise TooLarge(
            f"training {job.label} takes {held} with the longest row ({longest:,} tokens) alone{allowed}",
            remedy="raise limits.memory_gb if the machine has more, leave out the longest rows, "
            "or take a technique that trains less (lora, prompt_tuning) or a smaller base",
        )
    chosen["said"] = [*chosen["said"], said]
