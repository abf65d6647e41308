"""Peak memory of a training from shapes alone, and the micro-batch that is chosen by it.

    peak      process + weights + learned x (master, two moments, sums of gradients, start)
              + SLACK x (max(activations + output's gradient, learned x gradient) + logits)
    logits    vocabulary x (LOSS_ROWS positions at most in the compute dtype, which become their own gradient,
              and WIDE_ROWS of them and their probabilities in fp32)

The output's gradient is there before the backward pass begins (see `kernels/cross_entropy.py`), where weights learn.

Activations are what autograd keeps for the backward pass, counted layer by layer on this engine's forward of a Llama
layer (h hidden, k key/value width, I intermediate, in elements of the compute dtype unless said otherwise):

    each token                2h in fp32 (the input of both norms), 3I (gate, its activation, up)
    each token, weights learn or have low-rank layers: 3h + I (what linear layers look at), and with low-rank layers the
                              rank of each; where all weights learn 2h (normalized, for the norms' own weights)
    each padded row token     h (queries); and k twice for each token it looks back at (keys, values)
    each attention weight     fp32, and once more in bf16; long rows instead keep keys and values for every query head
    dropout                   6h + I twice in low-rank layers (mask and product), h twice before all layers
    recomputed layers         h for each token and layer, and one layer in full

Fitted (PROCESS_BYTES, SLACK) to SmolLM2-135M on two cores: `benchmarks/bench_memory.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from tailorbird import techniques
from tailorbird.engine.sizes import EXPLICIT_WEIGHTS, LOSS_ROWS, WIDE_ROWS
from tailorbird.plan.facts import Facts
from tailorbird.techniques.base import Learned, Trained
from tailorbird.types import BaseFacts

PROCESS_BYTES = 550_000_000  # Python with torch and transformers loaded
SLACK = 1.25  # of what comes and goes: rounded sizes, and what lies free between blocks in use
LARGEST = 2.5  # standard deviations above the mean: the largest of many steps


@dataclass(frozen=True)
class MicroBatch:
    """The largest one of a training. head: shared tokens, soft prompt included. tokens: of all rows behind the head,
    longest: of one of them. answers: supervised tokens."""

    head: float
    tokens: float
    rows: float
    longest: float
    answers: float


@dataclass(frozen=True)
class Choice:
    """`fits` False: `memory_bytes` is the least this training can do with."""

    micro_batch_tokens: int
    recompute: bool
    memory_bytes: int
    fits: bool


def choose(facts: Facts, technique: str, settings: dict[str, Any], dtype: str, tokens: int, limit: int) -> Choice:
    """The largest micro-batch of at most `tokens` tokens that stays within `limit` bytes (0: not known): halved down to
    the longest row, then so with recomputed layers."""
    least = max(1, facts.lengths.longest - (0 if settings.get("dropout") else facts.lengths.head))
    sizes = [tokens]
    while sizes[-1] > least:
        sizes.append(max(least, sizes[-1] // 2))
    found = Choice(tokens, False, 0, False)
    for recompute in (False, True):
        for size in sizes:
            needed = training_bytes(facts, technique, settings, dtype, size, recompute)
            found = Choice(size, recompute, needed, not limit or needed <= limit)
            if found.fits:
                return found
    return found


def training_bytes(
    facts: Facts, technique: str, settings: dict[str, Any], dtype: str, micro_batch_tokens: int, recompute: bool = False
) -> int:
    """Peak resident bytes of training, everything in one process."""
    base, width = facts.base, 2 if dtype == "bfloat16" else 4
    learned = learned_by(technique, settings, base, facts.sizes["train"])
    batch = largest_micro_batch(facts, settings, micro_batch_tokens, learned.virtual_tokens)
    kept = activations(base, learned, batch, width, dropout=bool(settings.get("dropout")), recompute=recompute)
    learned_width = width if learned.whole else 4
    state = learned.parameters * (12 + (4 if learned_width == 2 else 0) + (4 if settings.get("l2_to_start") else 0))
    if not learned.whole:
        state += learned.parameters * 4
    if learned.whole:
        kept += base.vocabulary * base.hidden_size * width
    gradient = learned.parameters * learned_width
    logits = logit_bytes(batch.answers, base.vocabulary, width)
    return int(PROCESS_BYTES + base.parameters * width + state + (max(kept, gradient) + logits) * SLACK)


def logit_bytes(answers: float, vocabulary: int, width: int) -> float:
    """Bytes that the cross entropy of so many positions holds at once."""
    return vocabulary * (min(answers, LOSS_ROWS) * width + min(answers, WIDE_ROWS) * 2 * 4)


def largest_micro_batch(
    facts: Facts, settings: dict[str, Any], micro_batch_tokens: int, virtual_tokens: int = 0
) -> MicroBatch:
    """From the rows' mean length and its spread: the step with most tokens, cut where the micro-batch is full."""
    lengths, in_step = facts.lengths, min(int(settings.get("batch_rows") or 16), max(1, facts.sizes["train"]))
    shared = 0 if settings.get("dropout") else lengths.head
    mean = max(1.0, lengths.prompt + lengths.answer - shared)
    most = min(in_step * mean + LARGEST * math.sqrt(in_step) * lengths.spread, in_step * (lengths.longest - shared))
    tokens = min(float(micro_batch_tokens), most)
    rows = max(1.0, min(in_step, in_step * tokens / most))
    longest = max(mean, min(tokens, lengths.longest - shared))
    return MicroBatch(shared + virtual_tokens, max(tokens, longest), rows, longest, rows * lengths.answer)


def activations(
    base: BaseFacts, learned: Learned, batch: MicroBatch, width: int, *, dropout: bool, recompute: bool
) -> float:
    """Bytes kept for the backward pass, logits left out."""
    if recompute:
        last = replace(learned, layers=1)
        one = activations(base, last, batch, width, dropout=dropout, recompute=False)
        return one + (learned.layers or base.layers) * (batch.head + batch.tokens) * base.hidden_size * width
    h, k, wide = base.hidden_size, base.kv_heads * base.head_dim, base.intermediate_size
    tokens = batch.head + batch.tokens
    each = 2 * h * 4 + 3 * wide * width
    if learned.inputs:
        each += (3 * h + wide) * width + 7 * learned.rank * width
    if learned.whole:
        each += 2 * h * width
    if dropout and learned.rank:
        each += 2 * (6 * h + wide) * width
    attended = learned.pairs + batch.head + batch.longest
    padded = batch.rows * batch.longest
    weights = base.heads * padded * attended
    attention = padded * h * width
    if weights > EXPLICIT_WEIGHTS:
        attention += (2 * batch.rows * attended + padded) * h * width
    else:
        attention += 2 * batch.rows * attended * k * width + weights * (4 if width == 4 else 6)
    before = 2 * tokens * h * width if dropout and not learned.rank else 0.0
    return (learned.layers or base.layers) * (tokens * each + attention) + before


def learned_by(technique: str, settings: dict[str, Any], base: BaseFacts, rows: int) -> Learned:
    """What the technique says that it trains with these settings, over its defaults for so many rows."""
    found = techniques.get(technique)
    if not isinstance(found, Trained):
        raise TypeError(f"{technique} trains nothing")
    return found.learned(found.settings(settings, base, rows), base)
