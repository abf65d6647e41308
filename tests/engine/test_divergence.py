"""Drift's KL by hand and by plain Python; exactly 0 for the same function, above 0 for another, whatever the batch."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

import pytest
import torch

from tailorbird.engine import attention
from tailorbird.engine import divergence as module
from tailorbird.engine.divergence import Walk, divergence, divergences
from tailorbird.engine.model import Model

WALKS = [Walk((5, 6, 7, 8), 1), Walk((9, 3, 4, 1, 250, 17), 4), Walk((8,), 0)]


def attached(model: Model, change: Callable[[Model], object] = lambda model: None) -> module.Attached:
    """The model with its weights changed for the length of a `with`, and put back."""

    @contextlib.contextmanager
    def inside() -> Iterator[Model]:
        kept = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
        change(model)
        try:
            yield model
        finally:
            model.network.load_state_dict(kept)

    return inside


def shifted(model: Model) -> None:
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.add_(0.05 * torch.sin(torch.arange(parameter.numel(), dtype=parameter.dtype)).view_as(parameter))


def log_table(model: Model, ids: tuple[int, ...]) -> list[list[float]]:
    """Reference: log-probabilities after each token by the model's own one-row forward and plain Python."""
    model.network.set_attn_implementation("sdpa")
    with torch.no_grad():
        rows = model.network(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0].double().tolist()
    model.network.set_attn_implementation(attention.NAME)
    tables = []
    for row in rows:
        normalizer = math.log(sum(math.exp(value) for value in row))
        tables.append([value - normalizer for value in row])
    return tables


def test_by_hand() -> None:
    # p = (1/2, 1/2), q = (1/4, 3/4): ½ ln 2 + ½ ln ⅔ = ½ ln 4/3; the other way round ¼ ln ½ + ¾ ln 3/2
    p, q = torch.tensor([[1.0, 1.0]]), torch.log(torch.tensor([[1.0, 3.0]]))
    assert divergence(p, q).tolist() == pytest.approx([0.5 * math.log(4 / 3)], abs=1e-6)
    assert divergence(q, p).tolist() == pytest.approx([0.25 * math.log(0.5) + 0.75 * math.log(1.5)], abs=1e-6)


def test_equal_logits_have_exactly_no_divergence() -> None:
    logits = torch.randn(40, 1000, generator=torch.Generator().manual_seed(0)) * 20
    assert divergence(logits, logits.clone()).tolist() == [0.0] * 40


def test_along_walks_it_is_plain_python_s_sum(exact: Model) -> None:
    found = divergences(attached(exact), attached(exact, shifted), WALKS)
    for walk, value in zip(WALKS, found, strict=True):
        before = log_table(exact, walk.ids)
        with attached(exact, shifted)() as changed:
            after = log_table(changed, walk.ids)
        wanted = sum(
            math.exp(p) * (p - q)
            for place in range(walk.first, len(walk.ids))
            for p, q in zip(before[place], after[place], strict=True)
        )
        assert walk.positions == len(walk.ids) - walk.first
        assert wanted > 0
        assert value == pytest.approx(wanted, rel=1e-4)


def test_the_same_model_gives_exactly_zero_by_the_same_path(model: Model) -> None:
    assert divergences(attached(model), attached(model), WALKS) == [0.0, 0.0, 0.0]


def test_few_logits_are_held_and_the_sum_is_the_same(exact: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = divergences(attached(exact), attached(exact, shifted), WALKS)
    held: list[int] = []
    logits = exact.logits
    monkeypatch.setattr(exact, "logits", lambda hidden: held.append(len(hidden)) or logits(hidden))
    monkeypatch.setattr(module, "LOGIT_ROWS", 2)
    assert divergences(attached(exact), attached(exact, shifted), WALKS) == pytest.approx(whole, rel=1e-9)
    assert max(held) == 2


def test_a_soft_prompt_stands_before_the_walk(exact: Model) -> None:
    soft = torch.randn(3, exact.hidden_size, dtype=exact.dtype, generator=torch.Generator().manual_seed(1))

    @contextlib.contextmanager
    def prompted() -> Iterator[Model]:
        exact.soft = soft
        try:
            yield exact
        finally:
            exact.soft = None

    together = divergences(attached(exact), prompted, WALKS)
    alone = [divergences(attached(exact), prompted, [walk])[0] for walk in WALKS]
    assert together == pytest.approx(alone, rel=1e-6)
    assert min(together) > 0
