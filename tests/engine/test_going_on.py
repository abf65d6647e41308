"""What ends a training, sends it back, or pulls it: patience, a loss that explodes, L2-SP. Bit-equal when stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tailorbird import store
from tailorbird.engine.batches import Batch, RowSource
from tailorbird.engine.checkpoints import Checkpoints
from tailorbird.engine.model import Model
from tailorbird.engine.optimizer import Optimizer, Schedule
from tailorbird.engine.train import Best, Trainable, token_loss, train
from tailorbird.errors import Interrupted, NumericError

from .test_packing import encoded


class Training:
    """All weights of a tiny model learn, nine steps of three rows, a checkpoint every second step."""

    def __init__(self, model: Model, folder: Path, **options: Any) -> None:
        self.model, self.folder, self.options = model, folder, options
        self.start = {name: p.detach().clone() for name, p in model.network.named_parameters()}

    def run(self, *, stop_after: int | None = None, **changes: Any) -> Best:
        parameters = dict(self.model.network.named_parameters())
        with torch.no_grad():
            for name, p in parameters.items():
                p.copy_(self.start[name])
                p.requires_grad_(True)
        defaults = {"rate": 0.01, "steps": 9, "decay": "linear", "dropout": 0.0, "loss": token_loss, "tuning": True}
        options = {**defaults, **self.options, **changes}
        rate, steps, decay = (options.pop(name) for name in ("rate", "steps", "decay"))
        dropout, loss, tuning = (options.pop(name) for name in ("dropout", "loss", "tuning"))
        self.model.drop_out(dropout)
        calls = 0

        def stop() -> bool:
            nonlocal calls
            calls += 1
            return stop_after is not None and calls > stop_after

        rows: dict[str, Any] = {"batch_rows": 3, "micro_batch_tokens": 20, "seed": 0}
        return train(
            self.model,
            Trainable(parameters),
            loss,
            RowSource(encoded(), dropout=dropout > 0, **rows),
            RowSource(encoded(), **rows) if tuning else None,
            schedule=Schedule(rate, steps, 0.1, decay),
            weight_decay=0.01,
            clip=1.0,
            checkpoints=Checkpoints(self.folder),
            checkpoint_steps=2,
            progress=lambda done, total, note: None,
            stop=stop,
            restart=lambda: self.start,
            **options,
        )


def continued(model: Model, folder: Path, stops: list[int], **options: Any) -> tuple[Best, Best]:
    """The undisturbed training, and the one stopped after so many steps each time and gone on with."""
    whole = Training(model, folder / "whole", **options)
    undisturbed = whole.run()
    other = Training(model, folder / "stopped", **options)
    other.start = whole.start
    for stop_after in stops:
        with pytest.raises(Interrupted):
            other.run(stop_after=stop_after)
    return undisturbed, other.run()


def equal(a: Best, b: Best) -> bool:
    tensors = all(torch.equal(a.tensors[name], b.tensors[name]) for name in a.tensors)
    return tensors and (a.log, a.step, a.steps, a.rolled_back) == (b.log, b.step, b.steps, b.rolled_back)


@pytest.mark.parametrize("stops", [[1], [4], [2, 3, 1]])
def test_with_dropout_and_l2_continued_equals_undisturbed(model: Model, tmp_path: Path, stops: list[int]) -> None:
    assert equal(*continued(model, tmp_path, stops, dropout=0.3, l2_to_start=5.0))


# --- patience ------------------------------------------------------------------------------------------


def test_patience_ends_after_so_many_looks_without_a_lower_loss(model: Model, tmp_path: Path) -> None:
    """No weight moves at 1e-12: the first look is the best, the second and third are not better."""
    best = Training(model, tmp_path / "a").run(rate=1e-12, steps=15, patience=2)
    assert (best.steps, best.step) == (9, 3)
    assert Training(model, tmp_path / "b").run(rate=1e-12, steps=15).steps == 15


def test_a_training_that_improves_is_not_ended(model: Model, tmp_path: Path) -> None:
    assert Training(model, tmp_path).run(patience=1).steps == 9


def test_without_tuning_rows_there_is_nothing_to_lose_patience_with(model: Model, tmp_path: Path) -> None:
    assert Training(model, tmp_path).run(rate=1e-12, patience=1, tuning=False).steps == 9


@pytest.mark.parametrize("stops", [[4], [5], [3, 2]])
def test_ended_by_patience_stopped_or_not(model: Model, tmp_path: Path, stops: list[int]) -> None:
    undisturbed, other = continued(model, tmp_path, stops, rate=1e-12, steps=15, patience=1)
    assert undisturbed.steps == 6
    assert equal(undisturbed, other)


# --- a loss that explodes ------------------------------------------------------------------------------


def test_a_loss_that_explodes_sends_the_training_back_once_with_a_lower_rate(model: Model, tmp_path: Path) -> None:
    calm = Training(model, tmp_path / "calm").run(steps=30, decay="constant", tuning=False)
    bench = Training(model, tmp_path / "wild")
    seen: list[int] = []

    def loss(m: Model, batch: Batch) -> Tensor:
        seen.append(1)
        value = token_loss(m, batch)
        return value + (100.0 * batch.total if 20 < len(seen) <= 60 else 0.0)

    best = bench.run(steps=30, decay="constant", tuning=False, loss=loss)
    assert best.rolled_back is not None
    came_from, back = best.rolled_back
    assert back < came_from and back % 2 == 0
    assert best.steps == 30 and len(best.log) == 30
    assert [entry["step"] for entry in best.log] == list(range(1, 31))
    assert best.log[back - 1]["learning_rate"] == calm.log[back - 1]["learning_rate"]
    assert best.log[back]["learning_rate"] == 0.25 * calm.log[back]["learning_rate"]
    assert all(bool(tensor.isfinite().all()) for tensor in best.tensors.values())


def test_before_the_first_checkpoint_it_goes_back_to_the_start(model: Model, tmp_path: Path) -> None:
    seen: list[int] = []

    def loss(m: Model, batch: Batch) -> Tensor:
        seen.append(1)
        return token_loss(m, batch) * (float("nan") if len(seen) <= 10 else 1.0)

    best = Training(model, tmp_path).run(steps=12, loss=loss)
    assert best.rolled_back is not None and best.rolled_back[1] == 0
    assert best.steps == 12 and best.skipped == 0


@pytest.mark.parametrize("stops", [[3], [6], [7], [9], [5, 5]])
def test_going_back_is_the_same_stopped_or_not(model: Model, tmp_path: Path, stops: list[int]) -> None:
    """Stopped before the loss explodes, while it does, and after the training went back."""
    whole = Training(model, tmp_path / "whole", loss=wild(), steps=24, decay="constant", rate=0.3)
    undisturbed = whole.run()
    assert undisturbed.rolled_back is not None
    other = Training(model, tmp_path / "stopped", steps=24, decay="constant", rate=0.3)
    other.start = whole.start
    for stop_after in stops:
        with pytest.raises(Interrupted):
            other.run(stop_after=stop_after, loss=wild())
    assert equal(undisturbed, other.run(loss=wild()))


def wild() -> Callable[[Model, Batch], Tensor]:
    """The loss lies 100 nats higher where a weight is large: only a high rate takes the training there. A function of
    where the training stands, so that a continued one meets it too."""

    def loss(model: Model, batch: Batch) -> Tensor:
        reach = float(model.embedding_weight.detach().abs().max())
        return token_loss(model, batch) + (100.0 * batch.total if reach > 1.5 else 0.0)

    return loss


def test_a_loss_that_explodes_again_is_a_numeric_error_and_what_lies_on_the_disk_is_finite(
    model: Model, tmp_path: Path
) -> None:
    calls: list[int] = []

    def loss(m: Model, batch: Batch) -> Tensor:
        calls.append(1)
        return token_loss(m, batch) * (float("nan") if len(calls) > 20 else 1.0)

    with pytest.raises(NumericError, match=r"5 steps in a row \(last .*, after going back to step \d+ with 0.25"):
        Training(model, tmp_path).run(steps=30, loss=loss)
    from tailorbird.engine.checkpoints import load_tensors

    files = list(tmp_path.glob("*/state.safetensors"))
    assert files
    assert all(bool(t.isfinite().all()) for file in files for t in load_tensors(file).values())


def test_a_held_out_loss_that_is_not_finite_is_no_best_point(model: Model, tmp_path: Path) -> None:
    looks: list[int] = []  # steps at which the held-out loss was looked at

    def told(step: int, held_out: float | None) -> bool:
        looks.append(step)
        return False

    def loss(m: Model, batch: Batch) -> Tensor:
        broken = not torch.is_grad_enabled() and len(looks) == 2
        return token_loss(m, batch) * (float("nan") if broken else 1.0)

    best = Training(model, tmp_path).run(loss=loss, judged=told)
    assert looks == [3, 6, 9]
    assert best.log[8]["tuning_loss"] is None and best.log[8]["tuning_loss_not_finite"]
    assert best.step == 6


def test_a_held_out_loss_that_is_never_finite_is_an_error(model: Model, tmp_path: Path) -> None:
    with pytest.raises(NumericError, match="the held-out loss was never finite"):
        Training(model, tmp_path).run(
            loss=lambda m, b: token_loss(m, b) * (1 if torch.is_grad_enabled() else torch.inf)
        )


# --- L2 towards the start --------------------------------------------------------------------------------


def test_l2_to_start_pulls_towards_the_start_and_is_decoupled_from_adam() -> None:
    """w = 1 at the start. Step 1: Adam alone, -0.1 (its first step is the rate times the gradient's sign). Step 2:
    first w - 0.1 * 2 * (w - 1), then Adam: with equal gradients it is -0.1 again."""
    parameter = nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = Optimizer({"w": parameter}, weight_decay=0.0, clip=0.0, l2_to_start=2.0)
    values = []
    for _ in range(2):
        parameter.grad = torch.ones_like(parameter)
        optimizer.collect()
        optimizer.step(0.1, 1.0)
        values.append(float(parameter))
    assert values == pytest.approx([0.9, 0.9 - 0.2 * (0.9 - 1.0) - 0.1], abs=1e-7)


# --- the disk ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", ["tensors", "write", "publish"])
def test_a_full_disk_at_a_checkpoint_ends_with_exit_6_and_the_training_goes_on_later(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    whole = Training(model, tmp_path / "whole")
    undisturbed = whole.run()
    other = Training(model, tmp_path / "full")
    other.start = whole.start
    passes: list[str] = []

    def fault(passed: str) -> None:
        passes.append(passed)
        if passed == point and passes.count(point) == 4:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(store, "fault", fault)
        with pytest.raises(store.DiskError, match="the disk is full") as raised:
            other.run()
    assert raised.value.exit_code == 6
    assert list((tmp_path / "full").glob(".*")) == []  # the half-written one gave its room back
    assert Checkpoints(tmp_path / "full").newest("step") is not None
    assert equal(undisturbed, other.run())
