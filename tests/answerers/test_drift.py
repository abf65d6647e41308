"""Drift of a real customization on a tiny base: exactly 0 untouched, above 0 changed, soft prompts switched on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tailorbird.answerers.local import LocalAnswerer
from tailorbird.answerers.opening import open_bare, release
from tailorbird.artifacts.parts import LowRank
from tailorbird.testing.tiny import make_tiny_base
from tailorbird.types import Message, Role, Stop

ASKED = [(Message(Role.USER, text),) for text in ("what is a river?", "hello", "a poem about fog")]


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[LocalAnswerer]:
    release()
    yield open_bare(make_tiny_base(tmp_path / "base"), threads=1, batch_tokens=64)
    release()


def changed(bare: LocalAnswerer, **parts: object) -> LocalAnswerer:
    return replace(bare, parts=replace(bare.parts, **parts))


def low_rank(bare: LocalAnswerer, size: float) -> LowRank:
    name = "model.layers.1.mlp.down_proj"
    weight = dict(bare.model.network.named_modules())[name].weight
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(2, weight.shape[1], generator=generator)
    b = size * torch.randn(weight.shape[0], 2, generator=generator)
    return LowRank(2, 2.0, {name: (a, b)})


def test_the_walks_are_the_base_s_greedy_answers(bare: LocalAnswerer) -> None:
    walks = bare.walks(ASKED, max_new_tokens=6)
    for messages, walk in zip(ASKED, walks, strict=True):
        prompt = bare.prompt(messages)
        assert list(walk.ids[: len(prompt)]) == prompt
        assert walk.first == len(prompt) - 1
        with bare.attached() as model:
            for place in range(walk.first, len(walk.ids) - 1):
                ids = torch.tensor([walk.ids[: place + 1]])
                from tailorbird.engine import attention

                model.network.set_attn_implementation("sdpa")
                best = int(model.network(input_ids=ids, use_cache=False).logits[0, -1].argmax())
                model.network.set_attn_implementation(attention.NAME)
                assert best == walk.ids[place + 1]
    assert all(walk.positions == 6 for walk in walks)


def test_an_answer_that_ends_counts_its_end(bare: LocalAnswerer, monkeypatch: pytest.MonkeyPatch) -> None:
    from tailorbird.engine import mixing
    from tailorbird.engine.generation import Generated

    made = [Generated([7, 8], Stop.END), Generated([7, 8], Stop.LENGTH), Generated([], Stop.END)]
    monkeypatch.setattr(mixing, "decode", lambda model, hidden, filled, end_ids: made)
    walks = replace(bare, batch_tokens=10_000).walks(ASKED, max_new_tokens=2)
    assert sorted(walk.positions for walk in walks) == [1, 2, 3]


def test_the_untouched_base_has_not_moved_at_all(bare: LocalAnswerer) -> None:
    walks = bare.walks(ASKED, max_new_tokens=6)
    assert list(bare.kl(walks, bare)) == [0.0, 0.0, 0.0]
    assert list(changed(bare, low_rank=low_rank(bare, 0.0)).kl(walks, bare)) == [0.0, 0.0, 0.0]


def test_a_changed_one_has_moved_and_further_the_larger_the_change(bare: LocalAnswerer) -> None:
    walks = bare.walks(ASKED, max_new_tokens=6)
    little, much = (sum(changed(bare, low_rank=low_rank(bare, size)).kl(walks, bare)) for size in (0.01, 0.1))
    assert 0 < little < much
    soft = torch.randn(3, bare.model.hidden_size, generator=torch.Generator().manual_seed(2))
    assert sum(changed(bare, soft=soft).kl(walks, bare)) > 0
    assert list(bare.kl(walks, bare)) == [0.0, 0.0, 0.0]
