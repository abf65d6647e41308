"""Answers from a base in memory with the parts of a customization: scoring, measuring, chatting and serving alike.

What is measured is opened here from an exported folder, never handed over live. Parts are put in place for the length
of one batch and taken out again, so that several customizations share one base without touching each other.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch

from tailorbird.answerers.batching import WINDOW, Size, answered, cut, raw, ready
from tailorbird.artifacts.parts import Parts
from tailorbird.bases.renderer import Renderer
from tailorbird.engine.attaching import Attachment
from tailorbird.engine.divergence import Walk, divergences
from tailorbird.engine.generation import Generated
from tailorbird.engine.memory import give_back_freed_memory
from tailorbird.engine.model import Model
from tailorbird.engine.scoring import Marked, Trie, log_probabilities, top_logits
from tailorbird.engine.segments import KeyValues
from tailorbird.errors import ArtifactError, DataError
from tailorbird.types import Answer, BaseFacts, Message, Request, Role, Stop

PROBES = ("N/A", "[MASK]", "")  # inputs without content, Zhao et al. 2021 §4


@dataclass
class Seen:
    """Tokens met so far, for the cost of one request."""

    requests: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0


@dataclass
class LocalAnswerer:
    """An Answerer and Scorer. `batch_tokens` bounds one forward; `deployed_bytes` is what is needed beyond the base."""

    model: Model
    renderer: Renderer
    parts: Parts
    base: BaseFacts
    batch_tokens: int = 4096
    calibrated: bool = True
    deployed_bytes: int = 0
    trainable_parameters: int = 0
    seen: Seen = field(default_factory=Seen)

    def __post_init__(self) -> None:
        self.model.check_context(self.base)
        self._head: list[int] | None = None
        self._cached: dict[int, KeyValues | None] = {}  # by tokens of the head
        self._tries: dict[tuple[str, ...], Trie] = {}
        self.end_ids = frozenset(self.renderer.end_ids)
        self._attachment = Attachment(self.model, self.parts)

    @contextlib.contextmanager
    def attached(self) -> Iterator[Model]:
        """The model with this customization's parts in place."""
        try:
            self._attachment.put()
            with torch.no_grad():
                yield self.model
        finally:
            self._attachment.take()

    # Prompts

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a request as served: instruction, examples, the conversation, the opening of the answer."""
        return self.renderer.prompt(self.parts.prompt.conversation(tuple(messages)))

    def head(self) -> list[int]:
        """The token ids that every prompt of this customization begins with."""
        if self._head is None:
            first, second = (self.prompt([Message(Role.USER, text)]) for text in ("A", "zu 9"))
            same = 0
            while same < min(len(first), len(second)) - 1 and first[same] == second[same]:
                same += 1
            self._head = first[:same]
        return self._head

    def behind(self, prompt: list[int]) -> tuple[list[int], KeyValues | None]:
        """What of a prompt stands behind the head, and the head's keys, the soft prompt's among them; a prompt that
        does not begin so stands behind the soft prompt alone."""
        head = self.head()
        shared = prompt[: len(head)] == head and len(prompt) > len(head)
        count = len(head) if shared else 0
        return prompt[count:], self.keys(count)

    def keys(self, count: int = 0) -> KeyValues | None:
        """Of the soft prompt and `count` tokens of the head, computed once."""
        if count not in self._cached:
            with self.attached() as model:
                self._cached[count] = model.cache_head(self.head()[:count])
        return self._cached[count]

    def check_length(self, request: Request, tokens: int, answer: int) -> None:
        """DataError where prompt and answer are longer than the base's context."""
        if tokens + self.parts.positions + answer > self.base.context:
            raise DataError(
                f"row {request.key or request.id}: {tokens} prompt tokens, {self.parts.positions} virtual and {answer} "
                f"answer tokens are more than the context of {self.base.named_context}",
                remedy="shorten the input; nothing is cut silently",
            )

    # Answers

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        iterator = iter(requests)
        while window := list(islice(iterator, WINDOW)):
            asked = [ready(self, None, request) for request in window]
            yield from answered(asked, self.attached, self.batch_tokens, self.end_ids)

    def trie(self, candidates: tuple[str, ...]) -> Trie:
        """The words of these labels. DataError where one has none."""
        if candidates not in self._tries:
            words = self.parts.decode.labels
            unknown = [c for c in candidates if c not in words]
            if unknown:
                raise DataError(
                    f"no words are known for the label {unknown[0]!r}", remedy="was this made for other labels?"
                )
            self._tries[candidates] = Trie.of([self.renderer.answer(words[c]) for c in candidates])
        return self._tries[candidates]

    def chosen(self, request: Request, raw: Sequence[float], prompt_tokens: int) -> Answer:
        """The label that the scores of a request's candidates (nats) give."""
        bias = self.parts.decode.calibration if self.calibrated else None
        scores = {c: s - (bias[c] if bias else 0.0) for c, s in zip(request.candidates, raw, strict=True)}
        if not all(math.isfinite(s) for s in scores.values()):
            raise ArtifactError(f"the scores of row {request.key or request.id} are not finite")
        label = max(request.candidates, key=lambda c: scores[c])
        top = scores[label]
        confidence = 1.0 / sum(math.exp(s - top) for s in scores.values())
        count = prompt_tokens + self.parts.virtual_tokens
        self._saw(count, len(self.trie(request.candidates).tokens))
        return Answer(
            id=request.id,
            text=self.parts.decode.labels[label],
            label=label,
            scores=scores,
            confidence=confidence,
            stop=Stop.SCORED,
            prompt_tokens=count,
        )

    def written(self, request: Request, made: Generated, prompt_tokens: int) -> Answer:
        """What was generated for a request, as text."""
        count = prompt_tokens + self.parts.virtual_tokens
        self._saw(count, len(made.tokens))
        text = self.renderer.decode(made.tokens).strip()
        return Answer(request.id, text, stop=made.stop, prompt_tokens=count, answer_tokens=len(made.tokens))

    def _saw(self, prompt_tokens: int, answer_tokens: int) -> None:
        self.seen.requests += 1
        self.seen.prompt_tokens += prompt_tokens
        self.seen.answer_tokens += answer_tokens

    # Scores

    def score(self, conversations: Sequence[Sequence[Message]], answers: Sequence[str]) -> list[float]:
        """Sum of log-probabilities of each answer and its end of turn, nats."""
        rows: list[Marked] = []
        for number, (messages, text) in enumerate(zip(conversations, answers, strict=True)):
            prompt, answer = self.prompt(messages), self.renderer.answer(text)
            self.check_length(Request(str(number), tuple(messages)), len(prompt), len(answer))
            rows.append(([*prompt, *answer], [False] * len(prompt) + [True] * len(answer)))
        return self._log_probabilities(rows)

    def bits(self, texts: Sequence[str]) -> Iterator[float]:
        """Bits to code each text (its tokens but the first) as plain text, with the customization in place. DataError
        for one that is longer than the context: bits of a part of it are not bits of the text."""
        rows: list[Marked] = []
        for number, text in enumerate(texts):
            ids = self.renderer.plain(text)
            self._check_context(f"text {number}", len(ids))
            rows.append((ids, [False] + [True] * (len(ids) - 1)))
        for value in self._log_probabilities(rows):
            yield -value / math.log(2.0)

    def walks(self, conversations: Sequence[Sequence[Message]], *, max_new_tokens: int) -> list[Walk]:
        """This answerer's greedy answers as walks: the ids up to the last prediction, its end of turn included."""
        requests = [
            Request(str(n), tuple(messages), max_new_tokens=max_new_tokens) for n, messages in enumerate(conversations)
        ]
        asked = [ready(self, None, request) for request in requests]
        walks = []
        for one, made in zip(asked, raw(asked, self.attached, self.batch_tokens, self.end_ids), strict=True):
            assert isinstance(made, Generated)
            answer = made.tokens if made.stop is Stop.END else made.tokens[:-1]  # nothing follows the last one
            walks.append(Walk((*one.prompt, *answer), len(one.prompt) - 1))
        return walks

    def kl(self, walks: Sequence[Walk], base: LocalAnswerer) -> Iterator[float]:
        """Sum of KL(base || this) over the positions of each walk, nats, with this customization's parts in place.
        DataError for a walk that is longer than the context."""
        for number, walk in enumerate(walks):
            self._check_context(f"walk {number}", len(walk.ids))
        for batch in cut(walks, lambda walk: self._size(walk.ids), self.batch_tokens):
            yield from divergences(base.attached, self.attached, batch)
        give_back_freed_memory()

    def _check_context(self, what: str, tokens: int) -> None:
        """DataError where the tokens of a text do not fit behind the virtual ones."""
        if tokens + self.parts.positions > self.base.context:
            raise DataError(
                f"{what}: {tokens} tokens behind {self.parts.positions} virtual ones are more than the context of "
                f"{self.base.context}",
                remedy="cut the text before it is given; both sides of a comparison have to be given the same one",
            )

    def _size(self, ids: Sequence[int]) -> Size:
        return Size(None, len(ids), context=self.parts.positions)

    def _log_probabilities(self, rows: list[Marked]) -> list[float]:
        found: list[float] = []
        with self.attached() as model:
            for batch in cut(rows, lambda row: self._size(row[0]), self.batch_tokens):
                found += log_probabilities(model, batch)
        return found

    def content_free(self, candidates: tuple[str, ...]) -> dict[str, float]:
        """log of the mean label probabilities for inputs without content (uncalibrated), nats."""
        requests = [
            Request(f"content-free-{i}", (Message(Role.USER, text),), candidates) for i, text in enumerate(PROBES)
        ]
        plain, self.calibrated = self.calibrated, False
        answers = list(self.answer(requests))
        self.calibrated = plain
        self.seen = Seen()
        totals = dict.fromkeys(candidates, 0.0)
        for answer in answers:
            assert answer.scores is not None
            top = max(answer.scores.values())
            mass = sum(math.exp(s - top) for s in answer.scores.values())
            for label, score in answer.scores.items():
                totals[label] += math.exp(score - top) / mass / len(answers)
        return {label: math.log(max(p, 1e-12)) for label, p in totals.items()}

    def top_logits(self, ids: Sequence[int], count: int = 32) -> tuple[list[int], list[float]]:
        """The largest logits after a prompt, one row alone."""
        with self.attached() as model:
            return top_logits(model, ids, count)

    def cost_facts(self) -> dict[str, Any]:
        """Mean over the requests seen: tokens of a prompt, FLOPs of one request alone; and what must be deployed."""
        n = max(1, self.seen.requests)
        prompt, answer = self.seen.prompt_tokens / n, self.seen.answer_tokens / n
        tokens = prompt + answer
        base = self.base
        body = base.flops_per_token * tokens
        pairs = self.parts.positions - (0 if self.parts.soft is None else int(self.parts.soft.shape[0]))
        # A prefix is looked back at by every token, and computed for none.
        attention = 4.0 * base.layers * base.heads * base.head_dim * tokens * (tokens / 2 + pairs)
        output = 2.0 * base.vocabulary * base.hidden_size * (answer + 1)
        extra = 0.0
        if self.parts.low_rank is not None:
            extra = 2.0 * tokens * sum(a.numel() + b.numel() for a, b in self.parts.low_rank.tensors.values())
        if self.parts.peft is not None:
            extra = 2.0 * tokens * sum(tensor.numel() for tensor in self.parts.peft.tensors.values())
        return {
            "prompt_tokens": prompt,
            "flops_per_request": body + attention + output + extra,
            "deployed_bytes": self.deployed_bytes,
            "trainable_parameters": self.trainable_parameters,
        }

    def close(self) -> None:
        self._cached.clear()
        self._tries.clear()
        give_back_freed_memory()
