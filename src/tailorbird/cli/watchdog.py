"""Ends a run that hangs: a training or scoring that makes no progress for many times what a step of it should take.

What moves is counted: progress that is told, and places that work passes (`store.fault`: each forward of a model, each
file). Programs that answer have a time limit of their own, and are not watched.
Time is counted in the watchdog's own wakings, so that a laptop that was suspended, or a process that was stopped (^Z),
has not idled: clocks that leave that out differ from system to system. A hung thread cannot be talked to, so the
process ends, with exit code 6 and what each thread was doing in the run's folder; the same command goes on.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from tailorbird import store
from tailorbird.errors import ResourceError
from tailorbird.events import Event

LEAST_SECONDS = 1800.0  # a slow disk, or a machine that swaps, is no hang
TIMES = 20.0  # the longest wait so far, or what the plan expects of a step
TICK_SECONDS = 1.0
FILE = "hung.txt"


class Watchdog:
    """`with Watchdog(command) as watchdog: events = Events(watchdog, …)`; `end` is called with the exit code."""

    def __init__(self, continue_with: str, end: Callable[[int], object] = os._exit) -> None:
        self.continue_with, self.end = continue_with, end
        self.folder = Path()
        self.expected: dict[str, float] = {}  # seconds of a whole contestant, by the label of those that are watched
        self.stage: tuple[str, str] | None = None  # label and name of what is watched
        self.step = self.idle = self.longest = 0.0  # seconds; `step` by the plan
        self._told = 0
        self._seen: tuple[int, int] | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def __call__(self, event: Event) -> None:
        self._told += 1
        kind = event["kind"]
        if kind == "run_started":
            self.folder = Path(event["folder"])
            self.expected = {label: event["expected"][label] for label in event["local"]}
        elif kind == "stage_started" and event["label"] in self.expected:
            seconds, total = self.expected[event["label"]], event["total"]
            self.step = seconds / (total or TIMES)  # a rehearsal tells of no steps: as long as the whole contestant
            self.idle = self.longest = 0.0
            self.stage = (event["label"], event["stage"])
        elif kind in ("stage_started", "stage_finished", "contestant", "run_finished"):
            self.stage = None

    @property
    def limit(self) -> float:
        """Seconds without progress that are a hang."""
        return max(LEAST_SECONDS, TIMES * max(self.step, self.longest))

    def tick(self, seconds: float) -> None:
        """Called after so many seconds in which this process could run."""
        stage, seen = self.stage, (self._told, store.passed)
        if stage is None or seen != self._seen:
            self.longest = max(self.longest, self.idle)
            self._seen, self.idle = seen, 0.0
            return
        self.idle += seconds
        if self.idle > self.limit:
            self.report(*stage)

    def report(self, label: str, stage: str) -> None:
        place = self.folder / FILE
        with store.atomic(place) as file:
            faulthandler.dump_traceback(file, all_threads=True)  # type: ignore[arg-type]
        error = ResourceError(
            f"{label}, {stage}: no progress for {self.idle / 60:.0f} minutes; what each thread was doing is in {place}",
            remedy=f"nothing is lost; go on with: {self.continue_with}",
        )
        shown = "\x1b[?25h" if sys.stderr.isatty() else ""  # the live view hides the cursor
        print(f"{shown}\ntailorbird: {error}", file=sys.stderr, flush=True)
        self.end(error.exit_code)

    def _watch(self) -> None:
        while not self._over.wait(TICK_SECONDS):
            self.tick(TICK_SECONDS)
