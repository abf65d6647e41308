"""One contestant made: trained or searched for, timed, its memory watched."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tailorbird import store
from tailorbird.customize.job import Job
from tailorbird.customize.searching import by_search
from tailorbird.customize.training import by_training
from tailorbird.errors import ResourceError
from tailorbird.techniques import get
from tailorbird.techniques.base import Trained

KEEP_SECONDS = 5.0


def customize(job: Job, out: Path) -> dict[str, Any]:
    """Train or search, and write the customization folder `out` whole or not at all. Goes on from `job.work`.

    Returns what the report says of it: seconds, tokens, parameters, peak memory, steps, notes.
    """
    from tailorbird.answerers.opening import release
    from tailorbird.engine.memory import PeakMemory, let_go_of_models, out_of_memory
    from tailorbird.engine.probe import set_threads

    set_threads(job.compute.threads)
    technique = get(job.technique)
    job.work.mkdir(parents=True, exist_ok=True)
    clock = Clock(job.work / "seconds.json")
    job = replace(job, progress=clock.beside(job.progress))
    if isinstance(technique, Trained):
        release()  # a training loads a base of its own, and one is what the plan counts
    let_go_of_models(job.base.parameters)  # of those before: else this peak would count them
    with PeakMemory(job.compute.device) as peak:
        try:
            facts = (
                by_training(job, technique, out) if isinstance(technique, Trained) else by_search(job, technique, out)
            )
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            raise ResourceError(
                f"{job.label} ran out of memory",
                remedy="give the same command again with limits.memory_gb set to less than the machine has free: "
                "micro-batches are then cut smaller (a finished contestant is kept unless its own are cut: it is then "
                "made again)",
            ) from error
        finally:
            clock.keep()
    facts |= {
        "train_seconds": clock.seconds,
        "peak_memory_mb": peak.megabytes,
        "notes": job.notes,
    }
    let_go_of_models(job.base.parameters)
    return facts


class Clock:
    """Seconds of a making in all its sittings. Kept as it goes: what was done before a kill took its time, too."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._before = float(store.read_json(path)) if path.is_file() else 0.0
        self._start = self._kept = time.perf_counter()

    @property
    def seconds(self) -> float:
        return self._before + time.perf_counter() - self._start

    def keep(self) -> None:
        store.write_json(self.path, self.seconds)
        self._kept = time.perf_counter()

    def beside(self, progress: Callable[[int, int, str], None]) -> Callable[[int, int, str], None]:
        """`progress`, with the seconds kept now and then."""

        def told(done: int, total: int, note: str) -> None:
            if time.perf_counter() - self._kept >= KEEP_SECONDS:
                self.keep()
            progress(done, total, note)

        return told
