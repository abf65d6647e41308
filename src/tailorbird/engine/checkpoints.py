"""Checkpoints: safetensors and JSON, published whole, verified before use; the newest valid one counts.

A kill at any instant leaves either the old checkpoint or the new one: a folder is written under a temporary name,
synced, renamed; only then is the older one removed.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tailorbird import store
from tailorbird.errors import NumericError


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save_file

    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, str(path))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Copied into torch's own memory: mapped files change alignment, and with it the last bits of a sum."""
    from safetensors.torch import load_file

    return {name: tensor.clone() for name, tensor in load_file(str(path)).items()}


class Checkpoints:
    """A folder of `step-N/{state.safetensors, state.json}` and `best-N/…`; N is the number of finished steps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, kind: str, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        for name, tensor in tensors.items():
            if not bool(tensor.isfinite().all()):
                raise NumericError(f"{name} is not finite at step {step}; the checkpoint was not written")
        final = self.folder / f"{kind}-{step:08d}"
        temporary = self.folder / f".{kind}-{step:08d}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_tensors(temporary / "state.safetensors", tensors)
        digest = store.sha256_file(temporary / "state.safetensors")
        store.write_json(temporary / "state.json", {"step": step, "sha256": digest, **facts})
        if final.exists():
            shutil.rmtree(final)
        store.publish_folder(temporary, final)
        for older in self._all(kind):
            if older != final:
                shutil.rmtree(older, ignore_errors=True)

    def newest(self, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        for folder in reversed(self._all(kind)):
            state, tensors = folder / "state.json", folder / "state.safetensors"
            if not (state.is_file() and tensors.is_file()):
                continue
            facts = store.read_json(state)
            if facts.get("sha256") == store.sha256_file(tensors):
                return load_tensors(tensors), facts
        return None

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _all(self, kind: str) -> list[Path]:
        return sorted(self.folder.glob(f"{kind}-*"))
