"""The early rehearsal: one step on the longest rows, exported, reopened, answered."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from tailorbird.customize.fitting import after_rehearsal
from tailorbird.customize.job import Job
from tailorbird.customize.making import customize
from tailorbird.techniques import get
from tailorbird.techniques.base import Trained
from tailorbird.types import Replay, Row, Train, Tuning

LONGEST_ROWS = 4  # in its one step: enough to find what fails; the largest batch is tried when the training begins


def rehearse(job: Job, work: Path) -> None:
    """One step on the longest rows, exported, reopened, two rows answered: what would fail late fails now.

    Raises whatever the long run would raise. Leaves nothing behind but `job.fitted`: killed for memory, or out of it,
    the next rehearsal goes on with less, and the training begins with what did fit.
    """
    from tailorbird.answerers.opening import open_customization

    technique = get(job.technique)
    longest = sorted(job.train, key=_size, reverse=True)
    settings = dict(job.settings)
    count = 2
    if isinstance(technique, Trained):
        count = min(len(longest), int(settings["batch_rows"]), LONGEST_ROWS)
        settings["epochs"] = 1
    else:
        settings |= {"draws": 1} if "draws" in settings else {}
    few = replace(
        job,
        settings=settings,
        train=Train(longest[:count]) if isinstance(technique, Trained) else job.train,
        tuning=Tuning(list(job.tuning)[:2]),
        replay=Replay(sorted(job.replay, key=_size)[-1:]),
        work=work / "work",
        rehearses=job.work,
        notes=[],
        note=lambda text: None,
        progress=lambda done, total, note: None,
    )
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        customize(few, work / "customization")
        compute = job.compute
        answerer = open_customization(
            work / "customization",
            job.base.folder,
            device=compute.device,
            threads=compute.threads,
            batch_tokens=compute.micro_batch_tokens,
        )
        rows = longest[:2]
        answered = list(
            answerer.answer(
                [
                    replace(job.task.request(row), max_new_tokens=min(8, job.task.max_new_tokens or 8))
                    if not job.task.labels
                    else job.task.request(row)
                    for row in rows
                ]
            )
        )
        if len(answered) != len(rows):
            raise AssertionError("the rehearsal got fewer answers than questions")
        answerer.close()
        after_rehearsal(job)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _size(row: Row) -> int:
    return sum(len(m.content) for m in row.messages)
