"""Micro-batches cut so that a training fits the memory it may use: decided once, before step 1, and kept.

The plan chose by the model's shape; here the one largest micro-batch is tried. Too large: halved, down to the longest
row; then with activation checkpointing; then refused. A smaller micro-batch gives the same gradient (up to rounding).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tailorbird import store
from tailorbird.customize.job import Job
from tailorbird.errors import ResourceError

if TYPE_CHECKING:
    from tailorbird.engine.batches import RowSource
    from tailorbird.engine.model import Model
    from tailorbird.engine.train import Loss, Trainable


def fit_memory(
    job: Job, model: Model, trainable: Trainable, loss: Loss, source: RowSource, steps: int, l2_to_start: float
) -> bool:
    """Sets `source.micro_batch_tokens`, and the model to recompute where it must; returns whether it recomputes."""
    kept = job.work / "memory.json"
    if not kept.is_file():
        store.write_json(kept, _try(job, model, trainable, loss, source, steps, l2_to_start))
    elif store.read_json(kept)["recompute"]:
        model.recompute_layers()
    chosen = store.read_json(kept)
    source.micro_batch_tokens = chosen["micro_batch_tokens"]
    for text in chosen["said"]:
        job.say(text)
    return bool(chosen["recompute"])


def _try(
    job: Job, model: Model, trainable: Trainable, loss: Loss, source: RowSource, steps: int, l2_to_start: float
) -> dict[str, Any]:
    from tailorbird.engine.memory import out_of_memory
    from tailorbird.engine.rehearse_memory import largest_batch, rehearse_memory

    limit = job.compute.memory_bytes if job.compute.device == "cpu" else 0  # an accelerator says itself when it is full
    recompute, said = job.compute.recompute, list[str]()
    if recompute:
        model.recompute_layers()
    longest = max(len(row.ids) for row in source.rows) - source.head
    while True:
        batch = largest_batch(source, steps)
        peak: float | None = None
        held = "more memory than there is"
        try:
            peak = rehearse_memory(model, trainable, loss, batch, l2_to_start=l2_to_start)
            if peak is None or not limit or peak * 2**20 <= limit:
                chosen = {"micro_batch_tokens": source.micro_batch_tokens, "recompute": recompute, "said": said}
                return {**chosen, "peak_memory_mb": peak}
            held = f"about {peak * 2**20 / 1e9:.1f} GB"
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
        tokens = sum(end - start + 1 for start, end in zip(batch.packed.starts, batch.packed.ends, strict=True))
        if tokens > longest:
            source.micro_batch_tokens = max(longest, tokens // 2)
            said.append(f"a micro-batch of {tokens:,} tokens takes {held}: cut to {source.micro_batch_tokens:,}")
        elif not recompute:
            recompute = True
            model.recompute_layers()
            said.append(f"the longest row alone takes {held}: activations are computed again in the backward pass")
        else:
            allowed = f", and {limit / 1e9:.1f} GB may be used" if limit else ""
            raise ResourceError(
                f"training {job.label} takes {held} with the longest row ({longest:,} tokens) alone{allowed}",
                remedy="raise limits.memory_gb if the machine has more, leave out the longest rows, "
                "or take a technique that trains less (lora, prompt_tuning) or a smaller base",
            )
