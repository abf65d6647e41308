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


class Stepped(RowSource):
    """Its batches know the step they are of."""

    def next(self, step: int) -> list[Batch]:
        found = super().next(step)
        for batch in found:
            vars(batch)["step"] = step
        return found


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
            Stepped(encoded(), dropout=dropout > 0, **rows),
            RowSource(encoded(), **rows) if tuning else None,
            schedule=Schedule(rate, steps, 0.1, decay),
            weight_decay=0.01,
            clip=1.0,
            checkpoints=Checkpoints(self.folder),
            checkpoint_steps=2,
            progress=lambda done, total, note: None,
            stop=stop,
            restart=lambda: {f"master/{name}": value for name, value in self.start.items()},
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

Loss = Callable[[Model, Batch], Tensor]


def step_of(batch: Batch) -> int:
    return int(vars(batch)["step"])


def high_once(first: int, last: int, factor: float = 1.0) -> Loss:
    """100 nats more (or times `factor`) in the steps `first` to `last`, the first time that they are taken."""
    armed, before = True, -1

    def loss(model: Model, batch: Batch) -> Tensor:
        nonlocal armed, before
        value = token_loss(model, batch)
        if not torch.is_grad_enabled():
            return value
        armed = armed and step_of(batch) >= before
        before = step_of(batch)
        if not (armed and first <= step_of(batch) <= last):
            return value
        return value * factor if factor != 1.0 else value + 100.0 * batch.total

    return loss


def test_a_loss_that_explodes_sends_the_training_back_once_with_a_lower_rate(model: Model, tmp_path: Path) -> None:
    """High in the steps 10 to 14: the fifth is noticed after 15 steps, the last checkpoint before was after 10."""
    options: dict[str, Any] = {"steps": 30, "decay": "constant", "tuning": False}
    bench = Training(model, tmp_path / "calm", **options)
    calm = bench.run()
    wild = Training(model, tmp_path / "wild", **options)
    wild.start = bench.start
    best = wild.run(loss=high_once(10, 14))
    assert best.rolled_back == (15, 10)
    assert [entry["step"] for entry in best.log] == list(range(1, 31))
    assert best.log[:10] == calm.log[:10]
    assert best.log[10]["loss"] == calm.log[10]["loss"]
    assert best.log[10]["learning_rate"] == 0.25 * calm.log[10]["learning_rate"]
    assert all(bool(tensor.isfinite().all()) for tensor in best.tensors.values())


def test_four_high_steps_are_no_explosion(model: Model, tmp_path: Path) -> None:
    assert Training(model, tmp_path, steps=30).run(loss=high_once(10, 13)).rolled_back is None


def test_before_the_first_checkpoint_it_goes_back_to_the_start(model: Model, tmp_path: Path) -> None:
    best = Training(model, tmp_path).run(steps=12, loss=high_once(0, 4, factor=float("nan")))
    assert best.rolled_back == (5, 0)
    assert (best.steps, best.skipped) == (12, 0)


@pytest.mark.parametrize("stops", [[3], [6], [7], [9], [12], [5, 5]])
def test_going_back_is_the_same_stopped_or_not(model: Model, tmp_path: Path, stops: list[int]) -> None:
    """Stopped before the loss explodes, while it does, and after the training went back."""
    options: dict[str, Any] = {"steps": 24, "decay": "constant", "rate": 0.3}
    whole = Training(model, tmp_path / "whole", **options)
    undisturbed = whole.run(loss=far_away(whole.start))
    assert undisturbed.rolled_back == (10, 4)
    other = Training(model, tmp_path / "stopped", **options)
    other.start = whole.start
    for stop_after in stops:
        with pytest.raises(Interrupted):
            other.run(stop_after=stop_after, loss=far_away(whole.start))
    assert equal(undisturbed, other.run(loss=far_away(whole.start)))


def far_away(start: dict[str, Tensor]) -> Loss:
    """100 nats more in the steps 5 to 9 where a weight has moved by 1. So it has at a rate of 0.3 (0.1, 0.2 at first);
    but gone back to step 4 and on at a quarter of it, not before the second of these steps. A function of where the
    training stands, so that one that was stopped meets it too."""
    name = max(start, key=lambda each: "embed" in each or "wte" in each)

    def loss(model: Model, batch: Batch) -> Tensor:
        value = token_loss(model, batch)
        moved = float((model.embedding_weight.detach() - start[name]).abs().max())
        high = torch.is_grad_enabled() and 5 <= step_of(batch) <= 9 and moved > 1.0
        return value + 100.0 * batch.total if high else value

    return loss


def test_a_loss_that_explodes_again_is_a_numeric_error_and_what_lies_on_the_disk_is_finite(
    model: Model, tmp_path: Path
) -> None:
    calls: list[int] = []

    def loss(m: Model, batch: Batch) -> Tensor:
        calls.append(1)
        return token_loss(m, batch) * (float("nan") if len(calls) > 20 else 1.0)

    with pytest.raises(NumericError, match=r"5 steps in a row \(last .*, after going back once to step \d+ with 0.25"):
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
