"""What happens during a run, as data: the live view, the log file and tests listen to the same stream.

Kinds and their fields (all optional unless a listener needs them; every event has `kind`):

    run_started      name, contestants: [label], folder, expected: {label: seconds}; local: [label], of those that this
                     process trains or computes the answers of
    stage_started    label, stage, total        stage: read data | probe | rehearse | customize | validation |
                                                forgetting | drift | latency | test | report;
                                                label None = the run itself
    progress         label, stage, done, total, note     (note: e.g. "loss 0.41")
    stage_finished   label, stage, seconds
    measured         label, split, score, low, high, n
    contestant       label, state, note         a contestant ended: done | failed | skipped
    sealed           verdict, label, reason
    note             text                        something a user should know (a fallback, a repair)
    run_finished     verdict, reason, folder, seconds
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Event = dict[str, Any]
Listener = Callable[[Event], None]


class Events:
    """A list of listeners. A listener that raises stops the run: a broken log must not go unseen."""

    def __init__(self, *listeners: Listener) -> None:
        self.listeners = list(listeners)

    def emit(self, kind: str, **fields: Any) -> None:
        event: Event = {"kind": kind, **fields}
        for listener in self.listeners:
            listener(event)
