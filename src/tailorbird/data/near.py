"""Which rows say nearly the same: clusters by normalized text, near-duplicate shingles, and the user's groups.

Near-duplicate: Jaccard similarity of shingle sets >= 0.85, where a shingle is five characters of normalized text (a
text of ten words has about fifty) or, for long texts, three words. Candidates come from MinHash (Broder 1997) with
banding (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, ch. 3): 21 bands of 6 of 126 permutations, which
miss a pair at the threshold with probability (1 - 0.85^6)^21 = 5e-5. Each candidate is verified on the sets
themselves, and `overlap.py` looks again, exactly, across the splits.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence

from tailorbird.data.text import character_shingles, normalize, shingles
from tailorbird.types import Role, Row

THRESHOLD = 0.85
BANDS, BAND_ROWS = 21, 6
SEED = 20_021  # of the hash functions; what is near does not depend on the run's seed
LONG, SHORT = 400, 300  # characters: up to LONG character shingles, from SHORT on word shingles; both between
WORDS_IN_LONG = 30

Sets = tuple[frozenset[str] | None, frozenset[str] | None]  # character shingles, word shingles


class Union:
    """Disjoint sets of 0..n-1; the least member stands for its set."""

    def __init__(self, size: int) -> None:
        self.parent = list(range(size))

    def find(self, member: int) -> int:
        while self.parent[member] != member:
            self.parent[member] = self.parent[self.parent[member]]
            member = self.parent[member]
        return member

    def join(self, a: int, b: int) -> bool:
        """True when they were apart."""
        a, b = self.find(a), self.find(b)
        self.parent[max(a, b)] = min(a, b)
        return a != b

    def sets(self) -> list[list[int]]:
        """Members of each set in order, sets by their least member."""
        found: dict[int, list[int]] = defaultdict(list)
        for member in range(len(self.parent)):
            found[self.find(member)].append(member)
        return list(found.values())


def comparable(rows: Sequence[Row]) -> list[str]:
    """What is compared of each row: the turns before the answer but system turns, without boilerplate.

    An instruction that stands word for word in many rows (a line in 20 rows and 1 %, or in half of all and 3) would
    make all of them near-duplicates; such lines are left out of rows that have other text.
    """
    lines = [[line for m in row.prompt if m.role is not Role.SYSTEM for line in m.content.splitlines()] for row in rows]
    folded = [[n for line in of_row if (n := normalize(line))] for of_row in lines]
    counts = Counter(line for of_row in folded for line in set(of_row))
    often = max(20, math.ceil(len(rows) / 100))
    limit = min(often, max(3, math.ceil(len(rows) / 2)))
    boilerplate = {line for line, count in counts.items() if count >= limit}
    texts = []
    for of_row in folded:
        own = [line for line in of_row if line not in boilerplate]
        texts.append(" ".join(own or of_row))
    return texts


def shingle_sets(text: str) -> Sets:
    """Of a normalized text. Near-duplicates share at least one kind: their lengths differ by less than LONG / SHORT."""
    enough_words = text.count(" ") + 1 >= WORDS_IN_LONG
    by_words = shingles(text, 3) if len(text) >= SHORT and enough_words else None
    by_characters = character_shingles(text) if len(text) <= LONG or by_words is None else None
    return by_characters, by_words


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared) if shared else 0.0


def near(a: Sets, b: Sets) -> bool:
    """Whether two texts are near-duplicates by a kind of shingle that both have."""
    for left, right in zip(a, b, strict=True):
        if left is not None and right is not None:
            return jaccard(left, right) >= THRESHOLD
    return False


def near_pairs(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Pairs of different texts that are near-duplicates and not yet connected by earlier pairs."""
    sets = [shingle_sets(text) for text in texts]
    joined = Union(len(texts))
    for kind in (0, 1):
        members = [(i, found) for i, s in enumerate(sets) if (found := s[kind]) is not None]
        for a, b in _candidates([i for i, _ in members], [s for _, s in members]):
            if joined.find(a) != joined.find(b) and near(sets[a], sets[b]):
                joined.join(a, b)
                yield a, b


def _candidates(numbers: Sequence[int], sets: Sequence[frozenset[str]]) -> Iterator[tuple[int, int]]:
    """Pairs with an equal band. In a bucket each is paired with all before it: verification may refuse some of them."""
    if len(sets) < 2:
        return
    from rensa import RMinHash

    digests = RMinHash.digests_from_token_sets([sorted(s) for s in sets], num_perm=BANDS * BAND_ROWS, seed=SEED)
    seen: set[tuple[int, int]] = set()
    for band in range(BANDS):
        buckets: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for number, digest in zip(numbers, digests, strict=True):
            bucket = buckets[tuple(digest[band * BAND_ROWS : (band + 1) * BAND_ROWS])]
            for other in bucket:
                if (other, number) not in seen:
                    seen.add((other, number))
                    yield other, number
            bucket.append(number)


def join_equal(union: Union, values: Iterable[Hashable | None]) -> None:
    """Joins members whose value is the same; None is nobody's."""
    first: dict[Hashable, int] = {}
    for number, value in enumerate(values):
        if value is not None:
            union.join(first.setdefault(value, number), number)


def clusters(rows: Sequence[Row]) -> tuple[Union, int]:
    """Rows that must stay together, and how many texts were joined for being near, not equal."""
    texts = comparable(rows)
    union = Union(len(rows))
    join_equal(union, texts)
    join_equal(union, (row.group for row in rows))
    first: dict[str, int] = {}
    for number, text in enumerate(texts):
        first.setdefault(text, number)
    distinct = list(first)
    joined = 0
    for a, b in near_pairs(distinct):
        joined += union.join(first[distinct[a]], first[distinct[b]])
    return union, joined
