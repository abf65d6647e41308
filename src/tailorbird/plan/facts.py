"""What a plan must know beside the spec. Everything here is measured without torch."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol

from tailorbird.artifacts.parts import Prompt
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


@dataclass(frozen=True)
class Facts:
    """`machine.gflops` is empty where no probe has run yet (`check` imports no torch): speeds are then assumed.
    `unsaid`: contestants that were trained nobody knows on what ("is"), or start from such a one ("starts from")."""

    task: Task
    sizes: dict[str, int]
    lengths: Lengths
    base: BaseFacts
    machine: Machine
    unsaid: Mapping[str, str] = field(default_factory=dict)


class Tokens(Protocol):
    """The two things of the renderer that lengths need."""

    def prompt(self, messages: Conversation, /) -> list[int]: ...
    def answer(self, text: str, /) -> list[int]: ...


def measure_lengths(renderer: Tokens, task: Task, rows: Sequence[Row]) -> Lengths:
    """Token counts of a sample of rows, the longest among them."""
    step = max(1, len(rows) // SAMPLE_ROWS)
    sample = list(rows[::step])
    longest = sorted(rows, key=lambda row: -sum(len(m.content) for m in row.messages))[:LONGEST_ROWS]
    served = Prompt(task.instruction)

    def lengths(row: Row) -> tuple[list[int], int]:
        prompt = renderer.prompt(served.conversation(row.prompt))
        said = task.labels.get(row.label or "", row.answer) if task.labels else row.answer
        return prompt, len(renderer.answer(said))

    measured = [lengths(row) for row in sample]
    head = _common([prompt for prompt, _ in measured[:50]])
    total = max(len(prompt) + answer for prompt, answer in (*measured, *map(lengths, longest)))
    return Lengths(
        head=head,
        prompt=sum(len(prompt) for prompt, _ in measured) / len(measured),
        answer=sum(answer for _, answer in measured) / len(measured),
        longest=total,
        spread=statistics.pstdev(len(prompt) + answer for prompt, answer in measured),
        label_nodes=_nodes([renderer.answer(words) for words in task.labels.values()]),
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
