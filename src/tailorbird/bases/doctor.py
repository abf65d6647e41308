"""Facts for `tailorbird doctor`: what this machine is, what is installed, what can be reached without asking anyone."""

from __future__ import annotations

import importlib.util
import os
import shutil
from typing import Any

from tailorbird import store
from tailorbird.bases import catalog
from tailorbird.bases.machine import accelerator_possible, cpu_quota, free_memory, machine, torch_device


def doctor_facts(device: str = "auto", *, import_torch: bool = True) -> dict[str, Any]:
    """JSON for the doctor's page; `import_torch=False` leaves the accelerator as "possible" or "none"."""
    facts = machine(device, device_facts=torch_device if import_torch else None)
    home = store.home()
    place = home if home.exists() else next(p for p in home.parents if p.exists())
    return {
        "system": facts.system,
        "processor": facts.processor,
        "physical_cores": facts.threads,
        "cpu_quota": cpu_quota(),
        "memory_bytes": facts.memory_bytes,
        "free_memory_bytes": free_memory(),
        "device": facts.device,
        "device_name": facts.device_name,
        "device_memory_bytes": facts.device_memory_bytes,
        "accelerator_possible": accelerator_possible(),
        "versions": dict(facts.versions),
        "home": str(home),
        "home_writable": os.access(place, os.W_OK),
        "home_free_bytes": shutil.disk_usage(place).free,
        "pip": importlib.util.find_spec("pip") is not None,
        "bases": [base.as_dict() for base in catalog.list_bases(facts.memory_bytes)],
    }
