"""Requests of one customization or of many, in batches that stay within tokens and attention places.

A batch holds rows of whoever asks, side by side (`engine/mixing.py`); one customization alone is the case of one owner.
Rows of one owner, one head and one set of labels lie together, because they are laid out together.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

from tailorbird.engine.generation import Generated
from tailorbird.engine.memory import give_back_freed_memory
from tailorbird.engine.mixing import Scored, Share, Written, answer
from tailorbird.engine.model import Model
from tailorbird.engine.scoring import Trie
from tailorbird.engine.segments import KeyValues
from tailorbird.types import Answer, Request

if TYPE_CHECKING:
    from tailorbird.answerers.local import LocalAnswerer

WINDOW = 64  # requests looked at together; answers come out in their order
MASK_ELEMENTS = 24_000_000  # (row, query, key) places of one scoring batch

Attached = Callable[[], AbstractContextManager[Model]]
T = TypeVar("T")


@dataclass(frozen=True)
class Size:
    """What a row takes: `tokens` of its own, `extra` places for what is appended, `context` tokens it looks back at.

    Rows of one `share` lie together, padded to the longest within attention.
    """

    share: Hashable
    tokens: int
    extra: int = 0
    context: int = 0


def cut(items: Sequence[T], size: Callable[[T], Size], batch_tokens: int) -> Iterator[list[T]]:
    """Batches of neighbours with at most `batch_tokens` tokens, padding and appended ones included, and at most
    MASK_ELEMENTS places; a row that is too large for both is a batch of its own."""
    batch: list[T] = []
    tokens = places = count = longest = 0
    done_tokens = done_places = 0  # of the shares before the last
    share: Hashable = None
    for item in items:
        row = size(item)
        if not batch or row.share != share:
            done_tokens, done_places = (tokens, places) if batch else (0, 0)
            share, count, longest = row.share, 0, 0
        width, rows = max(longest, row.tokens) + row.extra, count + 1
        tokens = done_tokens + rows * width
        places = done_places + rows * width * (width + row.context)
        if batch and (tokens > batch_tokens or places > MASK_ELEMENTS):
            yield batch
            batch, count, longest, done_tokens, done_places = [], 0, 0, 0, 0
            width = row.tokens + row.extra
            tokens, places = width, width * (width + row.context)
        batch.append(item)
        count, longest = count + 1, max(longest, row.tokens)
    if batch:
        yield batch


@dataclass(frozen=True)
class Asked:
    """One request, ready for a batch. `owner` None: one customization alone is in place.

    prompt: all its token ids; ids: those behind the head whose keys are `cached`; trie: of its labels, None = written.
    """

    member: LocalAnswerer
    owner: str | None
    request: Request
    prompt: list[int]
    ids: list[int]
    cached: KeyValues | None
    trie: Trie | None

    @property
    def written_tokens(self) -> int:
        """The most that will be generated; none where a label is scored."""
        return self.request.max_new_tokens if self.trie is None else 0

    @property
    def size(self) -> Size:
        extra = self.written_tokens if self.trie is None else len(self.trie.tokens)
        context = 0 if self.cached is None else self.cached.length
        return Size((self.owner, id(self.cached), id(self.trie)), len(self.ids), extra, context)


def ready(member: LocalAnswerer, owner: str | None, request: Request) -> Asked:
    """Raises DataError when the request is longer than the base's context, or asks for labels that are not known."""
    trie = member.trie(request.candidates) if request.candidates else None
    prompt = member.prompt(request.messages)
    member.check_length(request, len(prompt), max(map(len, trie.paths)) if trie else request.max_new_tokens)
    ids, cached = member.behind(prompt)
    return Asked(member, owner, request, prompt, ids, cached, trie)


def raw(
    asked: Sequence[Asked], attached: Attached, batch_tokens: int, end_ids: frozenset[int]
) -> list[list[float] | Generated]:
    """Label scores (nats) or what was written, one for each and in their order."""
    shares: dict[Hashable, list[int]] = {}
    for number, one in enumerate(asked):
        shares.setdefault(one.size.share, []).append(number)
    # Rows that are written come last, those of like limits together: a batch decodes as long as its longest row.
    kinds = sorted(shares.values(), key=lambda numbers: asked[numbers[0]].written_tokens)
    order = [number for numbers in kinds for number in numbers]
    found: dict[int, list[float] | Generated] = {}
    with attached() as model:
        for batch in cut(order, lambda number: asked[number].size, batch_tokens):
            together = [list(same) for _, same in groupby(batch, key=lambda number: asked[number].size.share)]
            results = answer(model, [_share([asked[n] for n in numbers]) for numbers in together], end_ids)
            for numbers, result in zip(together, results, strict=True):
                rows = result if isinstance(result, list) else result.tolist()
                found.update(zip(numbers, rows, strict=True))
    return [found[number] for number in range(len(asked))]


def _share(rows: Sequence[Asked]) -> Share:
    first, prompts = rows[0], [row.ids for row in rows]
    if first.trie is not None:
        return Scored(prompts, first.trie, first.cached, first.owner)
    return Written(prompts, [row.request.max_new_tokens for row in rows], first.cached, first.owner)


def answered(
    asked: Sequence[Asked], attached: Attached, batch_tokens: int, end_ids: frozenset[int]
) -> Iterator[Answer]:
    """One answer for each, in their order."""
    results = raw(asked, attached, batch_tokens, end_ids)
    give_back_freed_memory()
    for one, result in zip(asked, results, strict=True):
        if isinstance(result, Generated):
            yield one.member.written(one.request, result, len(one.prompt))
        else:
            yield one.member.chosen(one.request, result, len(one.prompt))
