"""What a customization consists of. Each part is optional; they compose. Tensors are named, never imported here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailorbird.types import Conversation, Message, Role

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Prompt:
    """What stands before every request: an instruction as system message, then examples as turns."""

    instruction: str | None = None
    examples: tuple[tuple[Conversation, str], ...] = ()

    def conversation(self, messages: Conversation) -> Conversation:
        """The conversation as the model sees it, in training and in service alike. A request's own system message is
        put behind the instruction."""
        own = [m.content for m in messages if m.role is Role.SYSTEM]
        system = "\n\n".join(text for text in (self.instruction, *own) if text)
        turns: list[Message] = [Message(Role.SYSTEM, system)] if system else []
        for question, answer in self.examples:
            turns += [m for m in question if m.role is not Role.SYSTEM]
            turns.append(Message(Role.ASSISTANT, answer))
        turns += [m for m in messages if m.role is not Role.SYSTEM]
        return tuple(turns)

    def as_dict(self) -> dict[str, Any]:
        examples = [{"messages": [m.as_dict() for m in q], "answer": a} for q, a in self.examples]
        return {"instruction": self.instruction, "examples": examples}

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> Prompt:
        examples = tuple(
            (tuple(Message(Role(m["role"]), m["content"]) for m in e["messages"]), e["answer"])
            for e in value["examples"]
        )
        return Prompt(value["instruction"], examples)


@dataclass(frozen=True)
class Decode:
    """How answers are read: label words, and what contextual calibration subtracts (nats; None = none)."""

    kind: str
    labels: Mapping[str, str] = field(default_factory=dict)
    calibration: Mapping[str, float] | None = None
    max_new_tokens: int = 0

    def as_dict(self) -> dict[str, Any]:
        calibration = None if self.calibration is None else dict(self.calibration)
        return {
            "kind": self.kind,
            "labels": dict(self.labels),
            "calibration": calibration,
            "max_new_tokens": self.max_new_tokens,
        }

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> Decode:
        return Decode(value["kind"], value["labels"], value["calibration"], value["max_new_tokens"])


@dataclass(frozen=True)
class LowRank:
    """LoRA weights by dotted layer name: A (rank, in), B (out, rank); the update is `scale` * B A.

    `rslora`: alpha / sqrt(rank) instead of alpha / rank (Kalajdzievski 2023, "A Rank Stabilization Scaling Factor for
    Fine-Tuning with LoRA", theorem 3.2). `dropout`: what it was trained with; nothing is dropped when it answers.
    """

    rank: int
    alpha: float
    tensors: Mapping[str, tuple[Tensor, Tensor]]
    fan_in_fan_out: bool = False
    rslora: bool = False
    dropout: float = 0.0

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


@dataclass(frozen=True)
class PeftAdapter:
    """An adapter of another of PEFT's methods: its configuration and its tensors, named as in PEFT's own files."""

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


KINDS = ("soft", "kv", "low_rank", "peft", "delta", "weights")
"""The parts that hold tensors, by the name of their field in `Parts`."""


@dataclass(frozen=True)
class Parts:
    """`soft`: (total_virtual_tokens, hidden_size). `kv`: (layers, 2, key/value heads, total_virtual_tokens, head size),
    keys as rotated to the positions from 0 on, and values. `weights`: tensors by name when writing, the folder that
    holds them when read. `delta`: fp32 values of some of the base's own parameters, by name.

    A delta holds the values themselves, not their differences: base + (value - base) need not be value again in
    floating point, and what is opened would not be what was trained.
    """

    prompt: Prompt
    decode: Decode
    soft: Tensor | None = None
    low_rank: LowRank | None = None
    weights: Mapping[str, Tensor] | Path | None = None
    delta: Mapping[str, Tensor] | None = None
    peft: PeftAdapter | None = None
    kv: Tensor | None = None

    @property
    def virtual_tokens(self) -> int:
        """Of the soft prompt: they pass through the layers as the text's own do."""
        return 0 if self.soft is None else int(self.soft.shape[0])

    @property
    def positions(self) -> int:
        """Positions of the context that stand before the text: virtual tokens, and pairs of a prefix."""
        return self.virtual_tokens + (0 if self.kv is None else int(self.kv.shape[3]))

    @property
    def kinds(self) -> frozenset[str]:
        """The parts with tensors that are there."""
        return frozenset(kind for kind in KINDS if getattr(self, kind) is not None)

    def without(self, kinds: Iterable[str]) -> Parts:
        none: dict[str, Any] = dict.fromkeys(kinds)
        return replace(self, **none)

    def over(self, below: Parts) -> Parts:
        """These parts with those of `below` that they lack; of two deltas this one's values count where both have one.
        Prompt and decoding stay these."""
        taken: dict[str, Any] = {kind: getattr(below, kind) for kind in below.kinds - self.kinds}
        if self.delta is not None and below.delta is not None:
            taken["delta"] = {**below.delta, **self.delta}
        return replace(self, **taken)
