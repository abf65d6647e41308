"""What a plan must know beside the spec. Everything here is measured without torch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from tailorbird.artifacts.parts import Prompt
from tailorbird.data.replay import replay_rows
from tailorbird.tasks import Task
from tailorbird.types import JSON, BaseFacts, Conversation, Machine, Row

SAMPLE_ROWS = 400  # read evenly, plus the longest by characters: token counts of a large file in under a second
LONGEST_ROWS = 20


@dataclass(frozen=True)
class Lengths:
    """Tokens of the rows as rendered: means, but for `longest`, the longest row's (question and answer).

    `head`: what every prompt begins with. `prompt`: a whole prompt, head included. `answer`: the supervised answer and
    its end. `label_nodes`: tokens that stand behind a prompt so that every label is scored: the inner nodes of the tree
    of label words (0 unless classify). `spread`: standard deviation of question and answer together.
    """

    head: int
    prompt: float
    answer: float
    longest: int
    label_nodes: int = 0
    spread: float = 0.0

    def as_dict(self) -> JSON:
        return asdict(self)

    def beside(self, replay: Lengths, share: float) -> Lengths:
        """Of these rows and `share` of replayed ones among them."""

        def mean(own: float, other: float) -> float:
            return (1 - share) * own + share * other

        own, other = self.prompt + self.answer, replay.prompt + replay.answer
        middle = mean(own, other)
        return Lengths(
            head=replay.head,
            prompt=mean(self.prompt, replay.prompt),
            answer=mean(self.answer, replay.answer),
            longest=max(self.longest, replay.longest),
            label_nodes=self.label_nodes,
            spread=math.sqrt(mean(self.spread**2 + (own - middle) ** 2, replay.spread**2 + (other - middle) ** 2)),
        )


@dataclass(frozen=True)
class MadeBefore:
    """A customization that a contestant starts from and that is no contestant of this plan.

    `technique`: what made it. `parts`: kind of each part that is there to be gone on with -> the settings that it was
    made with, as far as they are known without its tensors.
    """

    technique: str
    parts: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Facts:
    """`machine.gflops` is empty where no probe has run yet (`check` imports no torch): speeds are then assumed.
    `lengths`: of all rows. `trained`: of the Train rows where a collection mixes them by shares. `replay`: of general
    conversations; their `head` is what they have in common with the rows. `unsaid`: contestants that were trained
    nobody knows on what ("is"), or start from such a one ("starts from"). `made_before`: by the label of the contestant
    that starts from it; `met`: how many Train rows that has learned from."""

    task: Task
    sizes: dict[str, int]
    lengths: Lengths
    base: BaseFacts
    machine: Machine
    unsaid: Mapping[str, str] = field(default_factory=dict)
    trained: Lengths | None = None
    replay: Lengths | None = None
    made_before: Mapping[str, MadeBefore] = field(default_factory=dict)
    met: Mapping[str, int] = field(default_factory=dict)

    def of_training(self, replay: float) -> Facts:
        """Sizes and lengths as a training meets them of whose rows `replay` are general conversations."""
        rows, lengths = self.sizes["train"], self.trained or self.lengths
        more = replay_rows(rows, replay)
        if more and self.replay is not None:
            lengths = lengths.beside(self.replay, more / (rows + more))
        return replace(self, sizes={**self.sizes, "train": rows + more}, lengths=lengths)


class Tokens(Protocol):
    """What of the renderer lengths need."""

    def prompt(self, messages: Conversation, /) -> list[int]: ...
    def answer(self, text: str, /) -> list[int]: ...
    def row(self, messages: Conversation, supervised: Sequence[bool], /) -> Rendered: ...


class Rendered(Protocol):
    """A whole conversation as it is trained on."""

    @property
    def ids(self) -> Sequence[int]: ...
    @property
    def supervised(self) -> Sequence[bool]: ...


def measure_lengths(renderer: Tokens, task: Task, rows: Sequence[Row]) -> Lengths:
    """Token counts of a sample of rows, the longest among them."""
    sample, longest = _sample(rows)

    def lengths(row: Row) -> tuple[list[int], int]:
        said = task.labels.get(row.label or "", row.answer) if task.labels else row.answer
        return _prompt(renderer, task, row), len(renderer.answer(said))

    measured = [lengths(row) for row in sample]
    head = _common([prompt for prompt, _ in measured])
    found = _lengths(head, [(len(prompt), answer) for prompt, answer in measured])
    return replace(
        found,
        longest=max(found.longest, *(len(prompt) + answer for prompt, answer in map(lengths, longest))),
        label_nodes=_nodes([renderer.answer(words) for words in task.labels.values()]),
    )


def measure_replay(renderer: Tokens, task: Task, row: Row, head: int, replay: Sequence[Row]) -> Lengths:
    """The same of general conversations as they stand, met beside rows that all begin as `row`, for `head` tokens."""
    sample, longest = _sample(replay)

    def counts(rendered: Rendered) -> tuple[int, int]:
        answer = sum(rendered.supervised)
        return len(rendered.ids) - answer, answer

    measured = [renderer.row(one.messages, one.supervised) for one in sample]
    begin = [_prompt(renderer, task, row)[:head], *(list(rendered.ids) for rendered in measured)]
    found = _lengths(_common(begin), [counts(rendered) for rendered in measured])
    rendered = (renderer.row(one.messages, one.supervised) for one in longest)
    return replace(found, longest=max(found.longest, *(len(one.ids) for one in rendered)))


def _sample(rows: Sequence[Row]) -> tuple[Sequence[Row], list[Row]]:
    """Some of the rows, evenly, and the longest by characters."""
    longest = sorted(rows, key=lambda row: -sum(len(m.content) for m in row.messages))[:LONGEST_ROWS]
    return rows[:: max(1, len(rows) // SAMPLE_ROWS)], longest


def _prompt(renderer: Tokens, task: Task, row: Row) -> list[int]:
    return renderer.prompt(Prompt(task.instruction).conversation(row.prompt))


def _lengths(head: int, measured: Iterable[tuple[int, int]]) -> Lengths:
    """From tokens of prompt and answer of each row."""
    prompts, answers = zip(*measured, strict=True)
    whole = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    return Lengths(
        head, statistics.fmean(prompts), statistics.fmean(answers), max(whole), spread=statistics.pstdev(whole)
    )


def _common(sequences: Sequence[list[int]]) -> int:
    """Length of the beginning that all share."""
    if len(sequences) < 2:
        return 0
    least, most = min(sequences), max(sequences)
    same = next((i for i, (a, b) in enumerate(zip(least, most)) if a != b), min(len(least), len(most)))
    return min(same, min(map(len, sequences)))


def _nodes(sequences: Sequence[Sequence[int]]) -> int:
    """Inner nodes of the tree of shared beginnings: a last token is predicted and never read."""
    return len({tuple(s[:n]) for s in sequences for n in range(1, len(s))})
