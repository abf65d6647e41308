"""The one training loop: fetch, loss, backward, finite check, step, record, checkpoint. It knows no technique.

Loss of an optimizer step = sum over its supervised tokens / their number, however many micro-batches it took.
A continued run equals an undisturbed one bit for bit: masters, moments and step are saved; the order of rows and
dropout's masks are functions of the step. Where the loop stands, and when it goes back, is in `standing.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tailorbird import store
from tailorbird.engine.batches import Batch, RowSource
from tailorbird.engine.checkpoints import Checkpoints
from tailorbird.engine.memory import give_back_freed_memory
from tailorbird.engine.model import Model
from tailorbird.engine.optimizer import Optimizer, Schedule
from tailorbird.engine.standing import Best, Standing
from tailorbird.errors import Interrupted

Loss = Callable[[Model, Batch], Tensor]
__all__ = ["Best", "Loss", "Trainable", "held_out_loss", "token_loss", "train"]
TIDY_STEPS = 16


@dataclass
class Trainable:
    """What a technique lets the loop update, by name. The model it was made on belongs to this training alone.

    `masters`: fp32 values to begin with, where a parameter of a lower type holds only their rounding; asked for one
    after another. `moments`: the optimizer's state to begin with (`Optimizer.moments`), of all parameters or none.
    """

    parameters: dict[str, nn.Parameter]
    masters: Mapping[str, Tensor] = field(default_factory=dict)
    moments: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters.values())

    def start(self) -> dict[str, Tensor]:
        """The fp32 values and moments that training begins with, named as in `Optimizer.state`."""
        values = {name: self.masters.get(name, parameter.detach()) for name, parameter in self.parameters.items()}
        return {**{f"master/{name}": value for name, value in values.items()}, **self.moments}


def token_loss(model: Model, batch: Batch) -> Tensor:
    """Sum over supervised tokens of -log p: the loss of every technique that learns from rows."""
    hidden = model.forward(batch.packed, batch.places)
    return model.cross_entropy(hidden, batch.targets, batch.weights, batch.label_smoothing)


@torch.no_grad()
def held_out_loss(model: Model, source: RowSource, loss: Loss) -> float:
    """Mean loss per supervised token over all rows of `source`, nats."""
    total = weight = 0.0
    for batch in source.everything():
        store.fault("held-out")
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
    l2_to_start: float = 0.0,
    patience: int = 0,
    keep_moments: bool = False,
    restart: Callable[[], Mapping[str, Tensor]] | None = None,
) -> Best:
    """Run `schedule.steps` steps, going on from the newest checkpoint; return the best point by the held-out loss.

    `judged(step, held-out loss)` is told of each look at the Tuning rows; True ends the training there. So do
    `patience` looks in a row without a lower loss (0: never). `restart()`: the optimizer's state that training began
    with, for one that explodes before its first checkpoint. `keep_moments`: the best point has the optimizer's moments.
    """
    optimizer = Optimizer(trainable.parameters, weight_decay, clip, l2_to_start)
    optimizer.begin(trainable.masters, trainable.moments)
    trainable.masters = trainable.moments = {}  # the optimizer's are the only copy
    run = Standing(optimizer, checkpoints, restart, keep_moments)
    run.resume()
    while run.step < schedule.steps:
        if stop():
            run.save_at_stop()
            raise Interrupted(
                f"stopped after {run.step} of {schedule.steps} steps", remedy="the same command goes on from here"
            )
        store.fault("step")
        value, norm, tokens = _accumulate(model, loss, source.next(run.step), optimizer)
        rate = schedule.at(run.step) * run.rate_factor
        applied = math.isfinite(value) and math.isfinite(norm)
        if applied:
            optimizer.step(rate, _scale(norm, tokens, clip))
        else:
            optimizer.discard()
        run.record(value, norm, rate, applied)
        if run.exploded:
            run.roll_back()
            continue
        if run.step % source.steps_per_epoch == 0 or run.step == schedule.steps:
            held_out = held_out_loss(model, tuning, loss) if tuning is not None else None
            run.judge(held_out, last=run.step == schedule.steps)
            if judged(run.step, held_out) or (patience and run.looks_since_best >= patience):
                break
        if run.step % checkpoint_steps == 0 and run.step < schedule.steps and run.calm:
            run.save()
        if run.step % TIDY_STEPS == 0:
            give_back_freed_memory()
        progress(run.step, schedule.steps, f"loss {value:.3f}")
    return run.best()


def _accumulate(model: Model, loss: Loss, batches: list[Batch], optimizer: Optimizer) -> tuple[float, float, float]:
    """Gradients of the sum over all micro-batches; returns (mean loss, norm of the mean gradient, weight)."""
    total = tokens = 0.0
    for batch in batches:
        store.fault("micro-batch")
        value = loss(model, batch)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.collect()
        total += float(value.detach())
        tokens += batch.total
    return total / tokens, optimizer.norm(1.0 / tokens), tokens


def _scale(norm: float, tokens: float, clip: float) -> float:
    """Factor from gradient sums to means of norm <= `clip` (Pascanu et al. 2013, algorithm 1); 0 = no clipping."""
    return 1.0 / tokens if not clip or norm <= clip else clip / (norm * tokens)
