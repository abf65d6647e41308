"""Labels scored as a tree equal labels scored one by one; what is given up is hopeless, and the same in any batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tailorbird.engine import labels as engine
from tailorbird.engine import segments
from tailorbird.engine.labels import EVERYTHING, Chosen, LabelSearch, Trie, read, score_labels
from tailorbird.engine.model import Model
from tailorbird.engine.segments import KeyValues

from .reference import flat

QUICK = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LABELS = st.lists(
    st.lists(st.integers(0, 5), min_size=0, max_size=4).map(lambda x: (*x, 255)), min_size=2, max_size=6, unique=True
)
PROMPTS = st.lists(st.lists(st.integers(0, 250), min_size=1, max_size=6), min_size=1, max_size=4)


@QUICK
@given(labels=LABELS, prompts=PROMPTS)
def test_a_trie_of_labels_scores_as_each_label_alone(
    exact: Model, labels: list[tuple[int, ...]], prompts: list[list[int]]
) -> None:
    head = [3, 1, 4]
    scores = score_labels(exact, prompts, Trie.of(labels), exact.cache_head(head))
    for prompt, row in zip(prompts, scores.tolist(), strict=True):
        for label, score in zip(labels, row, strict=True):
            assert math.isclose(score, flat(exact, head + prompt, label), abs_tol=1e-4)


@pytest.mark.parametrize("explicit", [0, 4_000_000])
def test_a_long_head_is_looked_back_at_without_a_copy_for_each_row(
    exact: Model, monkeypatch: pytest.MonkeyPatch, explicit: int
) -> None:
    """Above `LONG_HEAD` tokens the rows meet the head's keys in one product: the same scores, whichever kernel."""
    head, labels = [3, 1, 4, 1, 5], [(1, 255), (1, 2, 255), (2, 3, 255)]
    prompts = [[5], [9, 2, 6], [5, 3]]
    copied = score_labels(exact, prompts, Trie.of(labels), exact.cache_head(head))
    monkeypatch.setattr(segments, "LONG_HEAD", 1)
    monkeypatch.setattr(segments, "EXPLICIT_WEIGHTS", explicit)
    once = score_labels(exact, prompts, Trie.of(labels), exact.cache_head(head))
    assert torch.allclose(copied, once, rtol=0, atol=1e-9)


def test_a_label_may_begin_another() -> None:
    """ "card" + end and "card arrival" + end share their first token only; no end token is a node of its own."""
    trie = Trie.of([(7, 255), (7, 8, 255)])
    assert trie.tokens == [7, 8]
    assert trie.parents == [0, 1]
    assert trie.pairs == [(0, 7), (1, 255), (1, 8), (2, 255)]
    assert trie.paths == [[0, 1], [0, 2, 3]]


def found(
    model: Model,
    prompts: Sequence[Sequence[int]],
    trie: Trie,
    cached: KeyValues | None,
    shifts: torch.Tensor,
    margin: float,
    most: int = 4096,
) -> Chosen:
    search = LabelSearch(prompts, trie, cached, shifts=shifts, margin=margin)
    with torch.no_grad():
        while (batch := search.next(most)) is not None:
            read(model, model.forward(batch), [(search, 0)])
    return search.chosen()


def expected(
    model: Model, prompt: list[int], labels: Sequence[tuple[int, ...]], shifts: torch.Tensor, margin: float
) -> tuple[list[float], int]:
    """The slow reference: every label in full, then each as far as some label on its way is within the margin."""
    steps = [[flat(model, [*prompt, *label[:d]], label[d : d + 1]) for d in range(len(label))] for label in labels]
    best = [max(sum(own) - shift for own, shift in zip(steps, kind, strict=True)) for kind in shifts.tolist()]

    def hopeful(number: int, depth: int) -> bool:
        bound = sum(steps[number][:depth])
        return any(bound - kind[number] >= top - margin for kind, top in zip(shifts.tolist(), best, strict=True))

    ends, needed = [0] * len(labels), set[tuple[int, ...]]()
    for depth in range(max(map(len, labels))):
        there = [n for n, label in enumerate(labels) if ends[n] == depth < len(label)]
        needed |= {labels[n][:depth] for n in there if hopeful(n, depth)}
        for n in there:
            ends[n] += labels[n][:depth] in needed
    return [sum(own[:end]) for own, end in zip(steps, ends, strict=True)], len(needed - {()})


@QUICK
@given(
    labels=LABELS,
    prompts=PROMPTS,
    margin=st.sampled_from([0.3, 3.0, 8.0, EVERYTHING]),
    few=st.sampled_from([0, 3, 64]),
    most=st.sampled_from([1, 5, 4096]),
    seed=st.integers(0, 9),
)
def test_hopeless_labels_are_given_up_and_all_others_scored_in_full(
    exact: Model,
    labels: list[tuple[int, ...]],
    prompts: list[list[int]],
    margin: float,
    few: int,
    most: int,
    seed: int,
) -> None:
    """However many tokens a forward has: scores, and which nodes count as needed, are those of the definition."""
    head, before = [3, 1, 4], engine.FEW
    generator = torch.Generator().manual_seed(seed)
    shifts = torch.stack([torch.zeros(len(labels)), 4 * torch.randn(len(labels), generator=generator)]).double()
    engine.FEW = few
    try:
        chosen = found(exact, prompts, Trie.of(labels), exact.cache_head(head), shifts, margin, most)
    finally:
        engine.FEW = before
    for prompt, row, tokens in zip(prompts, chosen.scores.tolist(), chosen.tokens, strict=True):
        scores, count = expected(exact, head + prompt, labels, shifts, margin)
        assert tokens == count
        assert row == pytest.approx(scores, abs=1e-4)


@pytest.mark.parametrize("long_head", [1, 256])
def test_a_row_is_scored_as_it_is_alone_whatever_stands_beside_it(
    exact: Model, monkeypatch: pytest.MonkeyPatch, long_head: int
) -> None:
    monkeypatch.setattr(segments, "LONG_HEAD", long_head)
    monkeypatch.setattr(engine, "FEW", 4)
    labels = [(1, 255), (1, 2, 255), (1, 2, 4, 3, 255), (2, 3, 255), (4, 5, 5, 5, 5, 255)]
    prompts = [[5], [9, 2, 6, 7, 7, 7, 7, 7, 7, 7, 7, 8], [5, 3], [200, 100]]
    trie, cached, shifts = Trie.of(labels), exact.cache_head([3, 1, 4, 1, 5]), torch.zeros(1, len(labels))
    together = found(exact, prompts, trie, cached, shifts, 6.0)
    assert all(tokens < trie.size for tokens in together.tokens)
    for number, prompt in enumerate(prompts):
        alone = found(exact, [prompt], trie, cached, shifts, 6.0)
        assert alone.tokens[0] == together.tokens[number]
        assert torch.allclose(alone.scores[0], together.scores[number], rtol=0, atol=1e-9)


def test_scores_that_are_no_numbers_end_the_search(exact: Model) -> None:
    """A broken file's NaN is found by who reads the scores; it must not keep the search going."""
    exact.output.weight.data[7] = math.nan
    scores = score_labels(exact, [[5]], Trie.of([(7, 255), (2, 3, 255)]), margin=engine.MARGIN)
    assert not torch.isfinite(scores).all()
