"""The largest resident memory of a stretch of work."""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """`with PeakMemory() as peak: …` then `peak.megabytes`; None where the system does not tell.

    Linux resets and reads the kernel's high-water mark. Elsewhere the mark of the whole process so far is read, which
    can only be too high. On CUDA the device's own peak is added to the host's.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.megabytes: float | None = None

    def __enter__(self) -> PeakMemory:
        if RESET.exists():
            try:
                RESET.write_text("5")
            except OSError:  # not permitted in some containers: the mark then covers the whole process
                pass
        if self.device.startswith("cuda"):
            import torch

            torch.cuda.reset_peak_memory_stats()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.megabytes = _host_peak_mb()
        if self.device.startswith("cuda") and self.megabytes is not None:
            import torch

            self.megabytes += torch.cuda.max_memory_allocated() / 2**20


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
