"""What this machine has: processor, cores, memory, accelerator. No torch unless an accelerator is asked about.

Inside a container the limits of its control group count, not what the host has: a plan that trusts the host's memory
is killed half-way.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from tailorbird.errors import ResourceError
from tailorbird.types import Machine

DeviceFacts = tuple[str, str, int]  # device, its name, its memory in bytes
_CGROUP = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60  # version 1 of control groups spells "no limit" as a number near 2**63
_PACKAGES = ("tailorbird", "torch", "transformers", "tokenizers", "peft", "safetensors", "numpy")


def machine(device: str = "auto", *, device_facts: Callable[[str], DeviceFacts] | None = None) -> Machine:
    """Facts of this machine. `check` passes no `device_facts`, so that torch is not imported: the device is then what
    can be said without it ("cpu", or the one asked for), of a card's memory nothing. `run` passes `torch_device`."""
    if device_facts is not None:
        name, title, size = device_facts(device)
    else:
        name = "cpu" if device == "auto" else device
        title, size = "", 0 if name == "cuda" else memory()
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        processor=processor(),
        threads=cores(),
        memory_bytes=memory(),
        device=name,
        device_name=title or (processor() if name == "cpu" else name),
        device_memory_bytes=size,
        versions=versions(),
    )


def torch_device(device: str = "auto") -> DeviceFacts:
    """The device that `device` means here. Imports torch. An absent one is a ResourceError, never a silent CPU."""
    import torch

    kind = device.partition(":")[0]
    if kind in ("auto", "cuda") and (name := card("cuda")) is not None:
        return "cuda", name, torch.cuda.get_device_properties(0).total_memory
    if kind == "mps" and (name := card("mps")) is not None:
        return "mps", name, memory()
    if kind in ("auto", "cpu"):
        return "cpu", processor(), memory()
    built = "" if kind != "cuda" or torch.version.cuda else " (this build of torch is for CPU only)"
    raise ResourceError(
        f"device {device!r} is not available on this machine{built}",
        remedy="leave `device` at auto, which takes CUDA where there is one and the CPU otherwise",
    )


def card(device: str) -> str | None:
    """The name of the accelerator that `device` means; None for the CPU, or where it is not there. Imports torch."""
    import torch

    kind = device.partition(":")[0]
    if kind == "cuda" and torch.cuda.is_available():
        return str(torch.cuda.get_device_properties(0).name)
    return "Apple GPU" if kind == "mps" and torch.backends.mps.is_available() else None


def accelerator_possible() -> bool:
    """Whether asking torch for an accelerator is worth its import: an NVIDIA driver or Apple silicon is there."""
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    card = Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists() or sys.platform == "win32"
    return card and "torch" in versions()


def processor() -> str:
    """The processor's name as its maker writes it."""
    if sys.platform.startswith("linux"):
        try:
            with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
                for line in file:
                    if line.startswith(("model name", "Model")):
                        return line.partition(":")[2].strip()
        except OSError:
            pass
    return platform.processor() or platform.machine() or "unknown processor"


def cores() -> int:
    """Physical cores this process may use: affinity and the control group's share respected, at least 1."""
    logical = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    usable = min(logical, _physical_cores() or logical)
    quota = cpu_quota()
    return max(1, min(usable, int(quota + 0.5)) if quota else usable)


def _physical_cores() -> int | None:
    try:
        import psutil
    except ImportError:
        return None
    return psutil.cpu_count(logical=False)


def cpu_quota(root: Path = _CGROUP) -> float | None:
    """Processors granted by the control group, None without a limit."""
    quotas: list[float] = []
    for folder in _groups(root):
        words = _read(folder / "cpu.max").split()
        if len(words) == 2 and words[0].isdigit() and int(words[1]) > 0:
            quotas.append(int(words[0]) / int(words[1]))
    quota, period = _read(root / "cpu" / "cpu.cfs_quota_us"), _read(root / "cpu" / "cpu.cfs_period_us")
    if quota.isdigit() and period.isdigit() and int(period) > 0:
        quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def memory(root: Path = _CGROUP) -> int:
    """Bytes of memory this process may use: the machine's, or less where a control group says so."""
    limits = [_physical_memory()]
    limits += [int(text) for folder in _groups(root) if (text := _read(folder / "memory.max")).isdigit()]
    old = _read(root / "memory" / "memory.limit_in_bytes")
    if old.isdigit() and int(old) < _UNLIMITED:
        limits.append(int(old))
    return min(limits)


def _groups(root: Path) -> Iterable[Path]:
    """The control group of this process and those above it: every one of them limits it."""
    yield root
    entry = next((line for line in _read(Path("/proc/self/cgroup")).splitlines() if line.startswith("0::")), "")
    path = root
    for part in entry[3:].strip("/").split("/"):
        if part and part != "..":
            path = path / part
            yield path


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _physical_memory() -> int:
    try:
        import psutil
    except ImportError:
        if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        raise ResourceError("cannot tell how much memory this machine has", remedy="pip install psutil") from None
    return int(psutil.virtual_memory().total)


def free_memory() -> int:
    """Bytes that are free now (`doctor` shows it; the plan counts with all memory), never more than `memory()`."""
    try:
        import psutil
    except ImportError:
        return memory()
    return min(int(psutil.virtual_memory().available), memory())


def versions() -> dict[str, str]:
    """Versions of what decides figures; absent packages are left out."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
