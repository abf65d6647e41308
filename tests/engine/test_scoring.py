"""Labels scored as a trie equal labels scored one by one; greedy answers equal transformers' own."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tailorbird.engine import attention
from tailorbird.engine.generation import generate
from tailorbird.engine.model import Model
from tailorbird.engine.scoring import Trie, log_probabilities, score_labels
from tailorbird.types import Stop

QUICK = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LABELS = st.lists(
    st.lists(st.integers(0, 5), min_size=0, max_size=4).map(lambda x: (*x, 255)), min_size=2, max_size=6, unique=True
)


def flat(model: Model, prompt: list[int], label: tuple[int, ...]) -> float:
    """Reference: one row, plain forward, sum of log-softmax at the label's tokens."""
    ids = torch.tensor([prompt + list(label)])
    network = model.network
    network.set_attn_implementation("sdpa")
    with torch.no_grad():
        logits = network(input_ids=ids, use_cache=False).logits[0].double()
    network.set_attn_implementation(attention.NAME)
    table = torch.log_softmax(logits, -1)
    return sum(float(table[len(prompt) + i - 1, token]) for i, token in enumerate(label))


@QUICK
@given(labels=LABELS, prompts=st.lists(st.lists(st.integers(0, 250), min_size=1, max_size=6), min_size=1, max_size=4))
def test_a_trie_of_labels_scores_as_each_label_alone(
    exact: Model, labels: list[tuple[int, ...]], prompts: list[list[int]]
) -> None:
    head = [3, 1, 4]
    scores = score_labels(exact, prompts, Trie.of(labels), exact.cache_head(head))
    for prompt, row in zip(prompts, scores.tolist(), strict=True):
        for label, score in zip(labels, row, strict=True):
            assert math.isclose(score, flat(exact, head + prompt, label), abs_tol=1e-4)


@pytest.mark.parametrize("block", [1, 200, 1_000_000])
def test_a_long_head_is_looked_back_at_without_a_copy_for_each_row(
    exact: Model, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    """Above `LONG_HEAD` tokens the rows meet the head's keys in one product: the same scores in blocks of one query, of
    some queries of a row and of all rows."""
    head, labels = [3, 1, 4, 1, 5], [(1, 255), (1, 2, 255), (2, 3, 255)]
    prompts = [[5], [9, 2, 6], [5, 3]]
    copied = score_labels(exact, prompts, Trie.of(labels), exact.cache_head(head))
    monkeypatch.setattr(attention, "LONG_HEAD", 1)
    monkeypatch.setattr(attention, "BLOCK_WEIGHTS", block)
    once = score_labels(exact, prompts, Trie.of(labels), exact.cache_head(head))
    assert torch.allclose(copied, once, rtol=0, atol=1e-9)


def test_a_label_may_begin_another() -> None:
    """ "card" + end and "card arrival" + end share their first token only; no end token is a node of its own."""
    trie = Trie.of([(7, 255), (7, 8, 255)])
    assert trie.tokens == [7, 8]
    assert trie.parents == [0, 1]
    assert trie.pairs == [(0, 7), (1, 255), (1, 8), (2, 255)]
    assert trie.paths == [[0, 1], [0, 2, 3]]


def test_log_probabilities_of_marked_tokens(exact: Model) -> None:
    ids = [5, 6, 7, 8]
    marked = [False, False, True, True]
    (found,) = log_probabilities(exact, [(ids, marked)])
    assert math.isclose(found, flat(exact, [5, 6], (7, 8)), abs_tol=1e-5)


@pytest.mark.parametrize("long_head", [1, 256])
@pytest.mark.parametrize("count", [1, 3])
def test_greedy_answers_equal_those_of_transformers(
    model: Model, monkeypatch: pytest.MonkeyPatch, count: int, long_head: int
) -> None:
    """The head's keys copied to each row's cache, or held once for all."""
    monkeypatch.setattr(attention, "LONG_HEAD", long_head)
    prompts = [[10, 20, 30, 40], [99], [7, 7, 7, 7, 7, 7]][:count]
    head = [1, 2]
    ours = generate(model, prompts, max_new_tokens=12, end_ids=frozenset({255}), cached=model.cache_head(head))
    network = model.network
    network.set_attn_implementation("sdpa")
    for prompt, answer in zip(prompts, ours, strict=True):
        ids = torch.tensor([head + prompt])
        theirs = network.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=255,
            pad_token_id=255,
        )
        expected = [token for token in theirs[0, ids.shape[1] :].tolist() if token != 255]
        assert answer.tokens == expected
        assert answer.stop is (Stop.LENGTH if len(expected) == 12 else Stop.END)
    network.set_attn_implementation(attention.NAME)
