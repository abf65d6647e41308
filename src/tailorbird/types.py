"""The nouns that every layer shares, as frozen data. No torch, no files, no clocks.

Text is Unicode, log-probabilities are in nats, times in seconds, sizes in bytes unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol, overload

SplitName = Literal["train", "tuning", "validation", "test"]
Purpose = Literal["train", "tuning", "validation", "test", "replay"]
Kind = Literal["technique", "imported", "reference"]
State = Literal["done", "failed", "skipped"]


class Role(StrEnum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    content: str

    def as_dict(self) -> dict[str, str]:
        return {"role": self.role.value, "content": self.content}


Conversation = tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row was read: a path as the user wrote it and the 1-based line its record starts on."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Row:
    """One example: the turns of a conversation that ends with the assistant's answer.

    `supervised` has one entry per message; only assistant turns may be true. `label` is the label id when the task is
    `classify` (the last message's content is then the label as it stood in the data). `key` is the user's own row id.
    `id` is the content id: equal content, equal id, whatever file or line it came from. `source`: the data set of a
    collection that it came from, by name; None where there is one alone.
    """

    id: str
    messages: Conversation
    supervised: tuple[bool, ...]
    place: Place
    label: str | None = None
    group: str | None = None
    key: str | None = None
    weight: float = 1.0
    slices: Mapping[str, str] = field(default_factory=dict)
    source: str | None = None

    @property
    def prompt(self) -> Conversation:
        """The turns before the last answer: all that an answerer may see."""
        return self.messages[:-1]

    @property
    def answer(self) -> str:
        return self.messages[-1].content

    @property
    def input_text(self) -> str:
        """The last user turn: what an answers file is matched by and what a page shows as the input."""
        return next((m.content for m in reversed(self.prompt) if m.role is Role.USER), "")


class Split(Sequence[Row]):
    """Rows with one purpose. The four subclasses are types, so that a function can refuse the wrong one."""

    name: Purpose

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows: tuple[Row, ...] = tuple(rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)


class Train(Split):
    """Seen by a technique: trained on, or shown in a prompt."""

    name = "train"


class Tuning(Split):
    """Held out of Train: early stopping, checkpoint choice, prompt search."""

    name = "tuning"


class Validation(Split):
    """For the choice among contestants."""

    name = "validation"


class Test(Split):
    """Opened once, after the choice was sealed."""

    name = "test"
    __test__ = False  # pytest: not a test class


class Replay(Split):
    """General conversations that a training meets beside Train, against forgetting: no row of the task. Of a type of
    its own, so that no prompt can be built of it and nothing is fitted to it."""

    name = "replay"


@dataclass(frozen=True, slots=True)
class Splits:
    train: Train
    tuning: Tuning
    validation: Validation
    test: Test


class Stop(StrEnum):
    """Why an answer ended."""

    END = "end"  # the model wrote its end token
    LENGTH = "length"  # max_new_tokens was reached
    SCORED = "scored"  # a label was chosen by its score; nothing was generated
    GIVEN = "given"  # the answer came from outside (file, command, reference)


@dataclass(frozen=True, slots=True)
class Request:
    """One row's question without its answer. `candidates`: label ids (classify); else `max_new_tokens` bounds it."""

    id: str
    messages: Conversation
    candidates: tuple[str, ...] = ()
    max_new_tokens: int = 0
    key: str | None = None

    @property
    def input_text(self) -> str:
        return next((m.content for m in reversed(self.messages) if m.role is Role.USER), "")


@dataclass(frozen=True, slots=True)
class Answer:
    """What an answerer says to one request.

    `scores`: label id to log-probability (nats; calibrated where the customization says so); the label is its argmax.
    `confidence`: softmax of `scores` at `label`, or what an outside system reports; None = not known.
    """

    id: str
    text: str
    label: str | None = None
    scores: Mapping[str, float] | None = None
    confidence: float | None = None
    stop: Stop = Stop.GIVEN
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    seconds: float | None = None


class Answerer(Protocol):
    """Anything that gives one answer for each request, in the order of the requests."""

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]: ...


class Scorer(Protocol):
    """Local models only, for forgetting: bits needed to code each text, and how far the answers to prompts moved."""

    def bits(self, texts: Sequence[str]) -> Iterator[float]: ...
    def walks(self, conversations: Sequence[Conversation], *, max_new_tokens: int) -> Sequence[Any]: ...
    def kl(self, walks: Sequence[Any], base: Any) -> Iterator[float]: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """An answer judged against its row. `score` lies in [0, 1] (classify and exact match: 0 or 1).

    Made several times with other seeds: `by_seed` has the row's score under each, `score` is their mean, and all else
    is of the seed that was exported.
    """

    row: str
    score: float
    expected: str
    given: str
    group: str | None = None
    confidence: float | None = None
    stop: Stop = Stop.GIVEN
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    slices: Mapping[str, str] = field(default_factory=dict)
    by_seed: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Score:
    """A mean with its 95 % interval over `n` rows; `other` holds further metrics by name."""

    score: float
    low: float
    high: float
    n: int
    other: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Difference:
    """A paired difference a - b with its 95 % interval, two-sided p and the standard deviation of row differences.

    `seeds`: what the seeds of either side add to the variance of the mean, which more rows do not lessen.
    """

    difference: float
    low: float
    high: float
    p: float
    n: int
    sd: float
    seeds: float = 0.0


@dataclass(frozen=True, slots=True)
class Measurement:
    """What `measure` makes of one answerer on one split."""

    split: SplitName
    metric: str
    score: Score
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that was not taken: where, which field, a stable code (`D16`) and a reason a person can act on."""

    place: Place
    field: str | None
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """What is known of a base without loading its weights. `flops_per_token`: forward, 2 x weights met by a token.

    context: tokens that a row may have: where layers look back at a window of tokens, no more than that."""

    name: str
    folder: str
    fingerprint: str
    parameters: int
    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int
    tied_embeddings: bool
    weight_bytes: int
    has_chat_template: bool
    model_type: str
    licence: str | None = None
    window: int | None = None

    @property
    def named_context(self) -> str:
        """As a refusal says it."""
        bound = " (the sliding window of its attention)" if self.context == self.window else ""
        return f"{self.context}{bound}"

    @property
    def flops_per_token(self) -> float:
        body = self.parameters - self.vocabulary * self.hidden_size * (1 if self.tied_embeddings else 2)
        return 2.0 * body


@dataclass(frozen=True, slots=True)
class Machine:
    """What a plan must know of the machine. Speeds: the probe's GFLOP/s of a 3072 x 576 layer at 256 rows.
    `device_memory_bytes` 0: a card that was not looked at."""

    system: str
    processor: str
    threads: int
    memory_bytes: int
    device: str
    device_name: str
    device_memory_bytes: int
    gflops: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


JSON = dict[str, Any]
