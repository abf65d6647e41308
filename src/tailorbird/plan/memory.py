"""Peak memory of a training from shapes alone, and the micro-batch that is chosen by it.

    peak      process + weights + the larger of the base's file, which is read, and:
              learned x (master, two moments, start) + the largest learned tensor in fp32, if weights are in bf16
              + SLACK x (max(activations + output's gradient, learned x gradient) + logits)
              + learned x fp32 sums of gradients, where a step has several micro-batches
    logits    vocabulary x (LOSS_ROWS positions at most in the compute dtype, which become their own gradient,
              and WIDE_ROWS of them and their probabilities in fp32)

The output's gradient is there before the backward pass begins (see `kernels/cross_entropy.py`), where weights learn.

Activations are what autograd keeps for the backward pass, counted layer by layer on a Llama layer (h hidden, q query
width, k key/value width, I intermediate, in elements of the compute dtype unless said otherwise). In our own blocks
(`kernels/blocks.py`):

    each token                2h (the input of both halves), 3I (gate, its activation, up)
    each token, weights learn or have low-rank layers: 3h + I (what linear layers look at), and with low-rank layers the
                              rank of each
    each padded row token     q (queries); k twice for it and for what its row looks back at (keys, values)
    each attention weight     once, unless there are so many that they are computed again

and in transformers' own layers:

    each token                2h in fp32 (the input of both norms), 3I
    each token, weights learn or have low-rank layers: as above; where all weights learn 2h (normalized, for the norms'
                              own weights)
    each padded row token     q; and k twice for each token it looks back at
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
ROUNDED = 8  # tokens by which a row is rounded up to one of few lengths, on average, and padded within its group
OF_LLAMA_S_KIND = ("llama", "mistral", "qwen2")  # whose layers `kernels/layers.py` recognizes


@dataclass(frozen=True)
class MicroBatch:
    """The largest one of a training. head: shared tokens, soft prompt included. tokens: of all rows behind the head,
    longest: of one of them. answers: supervised tokens. several: its step has others, too."""

    head: float
    tokens: float
    rows: float
    longest: float
    answers: float
    several: bool = False


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
    dropout = bool(settings.get("dropout"))
    kept = activations(
        base, learned, batch, width,
        dropout=dropout, recompute=recompute, blocks=in_blocks(facts, learned, dropout=dropout),
    )  # fmt: skip
    gradient_width = width if learned.whole else 4
    state = learned.parameters * (12 + (4 if settings.get("l2_to_start") else 0))
    if batch.several:
        state += learned.parameters * 4
    if learned.whole:
        output = base.vocabulary * base.hidden_size
        kept += output * width
        state += output * 4 if width < 4 else 0
    gradient = learned.parameters * gradient_width
    logits = logit_bytes(batch.answers, base.vocabulary, width)
    trained = state + (max(kept, gradient) + logits) * SLACK
    return int(PROCESS_BYTES + base.parameters * width + max(trained, base.weight_bytes))


def in_blocks(facts: Facts, learned: Learned, *, dropout: bool) -> bool:
    """Whether the decoder layers will be computed by our own blocks."""
    return (
        facts.machine.device == "cpu"
        and facts.base.model_type in OF_LLAMA_S_KIND
        and not learned.own_layers
        and not learned.pairs
        and not (dropout and learned.rank)
    )


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
    several = most > micro_batch_tokens
    return MicroBatch(shared + virtual_tokens, max(tokens, longest), rows, longest, rows * lengths.answer, several)


def activations(
    base: BaseFacts, learned: Learned, batch: MicroBatch, width: int, *, dropout: bool, recompute: bool, blocks: bool
) -> float:
    """Bytes kept for the backward pass, logits left out."""
    if recompute:
        last = replace(learned, layers=1)
        one = activations(base, last, batch, width, dropout=dropout, recompute=False, blocks=blocks)
        return one + (learned.layers or base.layers) * (batch.head + batch.tokens) * base.hidden_size * width
    h, wide = base.hidden_size, base.intermediate_size
    tokens = batch.head + batch.tokens
    each = 2 * h * (width if blocks else 4) + 3 * wide * width
    if learned.inputs:
        each += (3 * h + wide) * width + 7 * learned.rank * width
    if learned.whole and not blocks:
        each += 2 * h * width
    if dropout and learned.rank:
        each += 2 * (6 * h + wide) * width
    q, k = base.heads * base.head_dim, base.kv_heads * base.head_dim
    each += (q + 2 * k + 2 * wide + 2 * h) * learned.output_bytes  # of all linear layers
    weights = 2 * h * (q + k) + 3 * h * wide
    attention = _of_blocks(base, batch, width) if blocks else _of_own(base, learned.pairs, batch, width)
    before = 2 * tokens * h * width if dropout and not learned.rank else 0.0
    return (learned.layers or base.layers) * (tokens * each + attention + weights * learned.weight_bytes) + before


def _of_blocks(base: BaseFacts, batch: MicroBatch, width: int) -> float:
    """Bytes that attention keeps in our blocks: rows lie in groups of similar length, cut to few sizes."""
    q, k = base.heads * base.head_dim, base.kv_heads * base.head_dim
    padded = batch.tokens + ROUNDED * batch.rows
    looked_back = batch.rows * batch.head + padded
    weights = 0.0
    if base.heads * batch.rows * batch.longest * (batch.head + batch.longest) <= EXPLICIT_WEIGHTS:
        weights = base.heads * padded * (batch.head + padded / batch.rows)
    return (padded * q + 2 * looked_back * k + weights) * width


def _of_own(base: BaseFacts, pairs: int, batch: MicroBatch, width: int) -> float:
    """Bytes that attention keeps in transformers' layers over our function: every row padded to the longest."""
    q, k = base.heads * base.head_dim, base.kv_heads * base.head_dim
    attended = pairs + batch.head + batch.longest
    padded = batch.rows * batch.longest
    weights = base.heads * padded * attended
    if weights > EXPLICIT_WEIGHTS:
        return padded * q * width + (2 * batch.rows * attended + padded) * q * width
    return padded * q * width + 2 * batch.rows * attended * k * width + weights * (4 if width == 4 else 6)


def learned_by(technique: str, settings: dict[str, Any], base: BaseFacts, rows: int) -> Learned:
    """What the technique says that it trains with these settings, over its defaults for so many rows."""
    found = techniques.get(technique)
    if not isinstance(found, Trained):
        raise TypeError(f"{technique} trains nothing")
    return found.learned(found.settings(settings, base, rows), base)
