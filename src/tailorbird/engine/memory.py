"""How tensors' memory is kept and given back, and the largest resident memory of a stretch of work."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import ClassVar

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
MACHINE_EVENTS, OWN_GROUPS, GROUPS = Path("/proc/vmstat"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
LARGE = 10_000_000  # parameters
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
SAMPLE_SECONDS = 0.01


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
    """`with PeakMemory() as peak: …` then `peak.megabytes`: the largest resident memory of the stretch.

    Linux resets and reads the kernel's high-water mark; there is one, so a stretch within another tells the outer one
    what stood there before it resets it. Where the mark cannot be reset (other systems, some containers) it is that of
    the whole process so far, and says nothing of a stretch: a thread looks at what is resident then, and what stood for
    less than SAMPLE_SECONDS may be missed. On CUDA the device's own peak is added to the host's.
    """

    _open: ClassVar[list[PeakMemory]] = []

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self._host = self._accelerator = 0  # bytes
        self._ended = threading.Event()
        self._sampler: threading.Thread | None = None

    @property
    def megabytes(self) -> float:
        return (self._host + self._accelerator) / 2**20

    @classmethod
    def so_far(cls) -> float:
        """Megabytes of the outermost stretch that is open; 0 without one."""
        if not cls._open:
            return 0.0
        cls._open[0]._read_all()
        return max(one.megabytes for one in cls._open)

    def __enter__(self) -> PeakMemory:
        self._read_all()
        if not _reset_mark():
            self._sampler = threading.Thread(target=self._sample, name="peak memory", daemon=True)
            self._sampler.start()
        if self.device.startswith("cuda"):
            import torch

            torch.cuda.reset_peak_memory_stats()
        self._open.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._sampler is not None:
            self._sampler.join()
        self._read_all()
        self._open.remove(self)

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self._host = max(self._host, resident())

    def _read_all(self) -> None:
        """For all stretches that are open: a reset takes away what the outer ones have not read."""
        for one in self._open:
            one._host = max(one._host, high_water_mark() if one._sampler is None else resident())
            if one.device.startswith("cuda"):
                import torch

                one._accelerator = max(one._accelerator, torch.cuda.max_memory_allocated())


def _reset_mark() -> bool:
    """Whether the kernel's high-water mark speaks of what comes from here on."""
    try:
        RESET.write_text("5")
    except OSError:  # another system, or a container that forbids it
        return False
    return high_water_mark() > 0


def high_water_mark() -> int:
    """Bytes: the most that was resident since the kernel's mark was reset; 0 where there is none."""
    lines = STATUS.read_text().splitlines() if STATUS.exists() else []
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")), 0)


def resident() -> int:
    """Bytes, now."""
    import psutil

    return int(psutil.Process().memory_info().rss)
