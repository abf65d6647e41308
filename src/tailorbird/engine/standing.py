"""Where a training stands: its step, its log and its best point; how that is saved, gone on from, and gone back to.

A loss that explodes (not finite, or far above where it began, for several steps in a row) sends the training back once,
to the last checkpoint that was written before, with a lower learning rate. If it explodes again the training fails;
what lies on the disk is finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from tailorbird.engine.checkpoints import Checkpoints
from tailorbird.engine.optimizer import Optimizer
from tailorbird.errors import ArtifactError, NumericError

EXPLODED_STEPS = 5  # in a row
EXPLODED_FACTOR, EXPLODED_NATS = 2.0, 3.0  # times, and above, the loss of the first step: both
RATE_AFTER = 0.25  # of the learning rate, after going back


@dataclass
class Best:
    """The masters to export, the step they come from and its held-out loss (None without Tuning rows).

    steps: how many the training took in the end. rolled_back: (from step, to step), if it went back once. moments: the
    optimizer's state at the best point, where it is kept. updated: as `Optimizer.updated`, at the end.
    """

    tensors: dict[str, Tensor]
    step: int
    tuning_loss: float | None
    log: list[dict[str, Any]]
    skipped: int
    steps: int
    rolled_back: tuple[int, int] | None = None
    moments: dict[str, Tensor] = field(default_factory=dict)
    updated: dict[str, int] = field(default_factory=dict)


class Standing:
    """Checkpoints of two kinds: `step`, written at the planned steps (what is gone back to), and `stop`, written where
    a user stopped (only gone on from), so that a stopped training goes back to where an undisturbed one does."""

    def __init__(
        self,
        optimizer: Optimizer,
        checkpoints: Checkpoints,
        restart: Callable[[], Mapping[str, Tensor]] | None = None,
        keep_moments: bool = False,
    ) -> None:
        self.optimizer, self.checkpoints, self.restart, self.keep_moments = (
            optimizer, checkpoints, restart, keep_moments,
        )  # fmt: skip
        self.log: list[dict[str, Any]] = []
        self.step = self.skipped = self.looks_since_best = 0
        self.saved_step = -1
        self.best_step: int | None = None
        self.planned_best: int | None = None  # of the newest planned checkpoint, which may be gone back to
        self.best_loss: float | None = None
        self.rolled_back: tuple[int, int] | None = None

    @property
    def rate_factor(self) -> float:
        return RATE_AFTER if self.rolled_back else 1.0

    def resume(self) -> None:
        """At the newest checkpoint that is whole and whose best point is; else at the start."""
        planned, stopped = self.checkpoints.newest("step"), self.checkpoints.newest("stop")
        if planned is not None:
            self.planned_best = planned[1]["best_step"]
        found = [each for each in (planned, stopped) if each is not None]
        for tensors, facts in sorted(found, key=lambda each: -each[1]["step"]):
            if facts["best_step"] is None or self.checkpoints.whole("best", facts["best_step"]):
                self._stand_at(tensors, facts)
                break

    def _stand_at(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        self.optimizer.load(tensors)
        self.step, self.skipped = facts["step"], facts["skipped"]
        self.log, self.best_step, self.best_loss = facts["log"], facts["best_step"], facts["best_loss"]
        self.looks_since_best, self.saved_step = facts["looks_since_best"], facts["step"]
        self.rolled_back = tuple(facts["rolled_back"]) if facts["rolled_back"] else None  # type: ignore[assignment]

    def record(self, loss: float, norm: float, rate: float, applied: bool) -> None:
        self.step += 1
        entry: dict[str, Any] = {"step": self.step, "loss": loss, "learning_rate": rate, "gradient_norm": norm}
        if not applied:
            self.skipped += 1
            entry |= {"loss": None, "gradient_norm": None, "skipped": True}
        self.log.append(entry)

    # --- a loss that explodes ---------------------------------------------------------------------

    def _limit(self) -> float:
        first = next((entry["loss"] for entry in self.log if entry["loss"] is not None), math.inf)
        return max(EXPLODED_FACTOR * first, first + EXPLODED_NATS)

    def _too_high(self, entry: Mapping[str, Any]) -> bool:
        return entry["loss"] is None or entry["loss"] > self._limit()

    @property
    def calm(self) -> bool:
        return not self._too_high(self.log[-1])

    @property
    def exploded(self) -> bool:
        last = self.log[-EXPLODED_STEPS:]
        return len(last) == EXPLODED_STEPS and all(map(self._too_high, last))

    def roll_back(self) -> None:
        """Back to the last planned checkpoint, or to the start; NumericError when that was done before."""
        if self.rolled_back:
            self._fail(
                f", after going back once to step {self.rolled_back[1]} with {RATE_AFTER:g} of the learning rate"
            )
        found, came_from = self.checkpoints.newest("step"), self.step
        if found is not None:
            self._stand_at(*found)
        elif self.restart is not None:
            nothing = {"step": 0, "skipped": 0, "log": [], "looks_since_best": 0, "rolled_back": None}
            self._stand_at(self.restart(), {**nothing, "best_step": None, "best_loss": None})
        else:
            self._fail("")
        self.rolled_back = (came_from, self.step)
        # First these: a kill in between must find the checkpoint from which it explodes again, and goes back again.
        self.checkpoints.remove("stop")
        self._save("step")

    def _fail(self, again: str) -> None:
        what = "loss or gradient was not finite"
        if any(entry["loss"] is not None for entry in self.log[-EXPLODED_STEPS:]):
            what = f"the loss stayed above {self._limit():.2f}, far above where it began,"
        raise NumericError(
            f"{what} for {EXPLODED_STEPS} steps in a row (last at step {self.step}{again})",
            remedy="lower learning_rate, or look at the rows of these steps; nothing non-finite was written",
        )

    # --- the best point ---------------------------------------------------------------------------

    def judge(self, loss: float | None, *, last: bool) -> None:
        """A new best: lowest held-out loss; without Tuning rows the last point. The `last` point of a training is where
        it stands: nobody would read it from the disk."""
        self.looks_since_best += 1
        if loss is not None and not math.isfinite(loss):
            self.log[-1] |= {"tuning_loss": None, "tuning_loss_not_finite": True}
            return
        self.log[-1]["tuning_loss"] = loss
        if loss is None or self.best_loss is None or loss < self.best_loss:
            self.best_step, self.best_loss, self.looks_since_best = self.step, loss, 0
            if not last:
                tensors = {**self.optimizer.master_copy(), **self._moments()}
                self.checkpoints.save("best", self.step, tensors, {"tuning_loss": loss}, keep={self.planned_best})

    def _moments(self) -> dict[str, Tensor]:
        return self.optimizer.moments() if self.keep_moments else {}

    def best(self) -> Best:
        if self.best_step is None:
            raise NumericError("the held-out loss was never finite", remedy="lower learning_rate")
        moments = self._moments() if self.best_step == self.step else {}
        updated = self.optimizer.updated()
        self.optimizer.release()
        if self.best_step == self.step:
            tensors = {name: tensor.clone() for name, tensor in self.optimizer.master_copy().items()}
        else:
            found = self.checkpoints.at("best", self.best_step)
            if found is None:
                raise ArtifactError(
                    f"the best point (step {self.best_step}) is gone, or damaged",
                    where=str(self.checkpoints.folder),
                    remedy="remove finished.json of the run: the same command trains from the last point that is whole",
                )
            tensors = {name: found[0].pop(name) for name in self.optimizer.masters}
            moments = found[0]
        return Best(
            tensors, self.best_step, self.best_loss, self.log, self.skipped, self.step, self.rolled_back,
            moments, updated,
        )  # fmt: skip

    # --- saving -----------------------------------------------------------------------------------

    def save(self) -> None:
        """At a planned step."""
        self._save("step")
        self.checkpoints.remove("stop")

    def save_at_stop(self) -> None:
        """Where a user stopped; nothing when that is where the newest checkpoint is."""
        if self.step not in (0, self.saved_step):
            self._save("stop")

    def _save(self, kind: str) -> None:
        facts = {
            "skipped": self.skipped,
            "log": self.log,
            "best_step": self.best_step,
            "best_loss": self.best_loss,
            "looks_since_best": self.looks_since_best,
            "rolled_back": self.rolled_back,
        }
        self.checkpoints.save(kind, self.step, self.optimizer.state(), facts)
        self.saved_step = self.step
        if kind == "step":
            self.planned_best = self.best_step
