"""Python: a customization, or a whole prompt table, in memory. Verified when opened; it answers as it was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailorbird.errors import DataError, SpecError
from tailorbird.types import Answer, Message, Request, Role, Stop

if TYPE_CHECKING:
    from tailorbird.answerers.local import LocalAnswerer
    from tailorbird.running.serving import Served

ConversationLike = str | Sequence[Mapping[str, str]]


class Label(str):
    """A label id with `scores` (label → log-probability, nats) and `confidence`."""

    scores: Mapping[str, float]
    confidence: float

    def __new__(cls, answer: Answer) -> Label:
        self = super().__new__(cls, answer.label or answer.text)
        self.scores = dict(answer.scores or {})
        self.confidence = answer.confidence if answer.confidence is not None else float("nan")
        return self


class Text(str):
    """An answer with `stop` (why it ended) and `tokens` (how many were generated)."""

    stop: Stop
    tokens: int

    def __new__(cls, answer: Answer) -> Text:
        self = super().__new__(cls, answer.text)
        self.stop, self.tokens = answer.stop, answer.answer_tokens or 0
        return self


class Model:
    """A customization, verified when it was opened; it answers as it was measured."""

    def __init__(self, answerer: LocalAnswerer, folder: Path) -> None:
        self._answerer, self.folder = answerer, folder

    @property
    def labels(self) -> list[str]:
        """The label ids it chooses among; empty unless the task is classify."""
        return list(self._answerer.parts.decode.labels)

    def classify(self, texts: Sequence[ConversationLike] | str) -> list[Label]:
        """One label for each text or conversation."""
        if not self.labels:
            raise SpecError("this customization has no labels", where=str(self.folder), remedy="use generate")
        candidates = tuple(self.labels)
        requests = [Request(str(n), turns, candidates) for n, turns in enumerate(_conversations(texts))]
        return [Label(answer) for answer in self._answerer.answer(requests)]

    def generate(self, conversations: Sequence[ConversationLike] | str, max_new_tokens: int = 128) -> list[Text]:
        """One written answer for each conversation, greedily."""
        if max_new_tokens < 1:
            raise SpecError(f"max_new_tokens must be at least 1, is {max_new_tokens}")
        turns = _conversations(conversations)
        requests = [Request(str(n), t, max_new_tokens=max_new_tokens) for n, t in enumerate(turns)]
        return [Text(answer) for answer in self._answerer.answer(requests)]

    def score(self, conversations: Sequence[ConversationLike] | str, answers: Sequence[str] | str) -> list[float]:
        """Sum of log-probabilities of each answer and its end, nats."""
        turns = _conversations(conversations)
        said = [answers] if isinstance(answers, str) else list(answers)
        if len(turns) != len(said):
            raise DataError(f"{len(turns)} conversations and {len(said)} answers", remedy="give one answer for each")
        return self._answerer.score(turns, said)

    def close(self) -> None:
        self._answerer.close()

    def __repr__(self) -> str:
        return f"<Model {self.folder}>"


def load(run: str | Path, base: str | Path | None = None) -> Model:
    """Opens RUN[:LABEL] (`runs/help-desk:lora`; without LABEL the recommended customization) or TABLE:TASK. Verified,
    or refused. `base`: the folder where its base lies now, where it is not found by itself."""
    from tailorbird.running.opening import choose

    chosen = choose(run, base)
    return Model(chosen.open(), chosen.folder)


class Table:
    """A prompt table in memory: each text goes to a task of it, and rows of many tasks share a batch.

    `tasks` of each method: a name for each text, or one for all. TASK is its newest version, TASK@HASH that version for
    good, `base` the untouched base, and any name given to `load_table(beside=)`.
    """

    def __init__(self, served: Served) -> None:
        self._served = served

    @property
    def tasks(self) -> list[str]:
        """The names that can be asked, the base's left out."""
        return self._served.names

    def classify(self, texts: Sequence[ConversationLike] | str, tasks: Sequence[str] | str) -> list[Label]:
        """One label for each text or conversation, among those of its task."""
        turns = _conversations(texts)
        asked = []
        for number, (task, own) in enumerate(zip(_for_each(tasks, turns), turns, strict=True)):
            labels = self._served.labels(task)
            if not labels:
                raise SpecError(f"{task} has no labels", where=str(self._served.table.path), remedy="use generate")
            asked.append((task, Request(str(number), own, labels)))
        return [Label(answer) for answer in self._served.answer(asked)]

    def generate(
        self,
        conversations: Sequence[ConversationLike] | str,
        tasks: Sequence[str] | str,
        max_new_tokens: int | None = None,
    ) -> list[Text]:
        """One written answer for each conversation, greedily; as long as its task allows where no length is given."""
        if max_new_tokens is not None and max_new_tokens < 1:
            raise SpecError(f"max_new_tokens must be at least 1, is {max_new_tokens}")
        turns = _conversations(conversations)
        asked = []
        for number, (task, own) in enumerate(zip(_for_each(tasks, turns), turns, strict=True)):
            limit = max_new_tokens or self._served.max_new_tokens(task)
            asked.append((task, Request(str(number), own, max_new_tokens=limit)))
        return [Text(answer) for answer in self._served.answer(asked)]

    def score(
        self,
        conversations: Sequence[ConversationLike] | str,
        answers: Sequence[str] | str,
        tasks: Sequence[str] | str,
    ) -> list[float]:
        """Sum of log-probabilities of each answer and its end, nats."""
        turns = _conversations(conversations)
        said = [answers] if isinstance(answers, str) else list(answers)
        if len(turns) != len(said):
            raise DataError(f"{len(turns)} conversations and {len(said)} answers", remedy="give one answer for each")
        return self._served.score(list(zip(_for_each(tasks, turns), turns, strict=True)), said)

    def close(self) -> None:
        self._served.close()

    def __repr__(self) -> str:
        return f"<Table {self._served.table.path}: {', '.join(self.tasks)}>"


def load_table(table: str | Path, beside: Mapping[str, str] | None = None, base: str | Path | None = None) -> Table:
    """Opens a prompt table. `beside`: customizations of the same base that are no soft prompts, as {name: RUN:LABEL}.
    `base`: the folder where that base lies now, where it is not found by itself.

    A task is verified and opened when it is first asked. ArtifactError where one is not what was added.
    """
    from tailorbird.running.serving import serve

    return Table(serve(Path(table), beside or {}, base))


def _for_each(tasks: Sequence[str] | str, turns: Sequence[Any]) -> list[str]:
    named = [tasks] * len(turns) if isinstance(tasks, str) else list(tasks)
    if len(named) != len(turns):
        raise DataError(f"{len(turns)} texts and {len(named)} tasks", remedy="name one task for each, or one for all")
    return named


def _conversations(given: Sequence[ConversationLike] | str) -> list[tuple[Message, ...]]:
    """Conversations as our messages; a plain string is one user turn. A single conversation need not be in a list."""
    if isinstance(given, str) or (given and isinstance(given[0], Mapping)):
        given = [given]  # type: ignore[list-item]
    return [_conversation(one, number) for number, one in enumerate(given)]


def _conversation(one: Any, number: int) -> tuple[Message, ...]:
    if isinstance(one, str):
        return (Message(Role.USER, one),)
    try:
        turns = tuple(Message(Role(turn["role"]), turn["content"]) for turn in one)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"conversation {number} is not a list of {{'role', 'content'}}: {error}",
            remedy="roles are system, user, assistant; a plain string stands for one user turn",
        ) from None
    if not turns or turns[-1].role is Role.ASSISTANT or not all(isinstance(t.content, str) for t in turns):
        raise DataError(f"conversation {number} must end with a user turn and hold text only")
    return turns
