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

from tailorbird.artifacts.parts import Parts
from tailorbird.bases.renderer import Renderer
from tailorbird.engine.attaching import Attachment
from tailorbird.engine.divergence import Walk, divergences
from tailorbird.engine.generation import generate
from tailorbird.engine.memory import give_back_freed_memory
from tailorbird.engine.model import Model
from tailorbird.engine.scoring import Trie, log_probabilities, score_labels, top_logits
from tailorbird.engine.segments import KeyValues
from tailorbird.errors import ArtifactError, DataError
from tailorbird.types import Answer, BaseFacts, Message, Request, Role, Stop

WINDOW = 64  # requests looked at together; answers come out in their order
MASK_ELEMENTS = 24_000_000  # (row, query, key) places of one scoring batch
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
        self._head: list[int] | None = None
        self._cached: KeyValues | None = None
        self._tries: dict[tuple[str, ...], Trie] = {}
        self._end_ids = frozenset(self.renderer.end_ids)
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

    def _shared(self, model: Model) -> tuple[list[int], KeyValues | None]:
        """The head that every prompt of this customization begins with, and its keys (computed once)."""
        if self._head is None:
            first, second = (self.prompt([Message(Role.USER, text)]) for text in ("A", "zu 9"))
            same = 0
            while same < min(len(first), len(second)) - 1 and first[same] == second[same]:
                same += 1
            self._head = first[:same]
            self._cached = model.cache_head(self._head)
        return self._head, self._cached

    def _check_length(self, request: Request, tokens: int, answer: int) -> None:
        virtual = self.parts.positions
        if tokens + virtual + answer > self.base.context:
            raise DataError(
                f"row {request.key or request.id}: {tokens} prompt tokens, {virtual} virtual and {answer} answer "
                f"tokens are more than the context of {self.base.context}",
                remedy="shorten the input; nothing is cut silently",
            )

    def _batches(
        self, items: Sequence[tuple[int, list[int]]], extra: int, context: int
    ) -> Iterator[list[tuple[int, list[int]]]]:
        """Group (number, ids) so that tokens and attention places of a batch stay bounded."""
        batch: list[tuple[int, list[int]]] = []
        longest = 0
        for item in items:
            width = max(longest, len(item[1])) + extra
            count = len(batch) + 1
            if batch and (count * width > self.batch_tokens or count * width * (width + context) > MASK_ELEMENTS):
                yield batch
                batch, longest = [], 0
            batch.append(item)
            longest = max(longest, len(item[1]))
        if batch:
            yield batch

    def _grouped(
        self, prompts: list[list[int]], model: Model, extra: int
    ) -> Iterator[tuple[list[int], list[list[int]], KeyValues | None]]:
        """Batches of (numbers, ids behind the head, cached head); prompts without the head come apart."""
        head, cached = self._shared(model)
        virtual = self.parts.positions
        shared = [(i, p[len(head) :]) for i, p in enumerate(prompts) if p[: len(head)] == head and len(p) > len(head)]
        known = {i for i, _ in shared}
        for batch in self._batches(shared, extra, len(head) + virtual):
            yield [i for i, _ in batch], [ids for _, ids in batch], cached
        other = [(i, p) for i, p in enumerate(prompts) if i not in known]
        if other:
            soft_only = model.cache_head([])
            for batch in self._batches(other, extra, virtual):
                yield [i for i, _ in batch], [ids for _, ids in batch], soft_only

    # Answers

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        iterator = iter(requests)
        while window := list(islice(iterator, WINDOW)):
            scored = [r for r in window if r.candidates]
            written = [r for r in window if not r.candidates]
            found = {a.id: a for a in (*self._score(scored), *self._generate(written))}
            give_back_freed_memory()
            for request in window:
                yield found[request.id]

    def _score(self, requests: list[Request]) -> list[Answer]:
        if not requests:
            return []
        if len({r.candidates for r in requests}) > 1:
            raise ValueError("requests of one window must have the same candidates")
        candidates = requests[0].candidates
        trie = self._trie(candidates)
        prompts = [self.prompt(r.messages) for r in requests]
        for request, prompt in zip(requests, prompts, strict=True):
            self._check_length(request, len(prompt), max(map(len, trie.paths)))
        answers: dict[int, Answer] = {}
        with self.attached() as model:
            for numbers, ids, cached in self._grouped(prompts, model, len(trie.tokens)):
                table = score_labels(model, ids, trie, cached).tolist()
                for number, scores in zip(numbers, table, strict=True):
                    answers[number] = self._choose(requests[number], scores, len(prompts[number]), model.virtual_tokens)
        self.seen.answer_tokens += len(trie.tokens) * len(requests)
        return [answers[i] for i in range(len(requests))]

    def _trie(self, candidates: tuple[str, ...]) -> Trie:
        if candidates not in self._tries:
            words = self.parts.decode.labels
            unknown = [c for c in candidates if c not in words]
            if unknown:
                raise DataError(
                    f"no words are known for the label {unknown[0]!r}", remedy="was this made for other labels?"
                )
            self._tries[candidates] = Trie.of([self.renderer.answer(words[c]) for c in candidates])
        return self._tries[candidates]

    def _choose(self, request: Request, raw: list[float], prompt_tokens: int, virtual: int) -> Answer:
        bias = self.parts.decode.calibration if self.calibrated else None
        scores = {c: s - (bias[c] if bias else 0.0) for c, s in zip(request.candidates, raw, strict=True)}
        if not all(math.isfinite(s) for s in scores.values()):
            raise ArtifactError(f"the scores of row {request.key or request.id} are not finite")
        label = max(request.candidates, key=lambda c: scores[c])
        top = scores[label]
        confidence = 1.0 / sum(math.exp(s - top) for s in scores.values())
        self.seen.requests += 1
        self.seen.prompt_tokens += prompt_tokens + virtual
        return Answer(
            id=request.id,
            text=self.parts.decode.labels[label],
            label=label,
            scores=scores,
            confidence=confidence,
            stop=Stop.SCORED,
            prompt_tokens=prompt_tokens + virtual,
        )

    def _generate(self, requests: list[Request]) -> list[Answer]:
        if not requests:
            return []
        limit = max(r.max_new_tokens for r in requests)
        prompts = [self.prompt(r.messages) for r in requests]
        for request, prompt in zip(requests, prompts, strict=True):
            self._check_length(request, len(prompt), request.max_new_tokens)
        answers: dict[int, Answer] = {}
        with self.attached() as model:
            for numbers, ids, cached in self._grouped(prompts, model, limit):
                made = generate(model, ids, max_new_tokens=limit, end_ids=self._end_ids, cached=cached)
                for number, one in zip(numbers, made, strict=True):
                    request = requests[number]
                    tokens, stop = one.tokens, one.stop
                    if len(tokens) > request.max_new_tokens:
                        tokens, stop = tokens[: request.max_new_tokens], Stop.LENGTH
                    count = len(prompts[number]) + model.virtual_tokens
                    self.seen.requests += 1
                    self.seen.prompt_tokens += count
                    self.seen.answer_tokens += len(tokens)
                    text = self.renderer.decode(tokens).strip()
                    answers[number] = Answer(
                        request.id, text, stop=stop, prompt_tokens=count, answer_tokens=len(tokens)
                    )
        return [answers[i] for i in range(len(requests))]

    # Scores

    def score(self, conversations: Sequence[Sequence[Message]], answers: Sequence[str]) -> list[float]:
        """Sum of log-probabilities of each answer and its end of turn, nats."""
        rows = []
        for number, (messages, text) in enumerate(zip(conversations, answers, strict=True)):
            prompt, answer = self.prompt(messages), self.renderer.answer(text)
            self._check_length(Request(str(number), tuple(messages)), len(prompt), len(answer))
            rows.append(([*prompt, *answer], [False] * len(prompt) + [True] * len(answer)))
        return self._log_probabilities(rows)

    def bits(self, texts: Sequence[str]) -> Iterator[float]:
        """Bits to code each text (its tokens but the first) as plain text, with the customization in place."""
        virtual = self.parts.positions
        rows = []
        for text in texts:
            ids = self.renderer.plain(text)[: self.base.context - virtual]
            rows.append((ids, [False] + [True] * (len(ids) - 1)))
        for value in self._log_probabilities(rows):
            yield -value / math.log(2.0)

    def walks(self, conversations: Sequence[Sequence[Message]], *, max_new_tokens: int) -> list[Walk]:
        """This answerer's greedy answers as walks: the ids up to the last prediction, its end of turn included."""
        prompts = [self.prompt(messages) for messages in conversations]
        found: dict[int, Walk] = {}
        with self.attached() as model:
            for numbers, ids, cached in self._grouped(prompts, model, max_new_tokens):
                made = generate(model, ids, max_new_tokens=max_new_tokens, end_ids=self._end_ids, cached=cached)
                for number, one in zip(numbers, made, strict=True):
                    prompt = prompts[number]
                    answer = one.tokens if one.stop is Stop.END else one.tokens[:-1]  # nothing follows the last one
                    found[number] = Walk((*prompt, *answer), len(prompt) - 1)
        return [found[i] for i in range(len(prompts))]

    def kl(self, walks: Sequence[Walk], base: LocalAnswerer) -> Iterator[float]:
        """Sum of KL(base || this) over the positions of each walk, nats, with this customization's parts in place."""
        virtual = self.parts.positions
        for batch in self._batches([(i, list(walk.ids)) for i, walk in enumerate(walks)], 0, virtual):
            yield from divergences(base.attached, self.attached, [walks[i] for i, _ in batch])
        give_back_freed_memory()

    def _log_probabilities(self, rows: list[tuple[list[int], list[bool]]]) -> list[float]:
        found = [0.0] * len(rows)
        with self.attached() as model:
            for batch in self._batches([(i, ids) for i, (ids, _) in enumerate(rows)], 0, self.parts.positions):
                values = log_probabilities(model, [rows[i] for i, _ in batch])
                for (i, _), value in zip(batch, values, strict=True):
                    found[i] = value
        return found

    def content_free(self, candidates: tuple[str, ...]) -> dict[str, float]:
        """log of the mean label probabilities for inputs without content (uncalibrated), nats."""
        requests = [
            Request(f"content-free-{i}", (Message(Role.USER, text),), candidates) for i, text in enumerate(PROBES)
        ]
        plain, self.calibrated = self.calibrated, False
        answers = self._score(requests)
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
        self._cached = None
        self._tries.clear()
        give_back_freed_memory()
