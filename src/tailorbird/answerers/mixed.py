"""Answers of many customizations of one base: each request names its owner, a batch holds rows of all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice

from tailorbird.answerers.batching import Size, answered, cut, ready
from tailorbird.answerers.local import LocalAnswerer
from tailorbird.engine.memory import give_back_freed_memory
from tailorbird.engine.mixing import attach, log_probabilities
from tailorbird.engine.scoring import Marked
from tailorbird.engine.segments import KeyValues
from tailorbird.errors import ArtifactError, SpecError
from tailorbird.spec import did_you_mean
from tailorbird.types import Answer, Message, Request

WINDOW = 256  # requests looked at together; they are put in order by owner, so more than one batch's worth


class MixedAnswerer:
    """Each answer is the one that its owner gives alone: prompt, labels, calibration and decoding are the owner's.

    members: opened customizations of one base in memory, by owner. ArtifactError where one lies on another base or
    compute type, or has a part that cannot be mixed.
    """

    def __init__(self, members: Mapping[str, LocalAnswerer]) -> None:
        if not members:
            raise ValueError("nobody is there to answer")
        self.members = dict(members)
        first, one = next(iter(self.members.items()))
        for owner, member in self.members.items():
            if member.model is not one.model:
                raise ArtifactError(
                    f"cannot be mixed with {first}: it lies on another base, compute type or device", where=owner
                )
        self.batch_tokens = min(member.batch_tokens for member in self.members.values())
        self._end_ids = one.end_ids
        self._mixture = attach(one.model, {owner: member.parts for owner, member in self.members.items()})

    def member(self, owner: str) -> LocalAnswerer:
        """SpecError where there is no such owner."""
        if owner not in self.members:
            raise SpecError(f"nobody here is called {owner!r}; {did_you_mean(owner, list(self.members))}")
        return self.members[owner]

    def answer(self, requests: Iterable[tuple[str, Request]]) -> Iterator[Answer]:
        """One answer for each (owner, request), in their order."""
        iterator = iter(requests)
        while window := list(islice(iterator, WINDOW)):
            asked = [ready(self.member(owner), owner, request) for owner, request in window]
            yield from answered(asked, self._mixture.attached, self.batch_tokens, self._end_ids)

    def score(self, conversations: Sequence[tuple[str, Sequence[Message]]], answers: Sequence[str]) -> list[float]:
        """Sum of log-probabilities of each answer and its end of turn to an owner's conversation, nats."""
        rows: list[tuple[str, KeyValues | None, Marked]] = []
        for number, ((owner, messages), text) in enumerate(zip(conversations, answers, strict=True)):
            member = self.member(owner)
            prompt, answer = member.prompt(messages), member.renderer.answer(text)
            member.check_length(Request(str(number), tuple(messages)), len(prompt), len(answer))
            ids, cached = member.behind(prompt)
            rows.append((owner, cached, ([*ids, *answer], [False] * len(ids) + [True] * len(answer))))
        order = sorted(range(len(rows)), key=lambda n: (rows[n][0], id(rows[n][1])))
        found = [0.0] * len(rows)
        with self._mixture.attached() as model:
            for batch in cut(order, lambda n: _size(*rows[n]), self.batch_tokens):
                together = [list(same) for _, same in groupby(batch, key=lambda n: _size(*rows[n]).share)]
                shares = [(*rows[same[0]][:2], [rows[n][2] for n in same]) for same in together]
                for same, values in zip(together, log_probabilities(model, shares), strict=True):
                    for number, value in zip(same, values, strict=True):
                        found[number] = value
        give_back_freed_memory()
        return found

    def close(self) -> None:
        for member in self.members.values():
            member.close()


def _size(owner: str, cached: KeyValues | None, row: Marked) -> Size:
    return Size((owner, id(cached)), len(row[0]), context=0 if cached is None else cached.length)
