"""Log-probabilities of marked tokens; greedy answers equal transformers' own."""

from __future__ import annotations

import math

import pytest
import torch

from tailorbird.engine import segments
from tailorbird.engine.generation import generate
from tailorbird.engine.model import Model
from tailorbird.engine.scoring import log_probabilities
from tailorbird.types import Stop

from .reference import flat


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
    monkeypatch.setattr(segments, "LONG_HEAD", long_head)
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
    network.set_attn_implementation(segments.NAME)
