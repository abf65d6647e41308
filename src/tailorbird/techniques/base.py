"""What a technique supplies: settings, defaults, what is trained or which prompt is built, its parts, its citation.

It neither reads files, nor batches, nor writes checkpoints, nor computes scores.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from tailorbird.errors import SpecError
from tailorbird.techniques.ranges import Range, around, choice, whole
from tailorbird.types import BaseFacts, Row, Train, Tuning

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tailorbird.artifacts.parts import Decode, Parts, Prompt
    from tailorbird.engine.batches import Batch
    from tailorbird.engine.model import Model
    from tailorbird.engine.train import Trainable

NOTHING: Mapping[str, Any] = MappingProxyType({})
COMMON_TOKENS = 5000
ALL_TASKS = frozenset({"classify", "answer", "write"})


class NoSettings(BaseModel):
    """A technique without settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LearningSettings(BaseModel):
    """What every technique that learns from rows can be told."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    learning_rate: float = Field(gt=0, le=10, allow_inf_nan=False, description="Peak learning rate of AdamW.")
    epochs: int = Field(ge=1, le=1000, description="How often each Train row is met.")
    batch_rows: int = Field(ge=1, le=4096, description="Rows per optimizer step, whatever the memory.")
    warmup_share: float = Field(0.1, ge=0, le=1, description="Share of the steps over which the learning rate rises.")
    schedule: Literal["linear", "cosine", "constant"] = Field("linear", description="How the rate falls after warm-up.")
    weight_decay: float = Field(0.0, ge=0, le=1, description="Decoupled weight decay, on matrices only.")
    clip: float = Field(1.0, ge=0, description="Largest global gradient norm; 0 = no clipping.")
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share dropped of the input of low-rank layers; without them, of the embedded input.",
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of each target spread over the vocabulary.")
    l2_to_start: float = Field(
        0.0, ge=0, le=10_000, description="Decoupled decay towards the values that training begins with (L2-SP)."
    )
    patience: int = Field(
        0,
        ge=0,
        le=1000,
        description="Looks at Tuning in a row, one an epoch, without a lower loss that end it; 0 = none.",
    )


class TrainingSettings(LearningSettings):
    """What one can be told, too, that goes on with a part of its own kind."""

    keep_optimizer: bool = Field(
        False,
        description="Keep the optimizer's state beside the result: the same technique, started from it (`after:`), "
        "goes on with it and with the order of rows.",
    )


class Technique:
    """Common to all. `revision` is raised by hand when the same settings would give another result; `varies`: whether
    another seed or other Train rows give another customization.

    How it can start from another customization (`after:`), by kinds of its parts (`artifacts.parts.KINDS`): those it
    `makes` itself and finds in place it goes on with, unless it `goes_on` with none; those it bears `beside` it stay in
    place, frozen; those it `folds` are added to the weights first. A parent with any other part is refused. Kinds that
    are `own_only` it goes on with only where the same technique made them. `begins`: settings of how a part begins that
    it makes anew, without effect where it goes on with a parent's. `state_folder`: where a customization keeps what a
    training goes on with beside its parts (`artifacts/training_state.py`).
    """

    name: ClassVar[str]
    citation: ClassVar[str]
    revision: ClassVar[int] = 1
    trained: ClassVar[bool] = False
    varies: ClassVar[bool] = True
    goes_on: ClassVar[bool] = True
    tasks: ClassVar[frozenset[str]] = ALL_TASKS
    Settings: ClassVar[type[BaseModel]] = NoSettings
    makes: ClassVar[frozenset[str]] = frozenset()
    begins: ClassVar[frozenset[str]] = frozenset()
    beside: ClassVar[frozenset[str]] = frozenset()
    folds: ClassVar[frozenset[str]] = frozenset()
    own_only: ClassVar[frozenset[str]] = frozenset()
    state_folder: ClassVar[str] = "optimizer"

    @property
    def takes(self) -> frozenset[str]:
        """The kinds of parts that a parent may have."""
        return (self.makes if self.goes_on else frozenset()) | self.beside | self.folds

    def defaults(self, base: BaseFacts, rows: int) -> dict[str, Any]:
        """Defaults that depend on the base or the number of Train rows; the rest stand in `Settings`."""
        return {}

    def search_space(self, base: BaseFacts, rows: int, asked: Mapping[str, Any] = NOTHING) -> dict[str, Range]:
        """Settings that tuning may search, and within which range, beside those that were `asked` for."""
        return {}

    def settings(self, asked: Mapping[str, Any], base: BaseFacts, rows: int) -> Any:
        """The typed settings: what was asked over the defaults. Raises pydantic's ValidationError."""
        return self.Settings.model_validate({**self.defaults(base, rows), **asked})

    def shape(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that give the part that it makes its shape, as they take effect: where it goes on with a
        parent's part they are the parent's. `settings`: its own, or those of another maker of such a part."""
        return {}

    def chooses(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings by which tensors are chosen to learn, as they take effect: with others a training cannot go on
        with the optimizer that its parent kept."""
        return {}


@dataclass(frozen=True)
class Learned:
    """What a technique trains, as far as the plan's memory and time depend on it.

    whole: all weights of the base learn. rank: of low-rank layers beside all linear ones. inputs: linear layers must
    keep what they look at. layers: how many of the last ones the backward pass goes through; None = all.
    virtual_tokens, pairs: what stands before the text; pairs are looked back at and are no tokens. passes: FLOPs as a
    multiple of a forward's. own_layers: its modules stand in the place of linear layers; of each they keep
    `weight_bytes` a weight and `output_bytes` an element of its output more than a low-rank layer does.
    """

    parameters: int
    whole: bool = False
    rank: int = 0
    inputs: bool = False
    layers: int | None = None
    virtual_tokens: int = 0
    pairs: int = 0
    passes: float = 2.1  # forward, and a backward without gradients of the base's weights
    own_layers: bool = False
    weight_bytes: int = 0
    output_bytes: int = 0


MEASURED_WIDTH = 576  # of SmolLM2-135M


def by_width(rate: float, base: BaseFacts) -> float:
    """A learning rate of AdamW for matrices of the network, known to be good at SmolLM2-135M, at the base's width.

    In proportion to 1 / hidden_size, to two digits: Yang et al. 2021, "Tensor Programs V: Tuning Large Neural Networks
    via Zero-Shot Hyperparameter Transfer", table 3 (Adam, hidden weights). Measured by us is the rate at 576 alone.
    Larger bases then get what their recipes have: at 4096 sft 1.4e-5 to 2.8e-5 (published for 7 and 8 billion
    parameters: 1e-5 to 2e-5), lora 7e-5 to 1.4e-4 (1e-4 to 2e-4). The fit to LoRA and full fine-tuning of Llama in
    Schulman and Thinking Machines Lab 2025, "LoRA Without Regret", falls as hidden_size^-0.78. Narrower bases get the
    measured rate: nobody has shown that they bear more.
    """
    return float(f"{rate * min(1.0, MEASURED_WIDTH / base.hidden_size):.2g}")


def low_rank_learned(base: BaseFacts, rank: int) -> Learned:
    """Pairs of matrices of this rank beside all linear layers but the output."""
    h, q, k, wide = base.hidden_size, base.heads * base.head_dim, base.kv_heads * base.head_dim, base.intermediate_size
    each = 2 * (h + q) + 2 * (h + k) + 3 * (h + wide)
    return Learned(base.layers * rank * each, rank=rank, inputs=True)


@dataclass(frozen=True)
class TrainingContext:
    """What `trainable` may use beside the model. `generator`: all its randomness. `tokenize`: ids of a plain text.
    `task_text`: the task in words, its instruction and its labels. `common`: ids of that many most common tokens.
    `kept`: what the parent kept beside its parts (`Trained.kept`); nothing where there is no parent of the same
    technique.
    """

    generator: torch.Generator
    tokenize: Callable[[str], Sequence[int]]
    task_text: str
    common: Callable[[int], Sequence[int]]
    kept: Mapping[str, Tensor] = field(default_factory=dict)

    def text_ids(self, text: str | None, count: int) -> list[int]:
        """`count` token ids of `text` (None: of the task's own), repeated or cut to fit. SpecError without tokens."""
        ids = list(self.tokenize(self.task_text if text is None else text))
        if not ids:
            raise SpecError(
                "there is no text to start from: it has no tokens",
                remedy="set initialization_text, give the task an instruction, or set another initialization",
            )
        return [ids[place % len(ids)] for place in range(count)]

    def sampled_ids(self, count: int) -> list[int]:
        """`count` token ids drawn among the 5,000 most common ones (Lester et al. 2021, §3.2)."""
        import torch

        common = self.common(COMMON_TOKENS)
        return [common[place] for place in torch.randint(len(common), (count,), generator=self.generator).tolist()]


class Trained(Technique):
    """Learns from rows by gradient descent."""

    trained = True

    def search_space(self, base: BaseFacts, rows: int, asked: Mapping[str, Any] = NOTHING) -> dict[str, Range]:
        """Around the technique's own defaults; the learning rate matters most, and its right size is least known."""
        own = self.settings(asked, base, rows).model_dump()
        space = {"batch_rows": choice(8, 16, 32), "weight_decay": choice(0.0, 0.01, 0.1)}
        if rate := own.get("learning_rate"):
            space = {"learning_rate": around(rate, 5.0), **space}
        if epochs := own.get("epochs"):
            space["epochs"] = whole(max(1, epochs // 2), 2 * epochs)
        if "dropout" in self.Settings.model_fields:
            space["dropout"] = choice(0.0, 0.05, 0.1)
        return {name: found for name, found in space.items() if name in self.Settings.model_fields}

    def learned(self, settings: Any, base: BaseFacts) -> Learned:
        """What is trained, before anything is loaded: the plan's memory and time come from it, and how much room a text
        has. One that does not say is taken as low-rank layers of rank 16, behind its `total_virtual_tokens`."""
        count = getattr(settings, "total_virtual_tokens", 0)
        tokens, pairs = (count if kind in self.makes else 0 for kind in ("soft", "kv"))
        return replace(low_rank_learned(base, 16), virtual_tokens=tokens, pairs=pairs)

    def trainable(self, model: Model, settings: Any, context: TrainingContext) -> Trainable:
        """Make the trainable tensors and put them in place, or take up those of a parent that are in place."""
        raise NotImplementedError

    def loss(self, model: Model, batch: Batch) -> Tensor:
        """Sum of the loss over the batch's supervised tokens."""
        from tailorbird.engine.train import token_loss

        return token_loss(model, batch)

    def parts(self, tensors: Mapping[str, Tensor], settings: Any, prompt: Prompt, decode: Decode) -> Parts:
        """The customization made of the trained fp32 tensors; a parent's frozen parts are added to it afterwards."""
        raise NotImplementedError

    def kept(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Those of the trained tensors that are in no part and are needed to go on: kept beside the parts."""
        return {}


@dataclass
class SearchContext:
    """What a prompted technique may use. `judge` gives a mean score on Tuning rows for a candidate, and `content_free`
    the mean label probabilities of inputs without content, in nats: both work on any answerer."""

    instruction: str | None
    decode: Decode
    train: Train
    tuning: Tuning
    rng: random.Random
    fits: Callable[[Prompt], bool]
    judge: Callable[[Parts], float]
    content_free: Callable[[Parts], Mapping[str, float]]
    target: Callable[[Row], str]
    note: Callable[[str], None]

    def calibrated(self, parts: Parts, mode: str) -> tuple[Parts, float]:
        """`parts` with contextual calibration when `mode` says so ("auto": when it is better on Tuning)."""
        import dataclasses

        plain = self.judge(parts) if len(self.tuning) else 0.0
        if self.decode.kind != "classify" or mode == "off":
            return parts, plain
        decode = dataclasses.replace(parts.decode, calibration=dict(self.content_free(parts)))
        candidate = dataclasses.replace(parts, decode=decode)
        if mode == "on":
            return candidate, self.judge(candidate) if len(self.tuning) else 0.0
        if not len(self.tuning):
            return parts, plain
        score = self.judge(candidate)
        self.note(f"contextual calibration on Tuning: {plain:.3f} without, {score:.3f} with")
        return (candidate, score) if score > plain else (parts, plain)


class Prompted(Technique):
    """Builds a prompt; changes no weights."""

    def search(self, ctx: SearchContext, settings: Any) -> Parts:
        raise NotImplementedError


def some_of_each_label(rows: Sequence[Row], count: int, rng: random.Random) -> list[Row]:
    """`count` rows of each label, in random order; for rows without labels `count` rows in all."""
    by_label: dict[str | None, list[Row]] = {}
    for row in rows:
        by_label.setdefault(row.label, []).append(row)
    chosen = [
        row
        for label in sorted(by_label, key=str)
        for row in rng.sample(by_label[label], min(count, len(by_label[label])))
    ]
    rng.shuffle(chosen)
    return chosen
