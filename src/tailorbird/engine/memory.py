"""How tensors' memory is kept and given back, and the largest resident memory of a stretch of work."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import ClassVar

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
MACHINE_EVENTS, OWN_GROUPS, GROUPS = Path("/proc/vmstat"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
LARGE = 10_000_000  # parameters
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        library = ctypes.CDLL("libc.so.6")
        return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
    except OSError:  # another C library
        return None


def keep_freed_memory() -> None:
    """Ask glibc to reuse freed tensors' memory instead of giving it back: half of a training step went into pages that
    were returned and faulted in again. Elsewhere the allocator is left as it is."""
    if (library := _glibc()) is not None:
        library.mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the largest value glibc takes
        library.mallopt(M_TRIM_THRESHOLD, 1 << 30)


def give_back_freed_memory() -> None:
    """Return what lies free between the blocks in use: with batches of ever new sizes it grew to gigabytes."""
    if (library := _glibc()) is not None:
        library.malloc_trim(0)


def let_go_of_models(parameters: int) -> None:
    """Free models of about so many parameters that nobody uses any more. Their layers refer to each other in circles,
    which Python collects only after many thousand new objects: gigabytes of dead weights and moments stood beside the
    next training. To collect takes a fifth of a second, so small ones wait for Python."""
    if parameters >= LARGE:
        gc.collect()
    give_back_freed_memory()


def out_of_memory(error: BaseException) -> bool:
    """Whether this error says that memory could not be had: Python's, an accelerator's, or torch's on the CPU."""
    import torch

    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def killed_for_memory() -> dict[str, int]:
    """How many processes the kernel has killed because memory was full, by who counts them: the control group of this
    process, which knows nothing of other programs, then the machine. Empty where nobody counts."""
    counts: dict[str, int] = {}
    for file in _group_events():
        if (found := _kills(file)) is not None:
            counts[f"{file} {file.parent.stat().st_ino}"] = found  # one made again under its name counts from 0
            break
    if (found := _kills(MACHINE_EVENTS)) is not None:
        counts["machine"] = found
    return counts


def more_killed(before: Mapping[str, int], now: Mapping[str, int]) -> bool:
    """By the nearest that counted both times: a process that was started elsewhere has another control group."""
    who = next((who for who in now if who in before), None)
    return who is not None and now[who] > before[who]


def _group_events() -> Iterator[Path]:
    """Where a control group of this process may count, the nearest first: one above counts for those that have no
    counter, and in a container the root stands for its own."""
    if not os.access(OWN_GROUPS, os.R_OK):
        return
    for line in OWN_GROUPS.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, name = (GROUPS / "memory", "memory.oom_control") if controllers else (GROUPS, "memory.events")
        own = root / path.strip("/")
        yield from (folder / name for folder in (own, *own.parents) if folder.is_relative_to(root))


def _kills(file: Path) -> int | None:
    lines = file.read_text().splitlines() if os.access(file, os.R_OK) else []
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)


class PeakMemory:
    """`with PeakMemory() as peak: …` then `peak.megabytes`; None where the system does not tell.

    Linux resets and reads the kernel's high-water mark. Elsewhere the mark of the whole process so far is read, which
    can only be too high. On CUDA the device's own peak is added to the host's. There is one mark: a stretch within
    another tells the outer one what stood there before it resets it.
    """

    _open: ClassVar[list[PeakMemory]] = []

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.megabytes: float | None = None

    def __enter__(self) -> PeakMemory:
        self._read()
        if RESET.exists():
            try:
                RESET.write_text("5")
            except OSError:  # not permitted in some containers: the mark then covers the whole process
                pass
        if self.device.startswith("cuda"):
            import torch

            torch.cuda.reset_peak_memory_stats()
        self._open.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._read()
        self._open.remove(self)

    def _read(self) -> None:
        """What the mark says now, for all stretches that are open."""
        mark = _host_peak_mb()
        if mark is None:
            return
        if self.device.startswith("cuda"):
            import torch

            mark += torch.cuda.max_memory_allocated() / 2**20
        for one in self._open:
            one.megabytes = max(one.megabytes or 0.0, mark)


def _host_peak_mb() -> float | None:
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset) / 2**20
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
