"""How fast this machine multiplies, and the switches that make two runs equal bit for bit."""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass

from tailorbird.engine.memory import keep_freed_memory

OUT, IN, ROWS, ROUNDS = 3072, 576, 256, 7
QUIET = 0.85  # of the processor time that its threads could have had


def set_threads(threads: int) -> None:
    """Fix the number of threads and ask for deterministic algorithms. Call before the first tensor operation.

    Sums are split by thread, so a run is repeatable only with the same number of them.
    """
    os.environ["OMP_DYNAMIC"] = "FALSE"
    os.environ["MKL_DYNAMIC"] = "FALSE"
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    keep_freed_memory()
    import torch

    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=False)
    # Deterministic mode also fills every new tensor, against reads of uninitialized memory: 40 % of a training step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Probe:
    """`gflops`: GFLOP/s by dtype. `quiet`: whether nothing else wanted the processor, so that they will hold."""

    gflops: dict[str, float]
    quiet: bool


def probe(device: str, threads: int) -> Probe:
    """GFLOP/s of a 3072 x 576 linear layer at 256 rows, by dtype: the median of several short rounds."""
    set_threads(threads)
    import torch

    speeds = {}
    began, used = time.perf_counter(), time.process_time()
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        weight = torch.full((OUT, IN), 0.01, dtype=dtype, device=device)
        x = torch.full((ROWS, IN), 0.01, dtype=dtype, device=device)
        times = []
        for _ in range(ROUNDS + 1):
            start = time.perf_counter()
            for _ in range(10):
                torch.nn.functional.linear(x, weight)
            if device != "cpu":
                torch.accelerator.synchronize()
            times.append((time.perf_counter() - start) / 10)
        speeds[name] = 2.0 * OUT * IN * ROWS / statistics.median(times[1:]) / 1e9
    share = (time.process_time() - used) / (time.perf_counter() - began) / threads
    return Probe(speeds, device != "cpu" or share >= QUIET)
