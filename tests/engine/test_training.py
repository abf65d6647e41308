"""The loop, the optimizer and its checkpoints, held against plain references and real faults."""

from __future__ import annotations

import json
import math
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tailorbird.engine.batches import Batch, Encoded, RowSource
from tailorbird.engine.checkpoints import Checkpoints
from tailorbird.engine.model import Model
from tailorbird.engine.optimizer import Optimizer, Schedule
from tailorbird.engine.train import Best, Trainable, token_loss, train
from tailorbird.errors import Interrupted, NumericError

from .test_packing import encoded


def test_the_schedule_is_its_formula() -> None:
    linear = Schedule(1.0, steps=10, warmup_share=0.2, decay="linear")
    assert [round(linear.at(step), 3) for step in range(10)] == [
        0.5,
        1.0,
        1.0,
        0.875,
        0.75,
        0.625,
        0.5,
        0.375,
        0.25,
        0.125,
    ]
    assert [Schedule(1.0, 4, 0.0, "constant").at(step) for step in range(4)] == [1.0] * 4
    cosine = Schedule(2.0, 4, 0.0, "cosine")
    assert [round(cosine.at(step), 4) for step in range(4)] == [2.0, 1.7071, 1.0, 0.2929]


def reference_adamw(weights: list[float], gradients: list[list[float]], rate: float, decay: float) -> list[float]:
    """Algorithm 2 of Loshchilov & Hutter 2019, in plain Python."""
    m, v, w = [0.0] * len(weights), [0.0] * len(weights), list(weights)
    for t, g in enumerate(gradients, start=1):
        for i in range(len(w)):
            m[i] = 0.9 * m[i] + 0.1 * g[i]
            v[i] = 0.999 * v[i] + 0.001 * g[i] ** 2
            w[i] -= rate * decay * w[i]
            w[i] -= rate * (m[i] / (1 - 0.9**t)) / (math.sqrt(v[i] / (1 - 0.999**t)) + 1e-8)
    return w


def test_the_optimizer_is_adamw_on_the_mean_gradient() -> None:
    parameter = nn.Parameter(torch.tensor([[1.0, -2.0]]))
    optimizer = Optimizer({"w": parameter}, weight_decay=0.1, clip=0.0)
    steps = [[4.0, 2.0], [-1.0, 3.0]]
    for sums in steps:
        for half in (0.25, 0.75):  # two micro-batches of one step
            parameter.grad = torch.tensor([sums]) * half
            optimizer.collect()
        optimizer.step(0.1, 0.5)
    expected = reference_adamw([1.0, -2.0], [[g * 0.5 for g in s] for s in steps], 0.1, 0.1)
    assert torch.allclose(parameter.detach(), torch.tensor([expected]), atol=1e-6)


def test_weights_in_bf16_learn_through_their_masters() -> None:
    """1e-4 vanishes in the rounding of 1.0 in bf16; the master keeps it."""
    parameter = nn.Parameter(torch.ones(1, 1, dtype=torch.bfloat16))
    optimizer = Optimizer({"w": parameter}, weight_decay=0.0, clip=0.0)
    for _ in range(200):
        parameter.grad = torch.ones_like(parameter)
        optimizer.collect()
        optimizer.step(1e-4, 1.0)
    assert math.isclose(float(optimizer.masters["w"]), 0.98, abs_tol=1e-3)
    assert float(parameter.detach()) < 1.0


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_gradients_in_bf16_widened_in_portions_are_those_widened_at_once(
    monkeypatch: pytest.MonkeyPatch, micro_batches: int
) -> None:
    """Bit for bit; 10 elements a portion hold the first two of four parameters, the third and the fourth alone."""

    def trained(portion: int) -> dict[str, Tensor]:
        monkeypatch.setattr("tailorbird.engine.optimizer.WIDENED", portion)
        random = torch.Generator().manual_seed(0)
        shapes = {"a": (2, 3), "b": (4,), "c": (5, 5), "d": (3,)}
        parameters = {n: nn.Parameter(torch.randn(s, generator=random).bfloat16()) for n, s in shapes.items()}
        optimizer = Optimizer(parameters, weight_decay=0.1, clip=0.0)
        for _ in range(3):
            for _ in range(micro_batches):
                for name, parameter in parameters.items():
                    if name != "d":  # has no gradient
                        parameter.grad = torch.randn(parameter.shape, generator=random).bfloat16()
                optimizer.collect()
            if portion == 10:
                assert optimizer._portions() == [["a", "b"], ["c"]]
            assert optimizer.norm(1.0) > 1.0
            optimizer.step(0.01, 0.3)
        assert optimizer.sums == {}
        return {name: master.clone() for name, master in optimizer.masters.items()}

    small, large = trained(10), trained(1 << 20)
    assert all(torch.equal(small[name], large[name]) for name in large)


def test_on_an_accelerator_portions_are_not_cut_to_the_processors_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """ "meta" stands for it."""
    monkeypatch.setattr("tailorbird.engine.optimizer.WIDENED", 10)
    monkeypatch.setattr("tailorbird.engine.optimizer.PIECE", 3)
    optimizer = Optimizer({n: nn.Parameter(torch.zeros(8)) for n in "abc"}, weight_decay=0.0, clip=0.0)
    assert optimizer.sums == {}
    for device, portions, pieces in (("cpu", [["a"], ["b"], ["c"]], 3), ("meta", [["a", "b", "c"]], 1)):
        optimizer.masters = {n: torch.zeros(8, device=device) for n in "abc"}
        optimizer.sums = {n: torch.zeros(8, device=device, dtype=torch.bfloat16) for n in "abc"}
        assert optimizer._portions() == portions
        assert len(list(optimizer._parts("a"))) == pieces


def test_the_norm_is_taken_in_fp32_of_gradients_in_bf16() -> None:
    """300,000 elements of 1 (more than a piece) have the norm 547.7226; rounded to bf16 it would be 548."""
    parameter = nn.Parameter(torch.zeros(300_000, dtype=torch.bfloat16))
    optimizer = Optimizer({"w": parameter}, weight_decay=0.0, clip=0.0)
    parameter.grad = torch.ones_like(parameter)
    optimizer.collect()
    assert math.isclose(optimizer.norm(2.0), 2.0 * math.sqrt(300_000), rel_tol=1e-6)


def test_the_embeddings_gradient_of_a_few_rows_is_the_whole_matrix_s(model: Model) -> None:
    """Where output and embeddings are one matrix it meets the output's gradient; where they are not it comes alone."""
    batch = RowSource(encoded(), batch_rows=8, micro_batch_tokens=10_000, seed=0).next(0)[0]
    weight = model.embedding_weight.requires_grad_(True)
    token_loss(model, batch).backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    found, weight.grad = weight.grad.to_dense(), None
    model._looked_up = model.embeddings  # type: ignore[method-assign, assignment]
    token_loss(model, batch).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(found, weight.grad)
    optimizer = Optimizer({"w": weight}, weight_decay=0.0, clip=0.0)
    weight.grad = torch.sparse_coo_tensor([[1, 1]], torch.ones(2, weight.shape[1]), weight.shape, check_invariants=True)
    optimizer.collect()
    assert optimizer.sums["w"][1].tolist() == [2.0] * weight.shape[1]
    assert float(optimizer.sums["w"].sum()) == 2.0 * weight.shape[1]


def test_the_gradient_of_the_table_takes_the_memory_of_the_last_one(model: Model) -> None:
    """Of one micro-batch a step, and of two, where the first is in use until the second is there."""
    batch = RowSource(encoded(), batch_rows=8, micro_batch_tokens=10_000, seed=0).next(0)[0]
    weight = model.embedding_weight.requires_grad_(True)
    parameter = model.network.get_output_embeddings().weight
    assert parameter is weight
    optimizer = Optimizer({"w": parameter}, weight_decay=0.0, clip=0.0)

    def gradients(count: int) -> list[tuple[int, Tensor]]:
        found = []
        for _ in range(count):
            token_loss(model, batch).backward()  # type: ignore[no-untyped-call]
            assert parameter.grad is not None
            found.append((parameter.grad.data_ptr(), parameter.grad.clone()))
            optimizer.collect()
        return found

    (first, value), *_ = gradients(1)
    optimizer.discard()
    (second, again), (third, more) = gradients(2)
    assert second == first != third
    assert torch.equal(value, again)
    assert torch.equal(value, more)
    torch.testing.assert_close(optimizer.sums["w"], 2 * value)
    optimizer.discard()
    gradients(1)
    kept = weakref.ref(optimizer.sums["w"])
    optimizer.discard()
    assert kept() is not None
    optimizer.release()
    assert kept() is None


class Bench:
    """A tiny training that can be stopped, killed and continued."""

    def __init__(self, model: Model, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        self.model, self.folder = model, folder
        self.start = {name: p.detach().clone() for name, p in model.network.named_parameters()}
        self.said: list[str] = []

    def run(
        self, *, stop_after: int | None = None, loss: Any = token_loss, tuning: bool = True, every: int = 2
    ) -> Best:
        parameters = dict(self.model.network.named_parameters())
        with torch.no_grad():
            for name, p in parameters.items():
                p.copy_(self.start[name])
                p.requires_grad_(True)
        source = RowSource(encoded(), batch_rows=3, micro_batch_tokens=20, seed=0)
        calls = 0

        def stop() -> bool:
            nonlocal calls
            calls += 1
            return stop_after is not None and calls > stop_after

        return train(
            self.model,
            Trainable(parameters),
            loss,
            source,
            source if tuning else None,
            schedule=Schedule(0.01, 9, 0.1, "linear"),
            weight_decay=0.01,
            clip=1.0,
            checkpoints=Checkpoints(self.folder, self.said.append),
            checkpoint_steps=every,
            progress=lambda done, total, note: None,
            stop=stop,
        )


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("stop_after", [0, 1, 4, 8])
def test_stopped_and_continued_equals_undisturbed_bit_for_bit(model: Model, tmp_path: Path, stop_after: int) -> None:
    whole = Bench(model, tmp_path / "whole")
    undisturbed = whole.run()
    bench = Bench(model, tmp_path / "stopped")
    bench.start = whole.start
    with pytest.raises(Interrupted):
        bench.run(stop_after=stop_after)
    continued = bench.run()
    assert same(undisturbed.tensors, continued.tensors)
    assert undisturbed.log == continued.log


def test_a_torn_newest_checkpoint_is_passed_over(model: Model, tmp_path: Path) -> None:
    bench = Bench(model, tmp_path / "whole")
    undisturbed = bench.run()
    other = Bench(model, tmp_path / "torn")
    other.start = bench.start
    with pytest.raises(Interrupted):
        other.run(stop_after=4)
    (newest,) = (tmp_path / "torn").glob("step-*")
    older = newest.with_name("step-00000001")
    newest.rename(older)  # pretend: an older one that is whole ...
    torn = tmp_path / "torn" / "step-00000009"
    torn.mkdir()
    (torn / "state.json").write_text(json.dumps({"step": 9, "sha256": "sha256:0"}))
    (torn / "state.safetensors").write_bytes(b"torn")  # ... and a newer one that is not
    assert same(other.run().tensors, undisturbed.tensors)
    assert other.said == ["the checkpoint step-00000009 is damaged: what it held is trained again"]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("name", ["step-00000004/state.json", "step-00000004/state.safetensors", "best-00000003/*"])
def test_a_flipped_bit_in_a_checkpoint_or_its_best_point_is_said_and_trained_again(
    model: Model, tmp_path: Path, name: str
) -> None:
    """With the best point damaged there would be nothing to hand over, however the rest of the training went."""
    bench = Bench(model, tmp_path / "whole")
    undisturbed = bench.run()
    other = Bench(model, tmp_path / "flipped")
    other.start = bench.start
    with pytest.raises(Interrupted):
        other.run(stop_after=4)
    (where,) = (tmp_path / "flipped").glob(name.replace("*", "state.safetensors"))
    flip(where)
    again = other.run()
    assert same(again.tensors, undisturbed.tensors)
    assert again.log == undisturbed.log
    assert other.said == [f"the checkpoint {where.parent.name} is damaged: what it held is trained again"]


@pytest.mark.parametrize("torn", ["{", "[]", '{"step": 4}'])
def test_a_torn_checkpoint_is_passed_over_when_the_next_best_point_is_saved(
    model: Model, tmp_path: Path, torn: str
) -> None:
    """It lies there until the next planned one is written; looks at the Tuning rows come before that."""
    bench = Bench(model, tmp_path / "whole")
    undisturbed = bench.run(every=4)
    other = Bench(model, tmp_path / "torn")
    other.start = bench.start
    with pytest.raises(Interrupted):
        other.run(stop_after=4, every=4)
    (tmp_path / "torn" / "step-00000004" / "state.json").write_text(torn)
    assert same(other.run(every=4).tensors, undisturbed.tensors)
    assert other.said == ["the checkpoint step-00000004 is damaged: what it held is trained again"]


def test_a_step_that_is_not_finite_is_skipped_and_said(model: Model, tmp_path: Path) -> None:
    calls = 0

    def loss(m: Model, batch: Batch) -> Tensor:
        nonlocal calls
        calls += 1
        value = token_loss(m, batch)
        return value * float("nan") if calls == 3 else value

    best = Bench(model, tmp_path).run(loss=loss)
    assert best.skipped == 1
    assert all(bool(tensor.isfinite().all()) for tensor in best.tensors.values())
    assert [entry["step"] for entry in best.log if entry.get("skipped")] != []


def test_a_loss_that_stays_broken_ends_with_a_numeric_error(model: Model, tmp_path: Path) -> None:
    with pytest.raises(NumericError, match="not finite for 5 steps in a row"):
        Bench(model, tmp_path).run(loss=lambda m, b: token_loss(m, b) * float("inf"))
    for folder in tmp_path.glob("*-*"):
        assert "nan" not in (folder / "state.json").read_text().lower()


def test_the_exported_point_is_the_best_one_by_the_held_out_loss(model: Model, tmp_path: Path) -> None:
    best = Bench(model, tmp_path).run()
    losses = {entry["step"]: entry["tuning_loss"] for entry in best.log if entry.get("tuning_loss") is not None}
    assert best.step == min(losses, key=lambda step: (losses[step], step))
    assert best.tuning_loss == losses[best.step]


def test_the_last_point_is_handed_over_as_it_stands_and_never_written(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all weights it is half a gigabyte, and the training ends there."""
    written: list[tuple[str, int]] = []
    save = Checkpoints.save

    def noted(self: Checkpoints, kind: str, step: int, *rest: Any, **more: Any) -> None:
        written.append((kind, step))
        save(self, kind, step, *rest, **more)

    monkeypatch.setattr(Checkpoints, "save", noted)
    best = Bench(model, tmp_path).run(every=100)
    assert best.step == 9
    assert written == [("best", 3), ("best", 6)]


def test_a_checkpoint_is_never_written_with_values_that_are_not_finite(tmp_path: Path) -> None:
    with pytest.raises(NumericError, match="w is not finite at step 3"):
        Checkpoints(tmp_path).save("step", 3, {"w": torch.tensor([float("nan")])}, {})
    assert list(tmp_path.glob("step-*")) == []


def test_rows_count_by_their_weight() -> None:
    light, heavy = Encoded((1, 2, 3), (False, False, True), 0.0), Encoded((4, 5, 6), (False, False, True), 2.0)
    (batch,) = RowSource([light, heavy], batch_rows=2, micro_batch_tokens=99, seed=0).everything()
    assert batch.weights[:2].tolist() == [0.0, 2.0]
    assert not batch.weights[2:].any()  # padding to one of few sizes
    assert batch.total == 2.0
