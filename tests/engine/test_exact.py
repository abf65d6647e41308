"""Every technique's gradient is one number, however a step is cut, packed, shared or recomputed: to 1e-10 in fp64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tailorbird import techniques
from tailorbird.bases.facts import base_facts
from tailorbird.bases.model import load_model
from tailorbird.engine.batches import RowSource
from tailorbird.engine.model import Model
from tailorbird.engine.optimizer import Optimizer
from tailorbird.engine.train import Trainable
from tailorbird.techniques.base import Trained
from tailorbird.testing.kills import trained
from tailorbird.testing.tiny import make_tiny_base, training_context

from .test_packing import encoded

ROWS = 8
DROPPED = {"encoder": "lstm", "encoder_hidden_size": 4, "encoder_dropout": 0.3, "total_virtual_tokens": 6}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in trained()},
    "p_tuning of an LSTM": ("p_tuning", DROPPED),
}
ONE_BY_EIGHT, TWO_BY_FOUR, EIGHT_BY_ONE, UNEQUAL = 10_000, 38, 1, 30  # tokens of a micro-batch of `encoded` rows


class Bench:
    """A technique on a model in double precision, away from its starting point (where LoRA's A has no gradient)."""

    def __init__(self, case: str, model: Model, base: Path) -> None:
        name, asked = CASES[case]
        technique = techniques.get(name)
        assert isinstance(technique, Trained)
        settings = technique.settings(asked, base_facts(base), ROWS)
        self.technique, self.model = technique, model
        self.trainable: Trainable = technique.trainable(model, settings, training_context(1))
        noise = torch.Generator().manual_seed(2)
        for parameter in self.trainable.parameters.values():
            parameter.data = parameter.data.double()
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=noise, dtype=torch.float64)

    def source(self, tokens: int = ONE_BY_EIGHT, dropout: float = 0.0, **options: Any) -> RowSource:
        self.model.drop_out(dropout)
        return RowSource(
            encoded(), batch_rows=ROWS, micro_batch_tokens=tokens, seed=0, dropout=dropout > 0, **self.before, **options
        )

    @property
    def before(self) -> dict[str, int]:
        """What stands before every row."""
        return {"soft": self.model.virtual_tokens, "pairs": self.model.pairs}

    def gradient(self, source: RowSource) -> dict[str, Tensor]:
        """Of the mean loss over the supervised tokens of one step."""
        optimizer = Optimizer(self.trainable.parameters, 0.0, 0.0)
        total = 0.0
        for batch in source.next(0):
            self.technique.loss(self.model, batch).backward()
            optimizer.collect()
            total += batch.total
        assert set(optimizer.sums) == set(self.trainable.parameters)
        return {name: gradient / total for name, gradient in optimizer.sums.items()}


def agree(a: dict[str, Tensor], b: dict[str, Tensor], tolerance: float = 1e-10) -> None:
    for name, gradient in a.items():
        assert gradient.dtype == torch.float64
        assert float(gradient.abs().max()) > 1e-6, f"{name} learns nothing: nothing was compared"
        assert float((gradient - b[name]).abs().max()) <= tolerance, name


@pytest.fixture(params=list(CASES))
def bench(request: pytest.FixtureRequest, exact: Model, base: Path) -> Bench:
    return Bench(request.param, exact, base)


def test_the_cuts_are_what_they_are_called(bench: Bench) -> None:
    cuts = [ONE_BY_EIGHT, TWO_BY_FOUR, EIGHT_BY_ONE, UNEQUAL]
    assert [[len(group) for group in bench.source(tokens).groups(0)] for tokens in cuts] == [
        [8], [4, 4], [1] * 8, [3, 4, 1],
    ]  # fmt: skip


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_gradient_of_a_step_does_not_depend_on_its_micro_batches(bench: Bench, dropout: float) -> None:
    whole = bench.gradient(bench.source(ONE_BY_EIGHT, dropout))
    for tokens in (TWO_BY_FOUR, EIGHT_BY_ONE, UNEQUAL):
        agree(whole, bench.gradient(bench.source(tokens, dropout)))


def test_the_gradient_through_a_shared_head_is_that_of_repeated_heads(bench: Bench) -> None:
    shared, repeated = bench.source(), bench.source()
    assert shared.head == 4
    repeated.head = 0
    agree(bench.gradient(shared), bench.gradient(repeated))


def test_label_smoothing_does_not_depend_on_micro_batches_either(bench: Bench) -> None:
    whole, plain = bench.gradient(bench.source(label_smoothing=0.2)), bench.gradient(bench.source())
    agree(whole, bench.gradient(bench.source(EIGHT_BY_ONE, label_smoothing=0.2)))
    assert any(float((whole[name] - plain[name]).abs().max()) > 1e-4 for name in whole)


def test_a_row_of_weight_two_counts_as_the_row_twice(bench: Bench) -> None:
    from dataclasses import replace

    rows = [replace(row, weight=1.0) for row in encoded()[:3]]
    options: dict[str, Any] = {"batch_rows": ROWS, "micro_batch_tokens": 1, "seed": 0}
    options |= bench.before
    twice = RowSource([*rows, rows[0]], **options)
    heavy = RowSource([replace(rows[0], weight=2.0), *rows[1:]], **options)
    agree(bench.gradient(twice), bench.gradient(heavy))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_layers_computed_again_give_the_same_gradient_and_keep_less(bench: Bench, dropout: float) -> None:
    source = bench.source(TWO_BY_FOUR, dropout)
    kept = saved_tensors(bench.model, lambda: bench.gradient(source))
    plain = bench.gradient(source)
    bench.model.recompute_layers()
    agree(plain, bench.gradient(source), tolerance=1e-12)
    assert saved_tensors(bench.model, lambda: bench.gradient(source)) < kept / 3


def test_dropout_changes_the_gradient_and_is_off_where_a_loss_is_only_looked_at(bench: Bench) -> None:
    plain = [float(bench.technique.loss(bench.model, batch)) for batch in bench.source().everything()]
    source = bench.source(dropout=0.3)
    dropped = [float(bench.technique.loss(bench.model, batch)) for batch in source.next(0)]
    looked_at = [float(bench.technique.loss(bench.model, batch)) for batch in source.everything()]
    assert abs(sum(plain) - sum(looked_at)) < 1e-9
    assert abs(sum(plain) - sum(dropped)) > 1e-3


# --- no gradient that no one needs ---------------------------------------------------------------------


def saved_tensors(model: Model, work: Any) -> int:
    """How many elements autograd keeps for the backward pass, what is kept for the whole training left out."""
    elements = 0
    frozen = {p.data_ptr() for p in model.network.parameters() if not p.requires_grad}

    def keep(tensor: Tensor) -> Tensor:
        nonlocal elements
        elements += 0 if tensor.data_ptr() in frozen else tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        work()
    return elements


def test_a_frozen_weight_gets_no_gradient(bench: Bench) -> None:
    learned = {id(parameter) for parameter in bench.trainable.parameters.values()}
    bench.technique.loss(bench.model, bench.source().next(0)[0]).backward()
    frozen = [(n, p) for n, p in bench.model.network.named_parameters() if id(p) not in learned]
    assert [name for name, p in frozen if p.requires_grad or p.grad is not None] == []


@pytest.mark.parametrize("shape", ["llama", "gpt2"])
def test_nothing_below_the_lowest_trained_layer_is_kept(shape: Any, tmp_path: Path) -> None:
    """The last layer of two and the last layer of four keep the same for the backward pass; all of four keep more."""

    def kept(layers: int, learned: slice) -> int:
        base = tmp_path / f"{shape}{layers}"
        model = Model(load_model(base if base.is_dir() else make_tiny_base(base, shape, layers=layers)))
        for layer in list(model.layers)[learned]:
            layer.requires_grad_(True)
        source = RowSource(encoded(), batch_rows=ROWS, micro_batch_tokens=ONE_BY_EIGHT, seed=0)
        from tailorbird.engine.train import token_loss

        return saved_tensors(model, lambda: token_loss(model, source.next(0)[0]).backward())

    assert kept(4, slice(3, 4)) == kept(2, slice(1, 2)) < kept(4, slice(0, 4)) / 2


# --- whole trainings -------------------------------------------------------------------------------------

VARIANTS: dict[str, dict[str, Any]] = {
    "8 x 1": {"tokens": EIGHT_BY_ONE},
    "unequal": {"tokens": UNEQUAL},
    "repeated head": {"head": 0},
    "recomputed": {"recompute": True},
    "fused attention": {"explicit": 0},
}


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_every_way_of_computing_a_training_takes_the_same_trajectory(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dropout: float
) -> None:
    """Nine steps: losses agree point by point to 1e-9, and do not drift apart (their mean to 1e-10)."""
    start = {name: p.detach().clone() for name, p in bench.trainable.parameters.items()}
    reference = trajectory(bench, start, tmp_path / "reference", dropout=dropout)
    assert sum(reference[-3:]) < sum(reference[:3])  # the same rows, two epochs later
    for name, variant in VARIANTS.items():
        with monkeypatch.context() as patched:
            if "explicit" in variant:
                patched.setattr("tailorbird.engine.attention.EXPLICIT_WEIGHTS", variant["explicit"])
            found = trajectory(bench, start, tmp_path / name, dropout=dropout, **variant)
        differences = [a - b for a, b in zip(reference, found, strict=True)]
        assert max(map(abs, differences)) < 1e-9, name
        assert abs(sum(differences) / len(differences)) < 1e-10, name


def trajectory(
    bench: Bench, start: dict[str, Tensor], folder: Path, *, dropout: float, tokens: int = ONE_BY_EIGHT, **how: Any
) -> list[float]:
    from tailorbird.engine.checkpoints import Checkpoints
    from tailorbird.engine.optimizer import Schedule
    from tailorbird.engine.train import train

    with torch.no_grad():
        for name, parameter in bench.trainable.parameters.items():
            parameter.copy_(start[name])
    source = bench.source(tokens, dropout, label_smoothing=0.1)
    source.batch_rows = 3
    source.steps_per_epoch = 3
    source.head = how.get("head", source.head)
    if how.get("recompute"):
        bench.model.recompute_layers()
    best = train(
        bench.model,
        bench.trainable,
        bench.technique.loss,
        source,
        None,
        schedule=Schedule(0.01, 9, 0.1, "cosine"),
        weight_decay=0.01,
        clip=1.0,
        l2_to_start=1.0,
        checkpoints=Checkpoints(folder),
        checkpoint_steps=100,
        progress=lambda done, total, note: None,
        stop=lambda: False,
    )
    return [entry["loss"] for entry in best.log]
