"""Scripted techniques for searches, seeds and curves: their Tuning loss is a formula of the settings and the seed, told
look by look as a training tells it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tailorbird import store
from tailorbird.errors import Interrupted, NumericError
from tailorbird.types import Answer, Request, Stop

from .conftest import WORDS

Loss = Callable[[dict[str, Any], int], float]


def bowl(settings: dict[str, Any], seed: int) -> float:
    """Lowest at a learning rate of 0.002; a seed moves it by a hundredth."""
    return (math.log10(settings["learning_rate"]) - math.log10(0.002)) ** 2 + 0.01 * (seed % 3)


class Maker:
    """Stands in for `customize`: notes every job, tells its looks, writes a folder with what it was made from."""

    def __init__(self, loss: Loss = bowl) -> None:
        self.loss = loss
        self.jobs: list[Any] = []
        self.ended_at: list[int] = []

    def __call__(self, job: Any, out: Path) -> dict[str, Any]:
        self.jobs.append(job)
        trained = "learning_rate" in job.settings
        loss = self.loss(job.settings, job.seed) if trained else 0.0
        steps = 3
        if trained:
            steps = job.settings["epochs"] * math.ceil(len(job.train) / job.settings["batch_rows"])
        for look in (1, 2, 3):
            store.write_json(job.work / "seconds.json", 2.0 * look / 3)
            if job.stop():
                raise Interrupted("stopped")
            at = round(steps * look / 3)
            self.ended_at.append(at)
            job.progress(at, steps, "")
            if not math.isfinite(loss):
                raise NumericError("loss or gradient was not finite for 5 steps in a row (last at step 5)")
            job.judged(at, loss + (3 - look) * 0.3)
        made = {"technique": job.technique, "settings": job.settings, "seed": job.seed, "train": len(job.train)}
        store.write_json(out / "prompt.json", made)
        store.write_jsonl(job.work / "log.jsonl", [{"step": steps, "loss": loss, "tuning_loss": loss}])
        return {"train_seconds": 2.0, "train_tokens": 10, "peak_memory_mb": 10.0, "notes": [], "steps": steps,
                "tuning_loss": loss}  # fmt: skip


class Shaky:
    """Right on a share of rows that grows with the rows it learned from, each seed on others."""

    def __init__(self, made: dict[str, Any]) -> None:
        self.made = made

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        right = 0.95 - 10.0 / max(11, self.made["train"])
        for request in requests:
            words = request.input_text.split()
            true = next(label for label in sorted(WORDS) if set(WORDS[label]) & set(words))
            wrong = next(label for label in sorted(WORDS) if label != true)
            hit = int(store.key(request.id, self.made["seed"] // 2), 16) % 1000 < 1000 * right
            label = true if hit else wrong
            yield Answer(request.id, label, label, None, 0.9, Stop.SCORED, 10)

    def bits(self, texts: Iterable[str]) -> Iterator[float]:
        for text in texts:
            yield 2.0 * len(text)

    def kl(self, walks: Iterable[Any], base: Any) -> Iterator[float]:
        yield from (0.01 * walk.positions for walk in walks)

    def cost_facts(self) -> dict[str, Any]:
        return {"prompt_tokens": 10.0, "flops_per_request": 1e9, "deployed_bytes": 1000, "trainable_parameters": 10}


def row_of(comparison: dict[str, Any], label: str = "lora") -> dict[str, Any]:
    return next(row for row in comparison["rows"] if row["label"] == label)


def jobs(maker: Maker, label: str = "lora") -> list[Any]:
    return [job for job in maker.jobs if job.label == label]
