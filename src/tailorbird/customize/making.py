"""One contestant made: trained or searched for, timed, its memory watched."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from tailorbird import store
from tailorbird.customize.job import Job
from tailorbird.customize.searching import by_search
from tailorbird.customize.training import by_training
from tailorbird.errors import ResourceError
from tailorbird.techniques import get
from tailorbird.techniques.base import Trained


def customize(job: Job, out: Path) -> dict[str, Any]:
    """Train or search, and write the customization folder `out` whole or not at all. Goes on from `job.work`.

    Returns what the report says of it: seconds, tokens, parameters, peak memory, steps, notes.
    """
    from tailorbird.engine.memory import PeakMemory, let_go_of_models, out_of_memory
    from tailorbird.engine.probe import set_threads

    set_threads(job.compute.threads)
    technique = get(job.technique)
    job.work.mkdir(parents=True, exist_ok=True)
    before = _seconds_before(job.work)
    start = time.perf_counter()
    let_go_of_models()  # of those before: else this peak would count them
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
                "micro-batches are then cut smaller (what is finished is kept)",
            ) from error
        finally:
            store.write_json(job.work / "seconds.json", before + time.perf_counter() - start)
    facts |= {
        "train_seconds": before + time.perf_counter() - start,
        "peak_memory_mb": peak.megabytes,
        "notes": job.notes,
    }
    shutil.rmtree(job.work / "checkpoints", ignore_errors=True)
    let_go_of_models()
    return facts


def _seconds_before(work: Path) -> float:
    path = work / "seconds.json"
    return float(store.read_json(path)) if path.is_file() else 0.0
