"""How long one request alone takes, as a user who waits would see it. The clock is handed in."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence

from tailorbird.types import Answer, Answerer, Request

WARM_UP = 3
LEAST = 20  # below that a 95th percentile is the maximum

Latency = dict[str, float]  # {"median", "p95"} in milliseconds


def measure_latency(
    answerer: Answerer,
    requests: Sequence[Request],
    clock: Callable[[], float] = time.perf_counter,
    *,
    warm_up: int = WARM_UP,
    least: int = LEAST,
    progress: Callable[[int, int], None] | None = None,
) -> Latency:
    """{"median", "p95"} in ms over `requests` asked one at a time; fewer than `least` are asked again.

    `warm_up` requests go before and are not counted: first calls fill caches and choose kernels.
    """
    if not requests:
        raise ValueError("latency needs at least one request")
    count = max(least, len(requests))
    seconds: list[float] = []
    for i in range(-warm_up, count):
        request = requests[i % len(requests)]
        start = clock()
        answered = list(answerer.answer([request]))
        taken = clock() - start
        if len(answered) != 1:
            raise ValueError(f"one request got {len(answered)} answers")
        if i >= 0:
            seconds.append(taken)
            if progress is not None:
                progress(i + 1, count)
    return summary(seconds)


def reported_latency(answers: Iterable[Answer]) -> Latency | None:
    """What an outside system says of itself (`latency_ms` in an answers file), if it says so for every row."""
    seconds = [answer.seconds for answer in answers]
    known = [s for s in seconds if s is not None]
    return summary(known) if known and len(known) == len(seconds) else None


def summary(seconds: Sequence[float]) -> Latency:
    """p95 is the nearest rank: a time that was seen."""
    ordered = sorted(seconds)
    return {
        "median": 1000 * statistics.median(ordered),
        "p95": 1000 * ordered[math.ceil(0.95 * len(ordered)) - 1],
    }
