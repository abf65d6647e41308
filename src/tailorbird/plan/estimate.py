"""Time and memory of a contestant from FLOPs and the probed speed. Estimates for deciding, never reported as measured.

A token's time has two parts. Its matrix products take F FLOPs (2 x the weights of the body) at the probed speed. All
else (norms, rotations, activations, masks, the graph kept for the backward pass) takes a time of its own, which the
probe does not see: on a processor with AMX it is the larger part. It is OVERHEAD seconds a layer and hidden unit; a
row of logits (H = 2 x vocabulary x hidden size FLOPs) has LOGIT_SECONDS a word of the vocabulary for its softmax.

    token(n)    n x F / speed + n x layers x hidden size x OVERHEAD
    logits(n)   n x H / speed + n x vocabulary x LOGIT_SECONDS
    training    epochs x (rows x (token(question behind the head + answer) + logits(answer)) + steps x token(head))
                with `passes` x the FLOPs: 3 when all weights learn (forward, two gradients), 2.1 for adapters (no
                weight gradients); and steps x parameters x UPDATE_SECONDS when all learn
    scoring     rows x (token(question behind the head + inner nodes of the label tree) + logits(these nodes + 1)),
                and ATTENTION_SECONDS for each token of the examples in the prompt that these look back at
    writing     rows x (token(question) + answer x (F + H) / writing speed)      one token at a time, bound by memory
    forgetting  texts x (token + logits)(RETENTION_TOKENS)
    latency     LATENCY_REQUESTS x ALONE x one row

speed: the probed FLOP/s x TRAINING or FORWARD; plus reading and writing of files at DISK bytes/s. Fitted to
SmolLM2-135M on two cores of two kinds of machine. With AMX (probe 1,430 GFLOP/s in bf16), the demo in seconds, measured
while others worked there too: zero_shot's 300 rows 8-12, few_shot's making 10, prompt_tuning 71, lora 52, sft 82, 80
retention texts 6-8; on a quiet machine about two thirds. With AVX512-BF16 (370 GFLOP/s): forward 85 rows/s of 42
tokens, 25 of them the head; lora 18 rows/s, sft 10-15; 415-token rows: sft 347 tokens/s, lora 464, forward 1,566.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from tailorbird.plan.facts import Facts
from tailorbird.plan.memory import PROCESS_BYTES, Choice, choose, learned_by

TRAINING, FORWARD = 0.9, 0.9  # of the probed speed
OVERHEAD_TRAINING, OVERHEAD_FORWARD = 8e-8, 9e-9  # seconds per token, layer and hidden unit, on two cores
ATTENTION_SECONDS = 4.5e-11  # per token, token looked back at, layer and hidden unit, on two cores
LOGIT_SECONDS = 2e-9  # per row of logits and word of the vocabulary, on two cores
UPDATE_SECONDS = 2e-9  # per parameter and step (AdamW in fp32), on two cores
WRITING, WRITING_FLOPS = 0.13, 25e9  # share of the forward speed; on two cores no faster than 25 GFLOP/s
TURN_TOKENS = 5  # of the template around an example in the prompt
ALONE = 3.0  # a row alone, against the same row in a batch
DISK = 300e6
RETENTION_TOKENS = 150
RETENTION_TEXTS = {"fast": 80, "full": 272}
LATENCY_REQUESTS = 23  # three of them to warm up
OPENING_SECONDS = 2.0
ASSUMED_GFLOPS = {"float32": 60.0, "bfloat16": 110.0}  # per thread-pair of a server core, where no probe has run


@dataclass(frozen=True)
class Estimate:
    """`seconds` of one contestant made once; of these `making` it, and answering `validation` and `test`."""

    seconds: float
    memory_bytes: int
    steps: int
    step_seconds: float
    micro_batch_tokens: int = 0  # of a training, chosen so that it fits
    recompute: bool = False
    fits: bool = True
    making: float = 0.0
    validation: float = 0.0
    test: float = 0.0


def speed(facts: Facts, dtype: str) -> float:
    """FLOP/s of a linear layer here, by the probe."""
    gflops = facts.machine.gflops.get(dtype) or ASSUMED_GFLOPS[dtype] * max(1, facts.machine.threads) / 2
    return gflops * 1e9


@dataclass(frozen=True)
class Pace:
    """How long tokens and rows of logits take here. `passes`: the FLOPs as a multiple of a forward pass."""

    facts: Facts
    flops: float  # per second
    overhead: float  # seconds per token
    passes: float = 1.0

    @classmethod
    def here(cls, facts: Facts, dtype: str, *, training: bool = False, passes: float = 1.0) -> Pace:
        share, each = (TRAINING, OVERHEAD_TRAINING) if training else (FORWARD, OVERHEAD_FORWARD)
        size = facts.base.layers * facts.base.hidden_size
        return cls(facts, speed(facts, dtype) * share, each * size * on_two_cores(facts), passes)

    def tokens(self, count: float) -> float:
        return count * (self.facts.base.flops_per_token * self.passes / self.flops + self.overhead)

    def logits(self, count: float) -> float:
        base = self.facts.base
        products = 2.0 * base.vocabulary * base.hidden_size * self.passes / self.flops
        return count * (products + self.passes * base.vocabulary * LOGIT_SECONDS * on_two_cores(self.facts))


def on_two_cores(facts: Facts) -> float:
    """What a time measured on two cores is here; 0 on an accelerator, where it was not measured and is small."""
    return 2.0 / max(1, facts.machine.threads) if facts.machine.device == "cpu" else 0.0


def estimate(
    facts: Facts,
    technique: str,
    *,
    trained: bool,
    settings: dict,
    dtype: str,
    micro_batch_tokens: int,
    retention: str,
    memory_bytes: int,
    replay: float = 0.0,
) -> Estimate:
    """What one technique contestant costs on this machine, a training cut so that it stays within `memory_bytes`
    (0: not known). `replay`: the part of general conversations in its rows."""
    row = answering(facts, dtype, shown_tokens(facts, settings))
    seconds = OPENING_SECONDS + row * (facts.sizes["validation"] + facts.sizes["test"]) + LATENCY_REQUESTS * ALONE * row
    steps, step_seconds = 0, 0.0
    chosen = Choice(0, False, answering_bytes(facts, dtype, micro_batch_tokens), True)
    made = OPENING_SECONDS + number(settings, "draws", 1) * row * facts.sizes["tuning"]
    if trained:
        met = facts.of_training(replay)
        chosen = choose(met, technique, settings, dtype, micro_batch_tokens, memory_bytes)
        steps, step_seconds, made = training(met, technique, settings, dtype, recompute=chosen.recompute)
        forward = Pace.here(facts, dtype)
        tokens = RETENTION_TOKENS * RETENTION_TEXTS.get(retention, RETENTION_TEXTS["full"])
        seconds += made + forward.tokens(tokens) + forward.logits(tokens)
    else:
        seconds += made
    chosen = replace(chosen, fits=not memory_bytes or chosen.memory_bytes <= memory_bytes)
    answered = {split: OPENING_SECONDS + row * facts.sizes[split] for split in ("validation", "test")}
    return Estimate(
        seconds,
        chosen.memory_bytes,
        steps,
        step_seconds,
        chosen.micro_batch_tokens,
        chosen.recompute,
        chosen.fits,
        made,
        **answered,
    )


def number(settings: dict, name: str, default: float) -> float:
    """A setting by name. A technique of the user's may mean something else by it: then the default."""
    value = settings.get(name)
    return value if isinstance(value, int | float) and value > 0 else default


def shown_tokens(facts: Facts, settings: dict) -> float:
    """Tokens of the examples in a prompt, where the technique has a setting `examples`."""
    if "examples" not in settings:
        return 0.0
    labels = len(facts.task.labels)
    count = number(settings, "examples", 1) * labels if labels else number(settings, "examples", 3)
    lengths = facts.lengths
    return count * (max(1.0, lengths.prompt - lengths.head) + lengths.answer + TURN_TOKENS)


def answering(facts: Facts, dtype: str, shown: float = 0.0) -> float:
    """Seconds for one row among many. `shown`: tokens of examples, computed once and looked back at by every row."""
    lengths, base, forward = facts.lengths, facts.base, Pace.here(facts, dtype)
    behind = max(1.0, lengths.prompt - lengths.head)
    back = shown * base.layers * base.hidden_size * ATTENTION_SECONDS * on_two_cores(facts)
    if nodes := lengths.label_nodes:
        return forward.tokens(behind + nodes) + (behind + nodes) * back + forward.logits(nodes + 1)
    writing = forward.flops * WRITING
    if cores := on_two_cores(facts):
        writing = min(writing, WRITING_FLOPS / cores)
    flops = base.flops_per_token + 2.0 * base.vocabulary * base.hidden_size
    return forward.tokens(behind) + (behind + lengths.answer) * back + lengths.answer * flops / writing


def training(
    facts: Facts, technique: str, settings: dict, dtype: str, *, recompute: bool = False
) -> tuple[int, float, float]:
    """Optimizer steps, seconds of one, and seconds of making the customization."""
    base, lengths, rows = facts.base, facts.lengths, facts.sizes["train"]
    learned = learned_by(technique, settings, base, rows)
    pace = Pace.here(facts, dtype, training=True, passes=learned.passes + recompute)
    forward = Pace.here(facts, dtype)
    shared = 0 if number(settings, "dropout", 0) else lengths.head  # with dropout each row carries its own head
    tokens = max(1.0, lengths.prompt - shared) + lengths.answer
    batch, epochs = int(number(settings, "batch_rows", 16)), number(settings, "epochs", 1)
    steps = max(1, math.ceil(epochs * math.ceil(rows / batch)))
    in_step = min(batch, rows)
    head = shared + learned.virtual_tokens
    step = pace.tokens(in_step * tokens + head) + pace.logits(in_step * lengths.answer)
    if learned.whole:
        step += base.parameters * UPDATE_SECONDS * on_two_cores(facts)
    tuning = epochs * facts.sizes["tuning"] * (forward.tokens(tokens) + forward.logits(lengths.answer))
    written = base.parameters * 4.0 if learned.whole else 0.0
    return steps, step, steps * step + tuning + 3 * written / DISK + OPENING_SECONDS


def answering_bytes(facts: Facts, dtype: str, batch_tokens: int) -> int:
    """Peak bytes of a contestant that is not trained: the base, and one layer of the largest batch."""
    base, width = facts.base, 2 if dtype == "bfloat16" else 4
    return int(
        PROCESS_BYTES + base.parameters * width + batch_tokens * (8 * base.hidden_size + 3 * base.intermediate_size) * 4
    )
