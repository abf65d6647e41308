"""The live view of a run: a listener of events that draws on stderr, so that stdout stays data.

In a terminal: a calm table, one row a contestant, its Validation score as soon as it is measured. Without one (a log
file, CI, `TERM=dumb`): plain lines at the start and end of stages, and progress at most every twenty seconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from tailorbird.events import Event
from tailorbird.reporting import numbers
from tailorbird.reporting.progress import Contestant, RunState, Work, stage_name
from tailorbird.reporting.text import printable, shortened

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

PROGRESS_SECONDS = 20.0
REFRESH_PER_SECOND = 4
NOTES_SHOWN = 3


class LiveView:
    """`with LiveView() as view: events = Events(view, …)`. It starts with the first event, ends at `run_finished`."""

    def __init__(
        self, console: Console | None = None, *, metric: str = "accuracy", clock: Callable[[], float] = time.monotonic
    ) -> None:
        from rich.console import Console

        self.console = console or Console(stderr=True, highlight=False)
        self.metric, self.clock = metric, clock
        self.state = RunState()
        self.lock = threading.RLock()  # rich draws from its own thread
        self.plain = PlainLines(self) if not self.console.is_terminal or self.console.is_dumb_terminal else None
        self.live: Live | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __call__(self, event: Event) -> None:
        with self.lock:
            now = self.clock()
            if event.get("metric"):
                self.metric = str(event["metric"])
            self.state.apply(event, now)
        if self.plain is not None:
            self.plain.say(event, now)
            return
        if event.get("kind") == "run_finished":
            self.close()
        elif self.live is None and not self.state.finished:
            self.open()
        elif self.live is not None and event.get("kind") in ("measured", "contestant", "sealed"):
            self.live.refresh()  # a score is not kept waiting for the next tick

    def open(self) -> None:
        from rich.live import Live

        # stdout is data for other programs: rich must not take it over.
        self.live = Live(
            get_renderable=self.draw, console=self.console, refresh_per_second=REFRESH_PER_SECOND, redirect_stdout=False
        )
        self.live.start()

    def close(self) -> None:
        """Leaves the last state on the screen; safe to call twice."""
        if self.live is not None:
            live, self.live = self.live, None
            live.stop()

    def draw(self) -> RenderableType:
        from rich.console import Group

        with self.lock:
            now = self.clock()
            parts: list[RenderableType] = [self.title(now), self.table(now)]
            return Group(*parts, *self.notes())

    def title(self, now: float) -> Any:
        from rich.text import Text

        started = self.state.started if self.state.started is not None else now
        line = Text.assemble((printable(self.state.name) or "run", "bold"), (f"   {numbers.clock(now - started)}", ""))
        left = self.state.time_left(now)
        if self.state.finished:
            line.append("   finished", "green")
        elif left is not None:
            seconds, complete = left
            line.append(f"   {'about' if complete else 'at least'} {numbers.clock(seconds)} left", "dim")
        if self.state.work is not None:
            line.append(f"   {progress_text(self.state.work)}", "cyan")
        line.no_wrap, line.overflow = True, "ellipsis"
        return line

    def table(self, now: float) -> Any:
        from rich import box
        from rich.table import Table

        wide = self.console.width >= 96
        table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False, header_style="dim")
        table.add_column("", width=1)
        table.add_column("contestant", no_wrap=True, overflow="ellipsis", max_width=24 if wide else 16)
        table.add_column("now", no_wrap=True, overflow="ellipsis", width=46 if wide else 36)
        table.add_column("left", justify="right", no_wrap=True, width=5)
        table.add_column("Validation", justify="right", no_wrap=True, width=18 if wide else 17)
        for one in self.state.contestants.values():
            table.add_row(*self.row(one, now, wide))
        return table

    def row(self, one: Contestant, now: float, wide: bool) -> list[Any]:
        from rich.text import Text

        mark, style = {"done": ("✓", "green"), "failed": ("✗", "red"), "skipped": ("–", "dim")}.get(
            one.state or "", (" ", "")
        )
        if one.work is not None:
            mark, style = "▸", "cyan"
        chosen = self.state.sealed is not None and self.state.sealed.get("label") == one.label
        label = Text(printable(one.label), "bold green" if chosen else ("" if one.touched else "dim"))
        left = one.work.left(now) if one.work else None
        return [
            Text(mark, style),
            label,
            self.now(one, wide),
            numbers.clock(left) if left is not None else "",
            self.score(one),
        ]

    def now(self, one: Contestant, wide: bool) -> Any:
        from rich.text import Text

        if one.work is not None:
            work, text = one.work, Text(f"{stage_name(one.work.stage):<12}"[: 14 if wide else 12])
            if work.share is not None:
                text.append(" ").append_text(bar(work.share, 14 if wide else 6)).append(f" {100 * work.share:3.0f} %")
            if work.note:
                text.append(f" {printable(work.note)}", "dim")
            return text
        if one.state in ("failed", "skipped"):
            return Text(
                f"{one.state}: {printable(one.note)}" if one.note else one.state,
                "red" if one.state == "failed" else "dim",
            )
        if one.state == "done":
            return Text(f"done in {numbers.seconds(one.spent)}" if one.spent else "done", "dim")
        return Text("waiting for Test" if "validation" in one.scores else "waiting", "dim")

    def score(self, one: Contestant) -> Any:
        from rich.text import Text

        found = one.scores.get("validation")
        if found is None:
            return ""
        text = Text(numbers.score(found.get("score"), self.metric), "bold")
        return text.append(f" {numbers.interval(found.get('low'), found.get('high'), self.metric)}", "dim not bold")

    def notes(self) -> list[Any]:
        from rich.text import Text

        failed = [one for one in self.state.contestants.values() if one.state == "failed" and one.note]
        lines = [Text(f"✗ {printable(one.label)}: {printable(one.note)}", "red") for one in failed]
        lines += [
            Text(f"· {shortened(printable(note), 2 * self.console.width)}", "dim")
            for note in self.state.notes[-NOTES_SHOWN:]
        ]
        sealed = self.state.sealed
        if sealed is not None:
            lines.append(Text(sealed_line(sealed), "bold"))
        return [Text(""), *lines] if lines else []


class PlainLines:
    """The same events as lines for a log: each says when, who and what, and none is overwritten."""

    def __init__(self, view: LiveView) -> None:
        self.view = view
        self.last_progress: dict[str | None, float] = {}

    def say(self, event: Event, now: float) -> None:
        line = self.line(event, now)
        if line:
            started = now if self.view.state.started is None else self.view.state.started
            self.view.console.print(
                f"[{numbers.clock(now - started)}] {line}", markup=False, highlight=False, soft_wrap=True
            )

    def line(self, event: Event, now: float) -> str | None:
        who = printable(event["label"]) + ": " if event.get("label") is not None else ""
        match event.get("kind"):
            case "run_started":
                labels = ", ".join(printable(label) for label in event.get("contestants") or ())
                return f"run {printable(event.get('name') or '')}: {labels}"
            case "stage_started":
                self.last_progress[event.get("label")] = now
                return f"{who}{stage_name(str(event.get('stage')))}"
            case "progress":
                return self.progress(event, who, now)
            case "stage_finished":
                took = f" in {numbers.seconds(event['seconds'])}" if numbers.is_number(event.get("seconds")) else ""
                return f"{who}{stage_name(str(event.get('stage')))} done{took}"
            case "measured":
                return f"{who}{score_line(event, self.view.metric)}"
            case "contestant":
                note = f": {printable(event['note'])}" if event.get("note") else ""
                return f"{who}{event.get('state')}{note}"
            case "sealed":
                return sealed_line(event)
            case "note":
                return f"note: {printable(event.get('text') or '')}"
            case "run_finished":
                took = f" in {numbers.seconds(event['seconds'])}" if numbers.is_number(event.get("seconds")) else ""
                return f"run finished{took}: {printable(event.get('folder') or self.view.state.folder)}"
        return None

    def progress(self, event: Event, who: str, now: float) -> str | None:
        label = event.get("label")
        if now - self.last_progress.get(label, now - PROGRESS_SECONDS) < PROGRESS_SECONDS:
            return None
        self.last_progress[label] = now
        work = self.view.state.at(label)
        if work is None:
            return None
        left = work.left(now)
        return f"{who}{progress_text(work)}" + (f", about {numbers.clock(left)} left" if left is not None else "")


def progress_text(work: Work) -> str:
    share = f" {100 * work.share:.0f} %" if work.share is not None else ""
    return f"{stage_name(work.stage)}{share}" + (f", {printable(work.note)}" if work.note else "")


def score_line(event: Event, metric: str) -> str:
    span = numbers.interval(event.get("low"), event.get("high"), metric)
    rows = f", {numbers.count(event['n'])} rows" if numbers.is_number(event.get("n")) else ""
    return f"{str(event.get('split')).capitalize()} {numbers.score(event.get('score'), metric)} ({span}{rows})"


def sealed_line(event: Event) -> str:
    label = f" {printable(event['label'])}" if event.get("label") else ""
    reason = f": {printable(event['reason'])}" if event.get("reason") else ""
    return f"choice sealed on Validation: {event.get('verdict')}{label}{reason}"


def bar(share: float, width: int) -> Any:
    from rich.text import Text

    full = round(share * width)
    return Text("━" * full, "cyan").append("─" * (width - full), "dim")
