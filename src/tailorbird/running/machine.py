"""The machine a plan is made for: device, threads, and the probe's speeds, kept once a quiet machine gave them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tailorbird import store
from tailorbird.errors import TailorbirdError
from tailorbird.spec import Spec
from tailorbird.types import Machine

PROBE_REVISION = 2  # 1 kept what a busy machine gave


def may_accelerate(spec: Spec) -> bool:
    """Whether torch has to be asked for the device: one was named, or may be there."""
    from tailorbird.bases.machine import accelerator_possible

    return accelerator_possible() if spec.device == "auto" else spec.device != "cpu"


def machine_for(spec: Spec, *, torch: bool, probe: bool = True) -> Machine:
    """The machine as the spec wants to use it. Without `torch` no accelerator is asked about and no probe is run."""
    from tailorbird.bases import machine as machines

    ask = torch and may_accelerate(spec)
    found = machines.machine(spec.device, device_facts=machines.torch_device if ask else None)
    if spec.limits.threads:
        found = replace(found, threads=spec.limits.threads)
    gflops = known_speeds(found)
    if not gflops and torch and probe:
        gflops = probed(found)
    return replace(found, gflops=gflops)


def known_speeds(machine: Machine) -> dict[str, float]:
    """GFLOP/s by dtype that an earlier probe of this machine found; empty when none ran."""
    path = _path(machine)
    if not path.is_file():
        return {}
    try:
        value = store.read_json(path)
    except TailorbirdError:  # a damaged cache is a cache miss
        return {}
    return {name: float(speed) for name, speed in value["gflops"].items()}


def probed(machine: Machine) -> dict[str, float]:
    """Runs the probe (a second) and keeps what it found, unless something else kept the machine busy: then the next
    run probes again."""
    from tailorbird.engine.probe import probe

    found = probe(machine.device, machine.threads)
    path = _path(machine)
    if found.quiet:
        facts = {"gflops": found.gflops, "processor": machine.processor, "threads": machine.threads}
        store.write_json(path, facts)
    return found.gflops


def _path(machine: Machine) -> Path:
    versions = machine.versions.get("torch")
    name = store.key(PROBE_REVISION, machine.processor, machine.device, machine.device_name, machine.threads, versions)
    return store.home() / "probes" / f"{name}.json"
