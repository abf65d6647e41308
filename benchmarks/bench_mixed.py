"""A shuffled queue of many tasks: one mixed batch against a new batch at each change of task, same engine, same rows.

    TAILORBIRD_DATA=… python examples/prompt-table/prepare.py
    python benchmarks/bench_mixed.py [--table TABLE --adapter RUN:LABEL] [--rows 96] [--rounds 3] [--dtype float32]

Who asks: the tasks of examples/prompt-table, an adapter (LoRA) and the untouched base, equally often, in random order.
Without a table each task is trained here for a few rows: how fast rows are does not depend on how good they are, but
how long a written answer gets does, so figures that are quoted come from the table that the example makes.

Rounds are interleaved (mixed, switching, mixed, …), medians are shown, and the largest difference of a log-probability
between a row in the mixed batch and the row alone. All three kinds of rows together, and those with labels alone.

Exit code 1 where a row is not the row alone (a log-probability that differs by more than 1e-4, another answer), or
where mixed is less than three times as fast. Both are asked of float32; bfloat16 is too coarse for the first.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from tailorbird import spec as specs
from tailorbird.answerers.local import LocalAnswerer
from tailorbird.answerers.mixed import MixedAnswerer
from tailorbird.answerers.opening import open_bare, open_customization
from tailorbird.artifacts.parts import Decode, Prompt
from tailorbird.artifacts.table import PromptTable
from tailorbird.customize import Compute, Job, customize
from tailorbird.plan import make_plan
from tailorbird.running.material import Material, read_material
from tailorbird.running.opening import choose, in_table
from tailorbird.types import Answer, Message, Request

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "prompt-table"
TASKS = ("intents", "abstracts", "sections", "grammar", "neutral", "notes", "sums")
TRAIN = 16  # rows of a quick training
MOST_APART, LEAST_TIMES = 1e-4, 3.0  # nats to the row alone; as fast as switching
Queue = list[tuple[str, Request]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--adapter", metavar="RUN:LABEL", help="With --table: a LoRA on the same base and rows.")
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    asked = parser.parse_args()
    materials = {task: read_material(specs.load(EXAMPLE / f"{task}.yaml")) for task in TASKS}
    with tempfile.TemporaryDirectory() as scratch:
        members = opened(asked, materials, Path(scratch))
        queue = shuffled(materials, list(members), asked.rows)
        scored = [one for one in queue if one[1].candidates]
        print(
            f"{len(members)} customizations, {asked.dtype}, {asked.threads} threads, medians of {asked.rounds} rounds"
        )
        times = [
            measure(name, rows, members, asked.rounds)
            for name, rows in (("all rows", queue), ("rows with labels", scored))
        ]
        difference, other = differences(queue, members)
        print(f"largest |difference| of a log-probability to the row alone: {difference:.2g}; other answers: {other}")
    return verdict(times, difference, other)


def verdict(times: Sequence[float], difference: float, other: int) -> int:
    """The exit code, what is asked and was not met being said."""
    missed = []
    if difference > MOST_APART or other:
        missed.append(f"rows are not as they are alone: {difference:.2g} nats apart, {other} other answers")
    if min(times) < LEAST_TIMES:
        missed.append(f"mixed is {min(times):.2f} times as fast as switching, {LEAST_TIMES:g} are asked")
    for line in missed:
        print(line)
    return 1 if missed else 0


def opened(asked: Any, materials: dict[str, Material], scratch: Path) -> dict[str, LocalAnswerer]:
    """Every task's customization, `adapter` and `base`, all in one type on one base in memory."""
    base_folder = Path(materials["intents"].base.folder)
    if asked.table is not None:
        table = PromptTable.open(asked.table)
        folders = {task: in_table(table, task).folder for task in TASKS}
        if asked.adapter:
            folders["adapter"] = choose(asked.adapter).folder
    else:
        folders = {task: trained("prompt_tuning", task, materials[task], asked, scratch) for task in TASKS}
        folders["adapter"] = trained("lora", "adapter", materials["intents"], asked, scratch)
    members = {
        name: open_customization(folder, base_folder, dtype=asked.dtype, threads=asked.threads)
        for name, folder in folders.items()
    }
    decode = Decode("write", max_new_tokens=16)
    members["base"] = open_bare(base_folder, prompt=Prompt(), decode=decode, dtype=asked.dtype, threads=asked.threads)
    return members


def trained(technique: str, name: str, material: Material, asked: Any, scratch: Path) -> Path:
    plan = make_plan(material.spec, material.facts(torch=True))
    entrant = next(e for e in plan.entrants if e.technique in (technique, "prompt_tuning"))
    settings = dict(plan.entrant("adapter").effective if technique == "lora" else entrant.effective) | {"epochs": 1}
    train = type(material.splits.train)(material.splits.train[:TRAIN])
    job = Job(
        name, technique, settings, {}, material.base, material.task, train, material.splits.tuning, 0,
        Compute("cpu", asked.dtype, asked.threads, entrant.micro_batch_tokens, 1000, False, plan.memory_bytes),
        scratch / f"work-{name}",
    )  # fmt: skip
    begun = time.perf_counter()
    customize(job, scratch / name)
    print(f"{name}: {len(train)} rows trained in {time.perf_counter() - begun:.0f} s", flush=True)
    return scratch / name


def shuffled(materials: dict[str, Material], owners: Sequence[str], count: int) -> Queue:
    """Validation rows, each owner's equally often, in an order drawn once. The adapter has the intents' rows, behind
    the intents' own; the base has those of the sums."""
    queue: Queue = []
    for number in range(count):
        owner, place = owners[number % len(owners)], number // len(owners)
        task = {"adapter": "intents", "base": "sums"}.get(owner, owner)
        rows = materials[task].splits.validation
        request = materials[task].task.request(rows[(place if owner == task else -1 - place) % len(rows)])
        queue.append((owner, Request(f"{number}", request.messages, request.candidates, request.max_new_tokens)))
    random.Random(0).shuffle(queue)
    return queue


def measure(name: str, queue: Queue, members: dict[str, LocalAnswerer], rounds: int) -> float:
    """How many times as fast the mixed queue is."""
    mixture = MixedAnswerer(members)

    def mixed() -> list[Answer]:
        return list(mixture.answer(queue))

    def switching() -> list[Answer]:
        return [
            answer
            for owner, same in groupby(queue, key=lambda one: one[0])
            for answer in members[owner].answer([request for _, request in same])
        ]

    for way in (mixed, switching):  # kernels and heads are there before anything is timed
        way()
    seconds: dict[str, list[float]] = {"mixed": [], "switching": []}
    for _ in range(rounds):
        for label, way in (("mixed", mixed), ("switching", switching), ("mixed", mixed)):
            seconds[label].append(timed(way))
    one, other = (statistics.median(seconds[label]) for label in ("mixed", "switching"))
    changes = sum(1 for _ in groupby(queue, key=lambda item: item[0]))
    print(
        f"{name}: {len(queue)} rows, {changes} runs of one task; mixed {one:.2f} s ({len(queue) / one:.1f} rows/s), "
        f"switching {other:.2f} s ({len(queue) / other:.1f} rows/s): {other / one:.2f} x",
        flush=True,
    )
    return other / one


def timed(way: Callable[[], object]) -> float:
    begun = time.perf_counter()
    way()
    return time.perf_counter() - begun


def differences(queue: Queue, members: dict[str, LocalAnswerer]) -> tuple[float, int]:
    """(largest |difference| of label scores, and of the log-probability of what was written; answers that differ)."""
    mixture = MixedAnswerer(members)
    worst, other = 0.0, 0
    written: list[tuple[str, tuple[Message, ...], str]] = []
    for (owner, request), found in zip(queue, mixture.answer(queue), strict=True):
        (alone,) = members[owner].answer([request])
        other += (alone.text, alone.label, alone.stop) != (found.text, found.label, found.stop)
        if alone.scores and found.scores:
            worst = max(worst, *(abs(score - found.scores[label]) for label, score in alone.scores.items()))
        else:
            written.append((owner, request.messages, alone.text))
    together = mixture.score([(owner, turns) for owner, turns, _ in written], [text for _, _, text in written])
    for (owner, turns, text), value in zip(written, together, strict=True):
        worst = max(worst, abs(members[owner].score([turns], [text])[0] - value))
    return worst, other


if __name__ == "__main__":
    sys.exit(main())
