"""The room that the base's context leaves a row: whether it fits as it is served and trained on, by every contestant.

All contestants are compared on the same rows and general texts. So these have to fit beside the most virtual tokens
(and pairs of a prefix) that any of them puts before them, and a row beside the longest answer that may be given to it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from tailorbird.artifacts.layout import virtual_positions
from tailorbird.artifacts.parts import Prompt
from tailorbird.running.inputs import brought_path, parent_folder
from tailorbird.spec import Contestant, Spec
from tailorbird.types import BaseFacts, Row

if TYPE_CHECKING:
    from tailorbird.bases.renderer import Renderer
    from tailorbird.tasks import Task
    from tailorbird.techniques.base import Technique

RowCheck = Callable[[Row], tuple[str, str, str] | None]
Taken = tuple[int, int]  # virtual tokens, and pairs of a prefix
TEMPLATE_BYTES, TURN_BYTES = 64, 16  # that a template may write around a row, and around each of its turns


@dataclass(frozen=True)
class Room:
    """`before`: positions that are taken before a row begins."""

    renderer: Renderer
    base: BaseFacts
    before: int

    @property
    def tokens(self) -> int:
        """The most that a text may have with any contestant."""
        return self.base.context - self.before

    def start(self, text: str) -> str:
        """A plain text, or as many of its first characters as every contestant has room for."""
        if len(self.renderer.plain(text)) <= self.tokens:
            return text
        return text[: bisect_right(range(1, len(text)), self.tokens, key=lambda n: len(self.renderer.plain(text[:n])))]

    def check(self, task: Task | None = None) -> RowCheck:
        """What only the base can say of a row: that it is too long. Without a task the row is taken as it stands."""
        served = Prompt(task.instruction if task else None)
        around = len((served.instruction or "").encode()) + TEMPLATE_BYTES
        labels = [self.renderer.answer(words) for words in task.labels.values()] if task else []
        longest = max([(task.max_new_tokens or 0) if task else 0, *map(len, labels)])
        behind = f" behind {self.before} virtual tokens" if self.before else ""
        context, limit = f"the base's context is {self.base.named_context}", self.base.context

        def check(row: Row) -> tuple[str, str, str] | None:
            size = sum(len(m.content.encode("utf-8", "replace")) + TURN_BYTES for m in row.messages)
            if self.before + size + around + longest <= limit:  # a token is a byte at least
                return None
            own = len(self.renderer.answer(row.answer))
            answer = longest if labels else max(own, longest)
            if self.before + answer > limit:
                may = "the answer alone has" if answer == own else "an answer alone may have"
                return "answer", "D29", f"{may} {answer} tokens{behind}, {context}"
            question = len(self.renderer.prompt(served.conversation(row.prompt)))
            if self.before + question + answer > limit:
                may = "" if answer == own else f" (an answer may have {answer})"
                return "prompt", "D28", f"question and answer have {question + answer} tokens{may}{behind}, {context}"
            return None

        return check


def room_of(spec: Spec, renderer: Renderer, base: BaseFacts) -> Room:
    contestants = spec.contestants or ()
    return Room(renderer, base, max((_before(spec, one, base) for one in contestants), default=0))


def _before(spec: Spec, contestant: Contestant, base: BaseFacts) -> int:
    """Virtual tokens and pairs before a row of this contestant: its own, and those of what it starts from. Of one kind
    it goes on with those that are there, so that the larger number counts."""
    by_label, link = {one.label: one for one in spec.contestants or ()}, contestant
    found: list[Taken] = [*_made(contestant, base)]
    if contestant.adapter is not None and (brought := brought_path(spec, contestant)) is not None:
        found.append(virtual_positions(brought))
    for _ in by_label:  # at most: the plan refuses a circle of parents
        if (folder := parent_folder(spec, link.label, link.after)) is not None:
            found.append(virtual_positions(folder))
        if link.after not in by_label:
            break
        link = by_label[link.after]
        found += _made(link, base)
    tokens, pairs = zip((0, 0), *found, strict=True)
    return max(tokens) + max(pairs)


def _made(contestant: Contestant, base: BaseFacts) -> Iterator[Taken]:
    """What a technique puts before a row, with each value of a setting that is searched, too."""
    from tailorbird import techniques
    from tailorbird.techniques.base import Trained

    name = contestant.technique
    if name is None or not (name in techniques.NAMES or ":" in name):
        return
    technique = techniques.get(name)
    if not isinstance(technique, Trained):
        return
    for asked in _asked(contestant, technique, base):
        try:
            learned = technique.learned(technique.settings(asked, base, 0), base)
        except ValidationError:
            continue  # the plan refuses such settings, at their line
        yield learned.virtual_tokens, learned.pairs


def _asked(contestant: Contestant, technique: Technique, base: BaseFacts) -> Iterator[Mapping[str, Any]]:
    settings, tune = contestant.settings, contestant.tune
    yield settings
    if tune is None:
        return
    declared = technique.search_space(base, 0, settings)
    over: Mapping[str, Sequence[Any] | None] = tune.over or dict.fromkeys(declared.keys() - settings.keys())
    for name, values in over.items():
        ends = declared[name].ends() if values is None and name in declared else values or ()
        yield from ({**settings, name: value} for value in ends)
