"""The live view: a score is seen when it is measured, a log stays short, and stdout is left alone."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest
from rich.console import Console

from tailorbird.events import Events
from tailorbird.reporting.live import LiveView
from tailorbird.reporting.progress import RunState

LABELS = ["majority", "tfidf", "zero_shot", "prompt_tuning", "lora", "sft"]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def view(clock: Clock, *, terminal: bool, width: int = 80) -> tuple[LiveView, Events]:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=width, color_system=None, legacy_windows=False)
    live = LiveView(console, clock=clock)
    return live, Events(live)


def written(live: LiveView) -> str:
    return live.console.file.getvalue()  # type: ignore[attr-defined]


def drawn(live: LiveView, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(live.draw())
    return console.file.getvalue()  # type: ignore[attr-defined]


def start(events: Events) -> None:
    events.emit("run_started", name="help-desk", contestants=LABELS, folder="runs/help-desk")


def test_without_a_terminal_stages_scores_and_ends_are_plain_lines() -> None:
    clock = Clock()
    live, events = view(clock, terminal=False)
    start(events)
    events.emit("stage_started", label=None, stage="probe")
    clock.now += 1
    events.emit("stage_finished", label=None, stage="probe", seconds=1.0)
    events.emit("note", text="bfloat16 is used")
    events.emit("stage_started", label="lora", stage="customize", total=90)
    clock.now += 64
    events.emit("stage_finished", label="lora", stage="customize", seconds=64.0)
    events.emit("measured", label="lora", split="validation", score=0.934, low=0.9, high=0.957, n=300)
    events.emit("contestant", label="sft", state="failed", note="out of memory")
    events.emit("sealed", verdict="use", label="lora", reason="as good as sft")
    events.emit("run_finished", verdict="use", reason="as good as sft", folder="runs/help-desk", seconds=70.0)
    assert written(live).splitlines() == [
        "[0:00] run help-desk: majority, tfidf, zero_shot, prompt_tuning, lora, sft",
        "[0:00] probing the machine",
        "[0:01] probing the machine done in 1 s",
        "[0:01] note: bfloat16 is used",
        "[0:01] lora: customizing",
        "[1:05] lora: customizing done in 1 min 4 s",
        "[1:05] lora: Validation 93.4 % (90.0–95.7, 300 rows)",
        "[1:05] sft: failed: out of memory",
        "[1:05] choice sealed on Validation: use lora: as good as sft",
        "[1:05] run finished in 1 min 10 s: runs/help-desk",
    ]


def test_without_a_terminal_progress_comes_at_most_every_twenty_seconds() -> None:
    clock = Clock()
    live, events = view(clock, terminal=False)
    start(events)
    events.emit("stage_started", label="lora", stage="customize", total=100)
    for done in range(1, 101):
        clock.now += 1
        events.emit("progress", label="lora", stage="customize", done=done, total=100, note="loss 0.41")
    lines = [line for line in written(live).splitlines() if "loss" in line]
    assert len(lines) == 5
    assert lines[1] == "[0:40] lora: customizing 40 %, loss 0.41, about 1:00 left"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_table_fits_and_shows_a_score_as_soon_as_it_is_measured(width: int) -> None:
    clock = Clock()
    live, events = view(clock, terminal=True, width=width)
    start(events)
    events.emit("stage_started", label="zero_shot", stage="validation", total=300)
    assert "59.7 %" not in written(live)
    events.emit("measured", label="zero_shot", split="validation", score=0.597, low=0.54, high=0.651, n=300)
    assert "59.7 %" in written(live)  # drawn at once, without waiting for a tick
    events.emit("stage_started", label="lora", stage="customize", total=90)
    for done in range(31):
        clock.now += 1
        events.emit("progress", label="lora", stage="customize", done=done, total=90, note="loss 0.41")
    text = drawn(live, width)
    live.close()
    assert max(map(len, text.splitlines())) <= width
    if width >= 80:
        assert "59.7 % 54.0–65.1" in text
        assert "33 % loss 0.41" in text
        assert "1:00" in text
    assert "at least 1:00 left" in text


def test_a_failure_is_told_in_full_below_the_table() -> None:
    live, events = view(Clock(), terminal=True)
    start(events)
    events.emit(
        "contestant",
        label="sft",
        state="failed",
        note="needs 9.1 GB, 4.0 GB are free: lower limits.memory_gb or leave sft out",
    )
    text = " ".join(drawn(live).split())
    live.close()
    assert "sft: needs 9.1 GB, 4.0 GB are free: lower limits.memory_gb or leave sft out" in text


def test_a_known_plan_gives_a_time_for_the_whole_run() -> None:
    state = RunState()
    state.apply({"kind": "run_started", "contestants": ["a", "b"], "expected": {"a": 60.0, "b": 100.0}}, 0.0)
    assert state.time_left(0.0) == (160.0, True)
    state.apply({"kind": "stage_started", "label": "a", "stage": "customize", "total": 10}, 0.0)
    assert state.time_left(20.0) == (140.0, True)
    state.apply({"kind": "contestant", "label": "a", "state": "done"}, 50.0)
    assert state.time_left(50.0) == (100.0, True)


def test_a_resumed_stage_is_not_taken_for_a_fast_one() -> None:
    state = RunState()
    state.apply({"kind": "stage_started", "label": "a", "stage": "customize", "total": 100}, 0.0)
    state.apply({"kind": "progress", "label": "a", "stage": "customize", "done": 80, "total": 100}, 1.0)
    state.apply({"kind": "progress", "label": "a", "stage": "customize", "done": 90, "total": 100}, 11.0)
    work = state.contestants["a"].work
    assert work is not None
    assert work.left(11.0) == pytest.approx(10.0)


def test_no_time_is_named_before_there_is_a_pace() -> None:
    state = RunState()
    state.apply({"kind": "stage_started", "label": "a", "stage": "customize", "total": 100}, 0.0)
    assert state.time_left(5.0) is None


def test_unknown_events_are_none_of_its_business() -> None:
    live, events = view(Clock(), terminal=False)
    start(events)
    events.emit("something_new", label="lora", value=3)
    assert len(written(live).splitlines()) == 1


def test_hostile_names_do_not_move_the_cursor() -> None:
    live, events = view(Clock(), terminal=False)
    events.emit("run_started", name="\x1b[2Jrun", contestants=["[bold]a[/bold]\x1b]0;x\x07"], folder="r")
    events.emit("note", text="[link=https://evil.example]x[/link]")
    text = written(live)
    assert "\x1b" not in text
    assert "[bold]a[/bold]" in text
    assert "[link=https://evil.example]x[/link]" in text


def test_it_draws_on_stderr_and_leaves_stdout_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with LiveView() as live:
        Events(live).emit("run_started", name="r", contestants=["a"])
        print("data")
    out, err = capsys.readouterr()
    assert out == "data\n"
    assert err.startswith("[0:00] run r: a")


def test_no_colour_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    live = LiveView(Console(file=io.StringIO(), force_terminal=True, width=80))
    events: Any = Events(live)
    start(events)
    live.close()
    assert "\x1b[3" not in written(live)
    assert "\x1b[9" not in written(live)


def test_an_exception_in_the_run_leaves_the_terminal_usable() -> None:
    live, events = view(Clock(), terminal=True)
    with pytest.raises(RuntimeError), live:
        start(events)
        raise RuntimeError
    assert live.live is None
    assert written(live).rstrip().endswith("\x1b[?25h")  # the cursor is shown again


def test_a_thousand_progress_events_cost_little() -> None:
    live, events = view(Clock(), terminal=True)
    start(events)
    begun = time.perf_counter()
    for done in range(1000):
        events.emit("progress", label="lora", stage="customize", done=done, total=1000, note="loss 0.4")
    live.close()
    assert time.perf_counter() - begun < 1.0
