"""`doctor`: what this machine is, which compute type it will use, and whether the engine computes rightly on it."""

from __future__ import annotations

import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tailorbird.plan.making import BF16_GAIN

SELFTEST_THREADS = 1  # the bases are tiny: two threads spend their time waiting for each other


@dataclass(frozen=True)
class Result:
    name: str
    passed: bool
    detail: str = ""

    def __str__(self) -> str:
        return f"{'ok    ' if self.passed else 'FAILED'} {self.name}" + (f": {self.detail}" if self.detail else "")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def facts(device: str) -> dict[str, Any]:
    """The machine's facts and the probe's speeds. The probe is run anew."""
    from tailorbird.bases.doctor import doctor_facts
    from tailorbird.bases.machine import machine, torch_device
    from tailorbird.running.machine import probed

    found = doctor_facts(device)
    speeds = probed(machine(device, device_facts=torch_device))
    gain = speeds["bfloat16"] / speeds["float32"]
    return {**found, "gflops": speeds, "compute_type": "bfloat16" if gain >= BF16_GAIN else "float32"}


def lines(facts: dict[str, Any]) -> Iterator[str]:
    """The facts for people."""

    def size(name: str) -> str:
        return f"{facts[name] / 1e9:.1f} GB"

    yield f"system      {facts['system']}, {facts['processor']}, {facts['physical_cores']} cores"
    yield f"memory      {size('memory_bytes')}, {size('free_memory_bytes')} free"
    yield f"device      {facts['device']} ({facts['device_name']}, {size('device_memory_bytes')})"
    speeds = ", ".join(f"{name} {value:.0f} GFLOP/s" for name, value in facts["gflops"].items())
    yield f"compute     {facts['compute_type']} ({speeds}; bfloat16 from {BF16_GAIN} times float32 on)"
    yield "versions    " + ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    writable = "" if facts["home_writable"] else ", NOT WRITABLE"
    yield f"home        {facts['home']} ({size('home_free_bytes')} free{writable})"
    yield f"pip         {'there' if facts['pip'] else 'not there (bases get makes a throw-away environment)'}"
    for base in facts["bases"]:
        yield f"base        {base['name']}: {'here' if base['present'] else 'not here'}; fits: {base['fits']}"


def selftest(device: str, compute_type: str) -> Iterator[Result]:
    """The technique contract of each technique on a tiny random base, on this device: some seconds each. In fp32, and
    in the type that a run computes in here, where that is another."""
    from tailorbird import techniques

    with tempfile.TemporaryDirectory() as folder:
        for dtype in dict.fromkeys(("float32", compute_type)):
            for name in techniques.NAMES:
                yield _tried(name, device, dtype, Path(folder) / dtype / name)


def _tried(name: str, device: str, dtype: str, folder: Path) -> Result:
    from tailorbird import techniques
    from tailorbird.customize import Compute
    from tailorbird.testing import make_tiny_base, technique_contract
    from tailorbird.testing.cases import CASES

    overfit, changed = CASES[name]
    shown = name if dtype == "float32" else f"{name} {dtype}"
    begun = time.monotonic()
    try:
        technique_contract(
            techniques.get(name),
            folder,
            overfit=overfit,
            changed=changed,
            base=make_tiny_base(folder / "base", hidden=96),
            compute=Compute(device=device, dtype=dtype, threads=SELFTEST_THREADS, checkpoint_steps=2),
        )
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return Result(shown, False, f"{type(error).__name__}: {error} ({last.name}, line {last.lineno})")
    return Result(shown, True, f"keeps the technique contract ({time.monotonic() - begun:.0f} s)")
