"""Drift: a mean over tokens with an interval over prompts, by hand; and the prompts that it is measured on."""

from __future__ import annotations

from collections import Counter

import pytest

from tailorbird.data.text import normalize
from tailorbird.measure.drift import drift, drift_prompts


def test_it_is_the_mean_over_tokens_not_over_prompts() -> None:
    found = drift([1.0, 5.0], [10, 40])  # (1 + 5) / (10 + 40)
    assert found["value"] == pytest.approx(0.12)
    assert (found["prompts"], found["tokens"]) == (2, 50)
    assert found["low"] <= 0.12 <= found["high"]


def test_the_same_function_is_exactly_zero_with_no_width() -> None:
    found = drift([0.0] * 60, [48] * 60, left_out=3)
    assert found == {"value": 0.0, "low": 0.0, "high": 0.0, "prompts": 60, "tokens": 2880, "left_out": 3}


def test_the_interval_narrows_with_prompts_and_is_repeatable() -> None:
    few, many = drift([0.5, 1.5] * 5, [10] * 10), drift([0.5, 1.5] * 30, [10] * 60)
    assert few["value"] == many["value"] == pytest.approx(0.1)
    assert many["high"] - many["low"] < few["high"] - few["low"]
    assert drift([0.5, 1.5] * 30, [10] * 60) == many
    assert many["low"] > 0


def test_sums_without_their_answers_are_refused() -> None:
    with pytest.raises(ValueError, match="2 sums for 1 answers"):
        drift([0.1, 0.2], [3])


def test_the_prompts_are_sixty_of_several_kinds_and_no_two_alike() -> None:
    prompts = drift_prompts()
    kinds = Counter(prompt.kind for prompt in prompts)
    assert len(prompts) == 60
    assert len(kinds) >= 8
    assert max(kinds.values()) <= 10
    assert len({normalize(prompt.text) for prompt in prompts}) == len({prompt.id for prompt in prompts}) == 60


def test_the_fast_prompts_are_two_of_each_kind_among_all() -> None:
    fast = drift_prompts(fast=True)
    assert set(fast) < set(drift_prompts())
    assert set(Counter(prompt.kind for prompt in fast).values()) == {2}
    assert {prompt.kind for prompt in fast} == {prompt.kind for prompt in drift_prompts()}
