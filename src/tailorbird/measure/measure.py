"""The one way from an answerer to a measurement. It sees answers only: it cannot tell a soft prompt from a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tailorbird.errors import TailorbirdError
from tailorbird.measure.compare import score
from tailorbird.tasks.task import Task
from tailorbird.types import Answerer, Measurement, Outcome, Test, Tuning, Validation

Progress = Callable[[int, int], None]  # rows done, rows in all


def measure(
    answerer: Answerer, split: Tuning | Validation | Test, task: Task, progress: Progress | None = None
) -> Measurement:
    """Answer every row of the split once, judge, and score. Train is refused: a score there says nothing."""
    if not isinstance(split, Tuning | Validation | Test):
        raise TypeError(f"measure takes Tuning, Validation or Test, not {type(split).__name__}")
    if not len(split):
        raise ValueError(f"the split {split.name} has no rows")
    outcomes: list[Outcome] = []
    answers = iter(answerer.answer([task.request(row) for row in split]))
    for done, row in enumerate(split, start=1):
        answer = next(answers, None)
        if answer is None or answer.id != row.id:
            got = "nothing" if answer is None else f"an answer to {answer.id!r}"
            raise TailorbirdError(
                f"{type(answerer).__name__} gave {got} for row {row.id!r} of {split.name} ({done} of {len(split)})",
                where=str(row.place),
                remedy="an answerer gives one answer for each request, in their order",
            )
        outcomes.append(task.outcome(row, answer))
        if progress is not None:
            progress(done, len(split))
    if next(answers, None) is not None:
        raise TailorbirdError(f"{type(answerer).__name__} gave more answers than the {len(split)} rows of {split.name}")
    return Measurement(split.name, task.metric, score(outcomes, task), tuple(outcomes))


def over_seeds(made: Sequence[Measurement], exported: int) -> Measurement:
    """One measurement of a technique made several times: a row's score is its mean over the seeds.

    `exported`: which of `made` the answers that are shown come from. Other metrics are means over the seeds, of those
    that every seed has.
    """
    shown = made[exported]
    outcomes = []
    for row in zip(*(m.outcomes for m in made), strict=True):
        if len({o.row for o in row}) > 1:
            raise ValueError("seeds were measured on other rows")
        by_seed = tuple(o.score for o in row)
        outcomes.append(replace(row[exported], score=sum(by_seed) / len(by_seed), by_seed=by_seed))
    names = [n for n in shown.score.other if all(n in m.score.other for m in made)]
    other = {name: sum(m.score.other[name] for m in made) / len(made) for name in names}
    return Measurement(shown.split, shown.metric, replace(score(outcomes), other=other), tuple(outcomes))
