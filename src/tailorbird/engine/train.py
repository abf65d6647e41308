"""The one training loop: fetch, loss, backward, finite check, step, record, checkpoint. It knows no technique.

Loss of an optimizer step = sum over its supervised tokens / their number, however many micro-batches it took.
A continued run equals an undisturbed one bit for bit: masters, moments and step are saved; the order of rows is a
function of the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tailorbird.engine.batches import Batch, RowSource
from tailorbird.engine.checkpoints import Checkpoints
from tailorbird.engine.memory import give_back_freed_memory
from tailorbird.engine.model import Model
from tailorbird.engine.optimizer import Optimizer, Schedule
from tailorbird.errors import Interrupted, NumericError

Loss = Callable[[Model, Batch], Tensor]
SKIPS_IN_A_ROW = 5
TIDY_STEPS = 16


@dataclass
class Trainable:
    """What a technique lets the loop update, by name. The model it was made on belongs to this training alone.

    `masters`: fp32 values to begin with, where a parameter of a lower type holds only their rounding.
    """

    parameters: dict[str, nn.Parameter]
    masters: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters.values())


@dataclass
class Best:
    """The masters to export, the step they come from and its held-out loss (None without Tuning rows)."""

    tensors: dict[str, Tensor]
    step: int
    tuning_loss: float | None
    log: list[dict[str, Any]]
    tokens: int
    skipped: int


def token_loss(model: Model, batch: Batch) -> Tensor:
    """Sum over supervised tokens of -log p: the loss of every technique that learns from rows."""
    hidden = model.forward(batch.packed)
    return model.cross_entropy(hidden[batch.places], batch.targets, batch.weights)


@torch.no_grad()
def held_out_loss(model: Model, source: RowSource, loss: Loss) -> float:
    """Mean loss per supervised token over all rows of `source`, nats."""
    total = weight = 0.0
    for batch in source.everything():
        total += float(loss(model, batch))
        weight += batch.total
    return total / weight


def train(
    model: Model,
    trainable: Trainable,
    loss: Loss,
    source: RowSource,
    tuning: RowSource | None,
    *,
    schedule: Schedule,
    weight_decay: float,
    clip: float,
    checkpoints: Checkpoints,
    checkpoint_steps: int,
    progress: Callable[[int, int, str], None],
    stop: Callable[[], bool],
    judged: Callable[[int, float | None], bool] = lambda step, loss: False,
) -> Best:
    """Run `schedule.steps` steps, going on from the newest checkpoint; return the best point by the held-out loss.

    `judged(step, held-out loss)` is told of each look at the Tuning rows; True ends the training there.
    """
    optimizer = Optimizer(trainable.parameters, weight_decay, clip)
    optimizer.begin(trainable.masters)
    trainable.masters = {}  # the optimizer's are the only copy
    run = _Run(optimizer, checkpoints)
    run.resume()
    while run.step < schedule.steps:
        if stop():
            run.save()
            raise Interrupted(
                f"stopped after {run.step} of {schedule.steps} steps", remedy="the same command goes on from here"
            )
        value, norm, tokens = _accumulate(model, loss, source.next(run.step), optimizer)
        rate = schedule.at(run.step)
        applied = math.isfinite(value) and math.isfinite(norm)
        if applied:
            optimizer.step(rate, _scale(norm, tokens, clip))
        else:
            optimizer.discard()
        run.record(value, norm, rate, tokens, applied)
        if run.step % source.steps_per_epoch == 0 or run.step == schedule.steps:
            held_out = held_out_loss(model, tuning, loss) if tuning is not None else None
            run.judge(held_out)
            if judged(run.step, held_out):
                break
        if run.step % checkpoint_steps == 0 and run.step < schedule.steps:
            run.save()
        if run.step % TIDY_STEPS == 0:
            give_back_freed_memory()
        progress(run.step, schedule.steps, f"loss {value:.3f}")
    return run.best()


def _accumulate(model: Model, loss: Loss, batches: list[Batch], optimizer: Optimizer) -> tuple[float, float, float]:
    """Gradients of the sum over all micro-batches; returns (mean loss, norm of the mean gradient, weight)."""
    total = tokens = 0.0
    for batch in batches:
        value = loss(model, batch)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.collect()
        total += float(value.detach())
        tokens += batch.total
    return total / tokens, optimizer.norm(1.0 / tokens), tokens


def _scale(norm: float, tokens: float, clip: float) -> float:
    """Factor from gradient sums to means of norm <= `clip` (Pascanu et al. 2013, algorithm 1); 0 = no clipping."""
    return 1.0 / tokens if not clip or norm <= clip else clip / (norm * tokens)


class _Run:
    """Where the loop stands, and how it is saved."""

    def __init__(self, optimizer: Optimizer, checkpoints: Checkpoints) -> None:
        self.optimizer, self.checkpoints = optimizer, checkpoints
        self.step = self.tokens = self.skipped = self.in_a_row = 0
        self.log: list[dict[str, Any]] = []
        self.best_step: int | None = None
        self.best_loss: float | None = None

    def resume(self) -> None:
        found = self.checkpoints.newest("step")
        if found is None:
            return
        tensors, facts = found
        self.optimizer.load(tensors)
        self.step, self.tokens, self.skipped = facts["step"], facts["tokens"], facts["skipped"]
        self.log, self.best_step, self.best_loss = facts["log"], facts["best_step"], facts["best_loss"]
        self.in_a_row = facts["in_a_row"]

    def record(self, loss: float, norm: float, rate: float, tokens: float, applied: bool) -> None:
        self.step += 1
        self.tokens += int(tokens)
        entry: dict[str, Any] = {"step": self.step, "loss": loss, "learning_rate": rate, "gradient_norm": norm}
        if applied:
            self.in_a_row = 0
        else:
            self.skipped += 1
            self.in_a_row += 1
            entry |= {"loss": None, "gradient_norm": None, "skipped": True}
        self.log.append(entry)
        if self.in_a_row >= SKIPS_IN_A_ROW:
            raise NumericError(
                f"loss or gradient was not finite for {self.in_a_row} steps in a row (last at step {self.step})",
                remedy="lower learning_rate, or look at the rows of these steps; nothing non-finite was written",
            )

    def judge(self, loss: float | None) -> None:
        """A new best: lowest held-out loss; without Tuning rows the last point."""
        if loss is not None and not math.isfinite(loss):
            self.log[-1] |= {"tuning_loss": None, "tuning_loss_not_finite": True}
            return
        self.log[-1]["tuning_loss"] = loss
        if loss is None or self.best_loss is None or loss < self.best_loss:
            self.best_step, self.best_loss = self.step, loss
            self.checkpoints.save("best", self.step, self.optimizer.master_copy(), {"tuning_loss": loss})

    def save(self) -> None:
        facts = {
            "tokens": self.tokens,
            "skipped": self.skipped,
            "in_a_row": self.in_a_row,
            "log": self.log,
            "best_step": self.best_step,
            "best_loss": self.best_loss,
        }
        self.checkpoints.save("step", self.step, self.optimizer.state(), facts)

    def best(self) -> Best:
        if self.best_step is None:
            raise NumericError("the held-out loss was never finite", remedy="lower learning_rate")
        if self.best_step == self.step:
            tensors = {name: tensor.clone() for name, tensor in self.optimizer.master_copy().items()}
        else:
            found = self.checkpoints.newest("best")
            if found is None or found[1]["step"] != self.best_step:
                raise NumericError(f"the best point (step {self.best_step}) is gone from {self.checkpoints.folder}")
            tensors = found[0]
        return Best(tensors, self.best_step, self.best_loss, self.log, self.tokens, self.skipped)
