"""Which label answers: the tree of the labels searched best first, against all of its nodes.

    python benchmarks/bench_labels.py [RUN] [--spec SPEC] [--rows 192] [--rounds 3]

For every customization of a run that chooses among labels: rows a second both ways, in turn on one machine (medians),
nodes of the tree a row that were needed, milliseconds of one request alone, and what must not differ: the labels, and
the stated confidence by no more than what hopeless labels may have. Exit 1 when a label differs.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from importlib.resources import files
from itertools import islice
from pathlib import Path

from tailorbird import spec as specs
from tailorbird.answerers.local import LocalAnswerer
from tailorbird.answerers.opening import open_customization, release
from tailorbird.bases.catalog import resolve
from tailorbird.engine.labels import EVERYTHING, MARGIN
from tailorbird.running.material import read_material
from tailorbird.types import Answer, Request

WAYS = {"best first": MARGIN, "all nodes": EVERYTHING}
ALONE = 20  # requests one by one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/demo"))
    parser.add_argument("--spec", type=Path, help="The demo's where it is not said.")
    parser.add_argument("--rows", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    spec = asked.spec or Path(str(files("tailorbird.examples") / "demo" / "demo.yaml"))
    material = read_material(specs.load(spec))
    requests = [material.task.request(row) for row in islice(material.splits.test, asked.rows)]
    comparison = json.loads((asked.run / "comparison.json").read_text(encoding="utf-8"))
    differing = 0
    for row in comparison["rows"]:
        if row["kind"] != "technique" or row["state"] != "done":
            continue
        release()
        answerer = open_customization(asked.run / row["artifact"], resolve(comparison["base"]["name"]))
        differing += compared(row["label"], answerer, requests, asked.rounds)
    sys.exit(1 if differing else 0)


def compared(label: str, answerer: LocalAnswerer, requests: list[Request], rounds: int) -> int:
    """Labels that differ."""
    found: dict[str, list[Answer]] = {}
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    alone: dict[str, list[float]] = {way: [] for way in WAYS}
    nodes: dict[str, float] = {}
    list(answerer.answer(requests[:3]))
    for _ in range(rounds):
        for way, answerer.margin in WAYS.items():
            answerer.seen.answer_tokens = 0
            seconds, found[way] = timed(answerer, requests)
            rates[way].append(len(requests) / seconds)
            nodes[way] = answerer.seen.answer_tokens / len(requests)
            alone[way] += [timed(answerer, [request])[0] for request in requests[:ALONE]]
    pairs = list(zip(*found.values(), strict=True))
    other = sum(first.label != second.label for first, second in pairs)
    apart = max(abs((first.confidence or 0.0) - (second.confidence or 0.0)) for first, second in pairs)
    told = {
        "label": label,
        "rows_per_second": {way: round(statistics.median(rate), 1) for way, rate in rates.items()},
        "nodes_per_row": {way: round(count, 1) for way, count in nodes.items()},
        "one_request_ms": {way: round(1000 * statistics.median(times)) for way, times in alone.items()},
        "other_labels": other,
        "confidence_apart": round(apart, 6),
        "may_be_apart": round(len(answerer.parts.decode.labels) * math.exp(-MARGIN), 6),
    }
    print(json.dumps(told), flush=True)
    return other


def timed(answerer: LocalAnswerer, requests: list[Request]) -> tuple[float, list[Answer]]:
    start = time.perf_counter()
    answers = list(answerer.answer(requests))
    return time.perf_counter() - start, answers


if __name__ == "__main__":
    main()
