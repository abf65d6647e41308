"""Latency of one request alone, by a clock that is handed in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest

from tailorbird.measure.latency import measure_latency, reported_latency, summary
from tailorbird.types import Answer, Request


class Scripted:
    """Its own clock: the i-th request takes `seconds[i]`."""

    def __init__(self, seconds: list[float]) -> None:
        self.seconds, self.now, self.asked = iter(seconds), 0.0, list[list[str]]()

    def clock(self) -> float:
        return self.now

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        asked = list(requests)
        self.asked.append([r.id for r in asked])
        self.now += next(self.seconds)
        yield Answer(asked[0].id, "x")


def test_requests_are_asked_one_at_a_time_after_a_warm_up_that_does_not_count() -> None:
    slow_start = [9.0, 9.0, 9.0]
    answerer = Scripted([*slow_start, *(i / 1000 for i in range(1, 21))])
    found = measure_latency(answerer, [Request(f"r{i}", ()) for i in range(20)], answerer.clock)
    assert found == pytest.approx({"median": 10.5, "p95": 19.0})  # 1 to 20 ms: the 19th of 20 is the 95th percentile
    assert answerer.asked[3:] == [[f"r{i}"] for i in range(20)]


def test_fewer_than_twenty_are_asked_again() -> None:
    answerer, told = Scripted([0.001] * 23), list[tuple[int, int]]()
    measure_latency(
        answerer, [Request("a", ()), Request("b", ())], answerer.clock, progress=lambda d, t: told.append((d, t))
    )
    assert len(answerer.asked) == 23
    assert told[-1] == (20, 20)


def test_p95_is_a_time_that_was_seen() -> None:
    assert summary([0.001] * 95 + [1.0] * 5) == pytest.approx({"median": 1.0, "p95": 1.0})
    assert summary([0.001] * 94 + [1.0] * 6)["p95"] == pytest.approx(1000.0)
    assert summary([0.002]) == pytest.approx({"median": 2.0, "p95": 2.0})


def test_what_a_system_reports_of_itself_counts_only_if_it_does_so_for_every_row() -> None:
    known = [Answer("a", "", seconds=0.1), Answer("b", "", seconds=0.3)]
    assert reported_latency(known) == pytest.approx({"median": 200.0, "p95": 300.0})
    assert reported_latency([*known, Answer("c", "")]) is None
    assert reported_latency([]) is None


def test_no_requests_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one request"):
        measure_latency(Scripted([]), [])
