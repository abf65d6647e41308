"""Tailorbird customizes language models honestly: several techniques tried, measured alike, one recommended, files out.

    comparison = tailorbird.run("spec.yaml")
    model = tailorbird.load("runs/help-desk:lora")

Importing this loads neither torch nor anything else that is slow; names are fetched when they are first used.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if "OMP_WAIT_POLICY" not in os.environ:
    # Threads of libgomp, which torch brings on Linux, spin for milliseconds while they wait for one another. Beside
    # another busy program a training step took 34 s instead of 1.3 s; so it takes 4 s (benchmarks/bench_busy.py). Set
    # here, because it is read when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

if TYPE_CHECKING:
    from tailorbird.api import Comparison, Label, Model, Table, Text, load, load_table, run
    from tailorbird.spec import Spec

__version__ = "0.1.0"
__all__ = ["Comparison", "Label", "Model", "Spec", "Table", "Text", "load", "load_table", "run"]

_SPEC = {"Spec"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'tailorbird' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module("tailorbird.spec" if name in _SPEC else "tailorbird.api"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
