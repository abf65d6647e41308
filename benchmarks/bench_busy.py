"""A training step beside another program that keeps one core busy, with libgomp's own way of waiting and with ours.

    python benchmarks/bench_busy.py

A LoRA step on smollm2-135m (32 rows of 20 tokens behind 22 that they share, bf16, two threads), each cell in a process
of its own, alternating; the median of the steps after the second. Linux: elsewhere torch has another OpenMP library.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

ROUNDS, STEPS, LIMIT = 2, 7, 240.0
WAITING = {"libgomp's own": None, "tailorbird's": "10000"}


def cell() -> None:
    """Print the median seconds of a step."""
    import torch

    from tailorbird.bases.catalog import resolve
    from tailorbird.bases.model import load_model
    from tailorbird.engine import low_rank
    from tailorbird.engine.model import Model
    from tailorbird.engine.segments import pack

    torch.set_num_threads(2)
    model = Model(load_model(resolve("smollm2-135m"), dtype="bfloat16", device="cpu"), verify=False)
    generator = torch.Generator().manual_seed(0)
    names = low_rank.linear_names(model.network, model.output)
    pairs = {n: low_rank.initial(model.network.get_submodule(n), 16, generator) for n in names}
    low_rank.wrap(model.network, pairs, 2.0)
    rows = [[(7 * i + 13 * j) % 4000 + 100 for j in range(20)] for i in range(32)]
    batch = pack(rows, head=list(range(200, 222)))
    seconds: list[float] = []
    begun = time.perf_counter()
    while len(seconds) < STEPS and (len(seconds) < 3 or time.perf_counter() - begun < LIMIT):
        start = time.perf_counter()
        hidden = model.forward(batch)
        model.cross_entropy(hidden[torch.tensor(batch.ends)], torch.zeros(32, dtype=torch.long)).backward()
        seconds.append(time.perf_counter() - start)
    print(statistics.median(seconds[2:]))


@contextmanager
def neighbour(wanted: bool) -> Iterator[None]:
    """Another program on one core, in a session of its own, as a browser or a build would be."""
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True) if wanted else None
    try:
        yield
    finally:
        if busy is not None:
            busy.kill()
            busy.wait()


def main() -> None:
    if sys.argv[1:] == ["cell"]:
        cell()
        return
    found: dict[tuple[bool, str], list[float]] = {}
    for _ in range(ROUNDS):
        for busy in (False, True):
            for name, spins in WAITING.items():
                environment = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
                # libgomp's own: any value that is not set would be set by the import, so its default is named.
                environment["GOMP_SPINCOUNT"] = spins or "300000"
                with neighbour(busy):
                    done = subprocess.run(
                        [sys.executable, __file__, "cell"], env=environment, check=True, capture_output=True, text=True
                    )
                found.setdefault((busy, name), []).append(float(done.stdout))
                print(f"{'busy' if busy else 'alone':6} {name:14} {found[busy, name][-1]:8.2f} s a step", flush=True)
    for (busy, name), seconds in found.items():
        print(f"{'beside a busy core' if busy else 'alone':20} {name:14} median {statistics.median(seconds):.2f} s")


if __name__ == "__main__":
    main()
