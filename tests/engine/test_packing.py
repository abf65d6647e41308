"""Packing changes where numbers are computed, never which."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tailorbird.engine import attention
from tailorbird.engine.batches import Encoded, RowSource, shared_head
from tailorbird.engine.model import Model
from tailorbird.engine.segments import few_sizes, pack
from tailorbird.engine.train import token_loss

TOKENS = st.lists(st.integers(0, 250), min_size=1, max_size=9)
QUICK = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def alone(
    model: Model, ids: list[int], soft: torch.Tensor | None = None, kv: torch.Tensor | None = None
) -> torch.Tensor:
    """The model's own forward of one row, with torch's fused attention: the oracle."""
    network = model.network
    network.set_attn_implementation("sdpa")
    embedded = model.embeddings(torch.tensor(ids))
    if soft is not None:
        embedded = torch.cat([soft.to(embedded.dtype), embedded])
    before: dict[str, Any] = {"use_cache": False}
    if kv is not None:
        from transformers import DynamicCache

        before = {"past_key_values": DynamicCache(tuple(kv.unsqueeze(2)))}  # keys and values (1, G, n, D) of each layer
    with torch.no_grad():
        logits = network(inputs_embeds=embedded.unsqueeze(0), **before).logits[0, -1]
    network.set_attn_implementation(attention.NAME)
    return logits


@QUICK
@given(
    head=st.lists(st.integers(0, 250), max_size=6),
    rows=st.lists(TOKENS, min_size=1, max_size=5),
    soft=st.integers(0, 3),
    pairs=st.integers(0, 3),
)
def test_a_row_in_any_packed_batch_equals_the_row_alone(
    exact: Model, head: list[int], rows: list[list[int]], soft: int, pairs: int
) -> None:
    noise = torch.Generator().manual_seed(0)
    vectors = torch.randn(soft, exact.hidden_size, generator=noise, dtype=torch.float64) if soft else None
    kv = torch.randn(exact.kv_shape(pairs), generator=noise, dtype=torch.float64) if pairs else None
    exact.soft, exact.kv = vectors, kv
    with torch.no_grad():
        batch = pack(rows, head=head, soft=soft, pairs=pairs)
        hidden = exact.forward(batch)
        packed = [exact.logits(hidden[end].unsqueeze(0))[0] for end in batch.ends]
        cached = exact.cache_head(head)
        later = pack(rows, cached=cached)
        hidden = exact.forward(later)
        from_cache = [exact.logits(hidden[end].unsqueeze(0))[0] for end in later.ends]
    exact.soft = exact.kv = None
    for row, a, b in zip(rows, packed, from_cache, strict=True):
        wanted = alone(exact, head + row, vectors, kv)
        assert torch.allclose(a, wanted, atol=1e-9)
        assert torch.allclose(b, wanted, atol=1e-9)


def test_long_rows_take_the_fused_kernel_where_they_learn_and_agree(
    exact: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [[i % 200 for i in range(n)] for n in (40, 7, 23)]
    taken: list[int] = []
    own = torch.nn.functional.scaled_dot_product_attention

    def noted(*args: Any, **named: Any) -> Any:
        taken.append(1)
        return own(*args, **named)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    for each in exact.kernels:
        each.believed = False
    with torch.no_grad():
        blocks = exact.forward(pack(rows, head=[1, 2, 3]))
    explicit = exact.forward(pack(rows, head=[1, 2, 3]))
    assert taken == []
    monkeypatch.setattr(attention, "EXPLICIT_WEIGHTS", 0)
    fused = exact.forward(pack(rows, head=[1, 2, 3]))
    assert len(taken) == 2 * len(exact.layers)  # the head's attention to itself, and the rows'
    for other in (explicit, fused):
        assert torch.allclose(blocks, other, atol=1e-9)


@given(count=st.integers(1, 100_000))
def test_a_size_is_rounded_up_by_a_sixteenth_at_most(count: int) -> None:
    rounded = few_sizes(count)
    assert count <= rounded <= max(count + 7, count * 17 / 16)
    assert few_sizes(rounded) == rounded


def test_batches_of_all_lengths_come_in_few_sizes() -> None:
    """Sixteen between powers of two, of the flat sequence, the longest row and the supervised places: each new size is
    a new kernel, kept for good."""
    rows = [Encoded((1, *range(n), 2), (*[False] * (n + 1), True)) for n in range(1, 400)]
    batches = [RowSource([row], batch_rows=1, micro_batch_tokens=999, seed=0).everything()[0] for row in rows]
    for sizes in (
        {b.packed.ids.numel() for b in batches},
        {b.packed.segments.gather.shape[1] for b in batches},
    ):
        assert len(sizes) <= 16 + 16 + 10
    assert {b.places.numel() for b in batches} == {8}


def test_tokens_of_no_row_change_nothing_and_learn_nothing(exact: Model) -> None:
    rows = [[5, 6, 7], [9]]
    batch = pack(rows, head=[1, 2])
    assert batch.segments.padding == 2
    batch.ids[-2:] = torch.tensor([77, 78])
    plain = pack(rows, head=[1, 2])
    with torch.no_grad():
        assert torch.equal(exact.forward(batch)[:-2], exact.forward(plain)[:-2])
    source = RowSource([Encoded((1, 2, 3), (False, False, True))] * 2, batch_rows=2, micro_batch_tokens=99, seed=0)
    embeddings = gradients(exact, source)[
        next(name for name, p in exact.network.named_parameters() if p is exact.embedding_weight)
    ]
    if exact.output.weight is not exact.embedding_weight:  # a tied table learns as the output, too
        assert embeddings.abs().sum(1).nonzero().flatten().tolist() == [1, 2]


def encoded(head: int = 4) -> list[Encoded]:
    rows = []
    for i, length in enumerate((3, 7, 2, 5, 4, 6, 3, 8)):
        ids = [9, 8, 7, 6][:head] + [(11 * i + j) % 200 for j in range(length)] + [50 + i, 60, 255]
        rows.append(Encoded(tuple(ids), tuple([False] * (head + length) + [True] * 3), 1.0 + 0.5 * (i % 2)))
    return rows


def gradients(model: Model, source: RowSource) -> dict[str, torch.Tensor]:
    """Gradient of (sum of losses) / (sum of weights) over all rows, accumulated over the micro-batches."""
    parameters = dict(model.network.named_parameters())
    for p in parameters.values():
        p.requires_grad_(True)
        p.grad = None
    total = 0.0
    for batch in source.batches(source.rows):
        token_loss(model, batch).backward()
        total += batch.total
    found = {name: p.grad / total for name, p in parameters.items() if p.grad is not None}
    for p in parameters.values():
        p.requires_grad_(False)
        p.grad = None
    return found


@pytest.mark.parametrize("tokens", [1, 16, 40, 10_000])
def test_the_step_does_not_depend_on_how_it_is_cut(exact: Model, tokens: int) -> None:
    """1 x 8, 2 x 4, 8 x 1 and unequal micro-batches: one gradient, to 1e-10."""
    rows = encoded()
    whole = gradients(exact, RowSource(rows, batch_rows=8, micro_batch_tokens=10_000, seed=0))
    cut = gradients(exact, RowSource(rows, batch_rows=8, micro_batch_tokens=tokens, seed=0))
    for name, gradient in whole.items():
        assert torch.allclose(gradient, cut[name], rtol=0, atol=1e-10), name


def test_the_shared_head_has_the_gradient_of_the_repeated_head(exact: Model) -> None:
    rows = encoded()
    shared = RowSource(rows, batch_rows=8, micro_batch_tokens=10_000, seed=0)
    repeated = RowSource(rows, batch_rows=8, micro_batch_tokens=10_000, seed=0)
    assert shared.head == 4
    repeated.head = 0
    a, b = gradients(exact, shared), gradients(exact, repeated)
    for name, gradient in a.items():
        assert torch.allclose(gradient, b[name], rtol=0, atol=1e-10), name


def test_the_shared_head_ends_before_the_token_that_predicts_the_answer() -> None:
    same = Encoded((1, 2, 3, 4), (False, False, False, True))
    assert shared_head([same, same]) == 2
    assert shared_head([same]) == 0
    assert shared_head([same, Encoded((1, 5, 3, 4), (False, False, False, True))]) == 1


def test_the_order_of_rows_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int) -> list[list[int]]:
        source = RowSource(encoded(), batch_rows=3, micro_batch_tokens=99, seed=seed)
        return [source.numbers(step) for step in range(6)]

    assert order(0) == order(0)
    assert order(0) != order(1)
    first, second = order(0)[:3], order(0)[3:]
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(8))
    assert first != second


def test_long_answers_are_summed_in_chunks(exact: Model) -> None:
    hidden = torch.randn(700, exact.hidden_size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    targets = torch.arange(700) % 200
    whole = torch.nn.functional.cross_entropy(exact.logits(hidden), targets, reduction="sum")
    hidden.requires_grad_(True)
    chunked = exact.cross_entropy(hidden, targets)
    assert torch.allclose(chunked, whole, rtol=1e-6)
    chunked.backward()
    assert hidden.grad is not None and bool(hidden.grad.isfinite().all())
