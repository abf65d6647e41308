"""What the live view knows of a run: one state a contestant, and estimates of the time left. No terminal, no rich.

Time left of a stage is extrapolated from its own pace; of contestants that wait it is what the plan expected
(`expected` of `run_started`). Where nothing is known the estimate is a lower bound and says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tailorbird.events import Event
from tailorbird.reporting.numbers import is_number

STAGES = {
    "read data": "reading data",
    "probe": "probing the machine",
    "rehearse": "rehearsal",
    "customize": "customizing",
    "validation": "Validation",
    "forgetting": "forgetting",
    "drift": "drift",
    "latency": "latency",
    "test": "Test",
    "report": "writing the report",
}
SETTLE_SECONDS = 2.0  # a pace measured over less is noise
SETTLE_SHARE = 0.02


def stage_name(stage: str) -> str:
    return STAGES.get(stage, stage.replace("_", " "))


@dataclass
class Work:
    """A stage at work: how far it is and since when. `done` and `total` are in the stage's own units."""

    stage: str
    started: float
    done: float = 0
    total: float = 0
    note: str = ""
    first: tuple[float, float] | None = None  # (time, done) of the first progress: a resumed stage starts above zero

    @property
    def share(self) -> float | None:
        return min(1.0, self.done / self.total) if self.total > 0 else None

    def left(self, now: float) -> float | None:
        """Seconds left at the pace so far; None until the pace means something."""
        start, begun = self.first or (self.started, 0.0)
        advanced, spent = self.done - begun, now - start
        if self.total <= 0 or advanced <= 0 or spent < SETTLE_SECONDS or advanced < SETTLE_SHARE * self.total:
            return None
        return max(0.0, (self.total - self.done) * spent / advanced)


@dataclass
class Contestant:
    """One row of the view. `state` is None until the contestant ended; `scores` by split as the events gave them."""

    label: str
    state: str | None = None
    note: str = ""
    work: Work | None = None
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    spent: float = 0.0

    @property
    def touched(self) -> bool:
        return self.work is not None or self.state is not None or self.spent > 0 or bool(self.scores)


class RunState:
    """Folds events into what is to be shown. `now` is the listener's clock in seconds."""

    def __init__(self) -> None:
        self.name = ""
        self.folder = ""
        self.started: float | None = None
        self.contestants: dict[str, Contestant] = {}
        self.work: Work | None = None  # a stage of the run itself
        self.sealed: Event | None = None
        self.notes: list[str] = []
        self.finished = False
        self.expected: Mapping[str, float] = {}

    def contestant(self, label: str) -> Contestant:
        return self.contestants.setdefault(label, Contestant(label))

    def apply(self, event: Event, now: float) -> None:
        if self.started is None:
            self.started = now
        handler = getattr(self, f"on_{event.get('kind')}", None)
        if handler is not None:  # kinds that a later version adds are not this view's business
            handler(event, now)

    def on_run_started(self, event: Event, now: float) -> None:
        self.name, self.folder, self.finished = str(event.get("name") or ""), str(event.get("folder") or ""), False
        self.expected = event.get("expected") or {}
        for label in event.get("contestants") or ():
            self.contestant(label)

    def on_stage_started(self, event: Event, now: float) -> None:
        work = Work(str(event.get("stage")), now, total=number(event.get("total")))
        self.put(event.get("label"), work)

    def on_progress(self, event: Event, now: float) -> None:
        work = self.at(event.get("label"))
        if work is None or work.stage != event.get("stage"):
            work = Work(str(event.get("stage")), now)
            self.put(event.get("label"), work)
        work.done, work.total = number(event.get("done")), number(event.get("total")) or work.total
        work.note = str(event.get("note") or work.note)
        work.first = work.first or (now, work.done)

    def on_stage_finished(self, event: Event, now: float) -> None:
        label, work = event.get("label"), self.at(event.get("label"))
        seconds = number(event.get("seconds")) or (now - work.started if work else 0.0)
        if label is not None:
            self.contestant(label).spent += seconds
        if work is not None and work.stage == event.get("stage"):
            self.put(label, None)

    def on_measured(self, event: Event, now: float) -> None:
        self.contestant(event["label"]).scores[event["split"]] = event

    def on_contestant(self, event: Event, now: float) -> None:
        one = self.contestant(event["label"])
        one.state, one.note, one.work = event.get("state"), str(event.get("note") or ""), None

    def on_sealed(self, event: Event, now: float) -> None:
        self.sealed = event

    def on_note(self, event: Event, now: float) -> None:
        text = str(event.get("text") or "")
        if text and text not in self.notes:
            self.notes.append(text)

    def on_run_finished(self, event: Event, now: float) -> None:
        self.finished, self.work = True, None

    def at(self, label: str | None) -> Work | None:
        return self.work if label is None else self.contestant(label).work

    def put(self, label: str | None, work: Work | None) -> None:
        if label is None:
            self.work = work
        else:
            self.contestant(label).work = work

    def time_left(self, now: float) -> tuple[float, bool] | None:
        """(seconds, whether that is all of it). None when nothing can be said yet."""
        total, known, complete = 0.0, False, True
        works = [(None, self.work)] if self.work else []
        for one in self.contestants.values():
            if one.state is not None:
                continue
            left = one.work.left(now) if one.work else None
            spent = one.spent + (now - one.work.started if one.work else 0.0)
            planned = self.expected.get(one.label)
            if is_number(planned):
                total, known = total + max(left or 0.0, float(planned or 0) - spent), True
            elif left is not None:
                total, known = total + left, True
                complete = complete and one.work is not None and one.work.stage == "test"
            else:
                complete = False
        for _, work in works:
            left = work.left(now) if work else None
            total, known, complete = total + (left or 0.0), known or left is not None, complete and left is not None
        return (total, complete) if known else None


def number(value: Any) -> float:
    return float(value) if is_number(value) else 0.0
