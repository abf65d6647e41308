"""Time and memory of a contestant from FLOPs and the probed speed. Estimates for deciding, never reported as measured.

F = forward FLOPs of one token through the body (2 x its weights), H = 2 x vocabulary x hidden size (one logits row).

    training    epochs x (rows x ((question behind the head + answer) x F + answer x H) + steps x head x F) x passes
                passes: 3 when all weights learn (forward, two gradients), 2.1 for adapters (no weight gradients)
    scoring     rows x (question behind the head + label tree) x F + label tree x H
    writing     rows x (question x F + answer x (F + H) / DECODE)      one token at a time, bound by memory
    forgetting  texts x RETENTION_TOKENS x (F + H)

all divided by the probed GFLOP/s x TRAINING or FORWARD, plus reading and writing of files at DISK bytes/s. The factors
reproduce the measured speeds of SmolLM2-135M on two cores (SFT 15 rows/s, scoring 80 rows/s) within a third.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tailorbird.plan.facts import Facts

TRAINING, FORWARD = 0.5, 0.8
DECODE = 0.15
DISK = 300e6
RETENTION_TOKENS = 150
RETENTION_TEXTS = {"fast": 80, "full": 272}
LATENCY_REQUESTS = 20
OPENING_SECONDS = 2.0
ASSUMED_GFLOPS = {"float32": 60.0, "bfloat16": 110.0}  # per thread-pair of a server core, where no probe has run
PROCESS_BYTES = 700_000_000  # Python with torch and transformers loaded
ACTIVATION_BYTES = (
    24  # per token, layer and hidden unit (attention and MLP, kept for the backward pass), in units of 2 bytes
)


@dataclass(frozen=True)
class Estimate:
    seconds: float
    memory_bytes: int
    steps: int
    step_seconds: float


def speed(facts: Facts, dtype: str) -> float:
    """FLOP/s of a linear layer here, by the probe."""
    gflops = facts.machine.gflops.get(dtype) or ASSUMED_GFLOPS[dtype] * max(1, facts.machine.threads) / 2
    return gflops * 1e9


def estimate(
    facts: Facts, technique: str, *, trained: bool, settings: dict, dtype: str, micro_batch_tokens: int, retention: str
) -> Estimate:
    """What one technique contestant costs on this machine."""
    base, lengths = facts.base, facts.lengths
    training, forward = speed(facts, dtype) * TRAINING, speed(facts, dtype) * FORWARD
    body, head = base.flops_per_token, 2.0 * base.vocabulary * base.hidden_size
    behind = max(1.0, lengths.prompt - lengths.head)

    def answering(rows: int) -> float:
        if lengths.label_nodes:
            return rows * ((behind + lengths.label_nodes) * body + lengths.label_nodes * head) / forward
        return rows * (behind * body + lengths.answer * (body + head) / DECODE) / forward

    measured = facts.sizes["validation"] + facts.sizes["test"]
    seconds = OPENING_SECONDS + answering(measured)
    seconds += LATENCY_REQUESTS * answering(1) / DECODE
    steps, step_seconds = 0, 0.0
    if trained:
        whole = is_whole(technique)
        passes = 3.0 if whole else 2.1
        batch = int(settings.get("batch_rows", 16))
        epochs = float(settings.get("epochs", 1))
        steps = max(1, math.ceil(epochs * math.ceil(facts.sizes["train"] / batch)))
        row = (behind + lengths.answer) * body + lengths.answer * head
        step_seconds = (min(batch, facts.sizes["train"]) * row + lengths.head * body) * passes / training
        seconds += steps * step_seconds + epochs * facts.sizes["tuning"] * row / forward
        texts = RETENTION_TEXTS.get(retention, RETENTION_TEXTS["full"])
        seconds += texts * RETENTION_TOKENS * (body + head) / forward
        written = base.parameters * 4.0 if whole else 0.0
        seconds += 3 * written / DISK + OPENING_SECONDS
    else:
        searches = int(settings.get("draws", 1)) + 1
        seconds += searches * answering(facts.sizes["tuning"])
    return Estimate(seconds, memory(facts, technique, trained, dtype, micro_batch_tokens), steps, step_seconds)


def is_whole(technique: str) -> bool:
    """Whether all weights learn; unknown techniques of the user's are taken as small."""
    return technique == "sft"


def memory(facts: Facts, technique: str, trained: bool, dtype: str, micro_batch_tokens: int) -> int:
    """Peak bytes of a contestant, everything in one process."""
    from tailorbird.bases.catalog import full_training_bytes

    base = facts.base
    width = 2 if dtype == "bfloat16" else 4
    held = PROCESS_BYTES + base.parameters * width
    activations = micro_batch_tokens * base.layers * base.hidden_size * ACTIVATION_BYTES * width // 2
    if not trained:
        return held + activations // max(1, base.layers)
    if is_whole(technique):
        return max(full_training_bytes(base.parameters), held + base.parameters * 20 + activations)
    return held + activations
