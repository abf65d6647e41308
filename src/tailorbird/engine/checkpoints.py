"""Checkpoints: safetensors and JSON, published whole, verified before use; the newest valid one counts.

A kill at any instant leaves either the old checkpoint or the new one: a folder is written under a temporary name,
synced, renamed; only then is the older one removed.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tailorbird import store
from tailorbird.errors import ArtifactError, NumericError

STATE = "state.safetensors"


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save_file

    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        store.fault("tensors")
        save_file(held, str(path))
    except Exception as error:  # safetensors wraps what the disk says in an error of its own
        if not store.disk_full(error):
            raise
        with store.disk(path):
            raise OSError(errno.ENOSPC, "No space left on device") from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Copied into torch's own memory: mapped files change alignment, and with it the last bits of a sum."""
    from safetensors.torch import load_file

    return {name: tensor.clone() for name, tensor in load_file(str(path)).items()}


class Checkpoints:
    """A folder of `step-N/{state.safetensors, state.json}`, `stop-N/…` and `best-N/…`; N is the number of finished
    steps. `say` is told of each that is damaged: what it stood for is trained again."""

    def __init__(self, folder: Path, say: Callable[[str], None] = lambda text: None) -> None:
        self.folder, self.say = folder, say
        self._told: set[str] = set()
        with store.disk(folder):
            folder.mkdir(parents=True, exist_ok=True)
        store.sweep(folder)

    def save(
        self,
        kind: str,
        step: int,
        tensors: Mapping[str, Tensor],
        facts: Mapping[str, Any],
        *,
        keep: Collection[int | None] = (),
    ) -> None:
        """Publish the newest of its kind, then remove the others but those of the steps `keep`."""
        for name, tensor in tensors.items():
            if not bool(tensor.isfinite().all()):
                raise NumericError(f"{name} is not finite at step {step}; the checkpoint was not written")
        final = self._folder(kind, step)
        temporary = final.with_name(f".{final.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            with store.disk(temporary):
                temporary.mkdir(parents=True)
            save_tensors(temporary / STATE, tensors)
            told = {"step": step, **facts}
            digest = store.sha256_json([store.sha256_file(temporary / STATE), told])
            store.write_json(temporary / "state.json", {**told, "sha256": digest})
            store.publish_folder(temporary, final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)  # its room may be what the disk lacks
            raise
        store.fault("prune")
        kept = {final, *(self._folder(kind, number) for number in keep if number is not None)}
        for older in self._all(kind):
            if older not in kept:
                shutil.rmtree(older, ignore_errors=True)

    def newest(self, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The newest that is whole."""
        for folder in reversed(self._all(kind)):
            if (found := self._read(folder)) is not None:
                return found
        return None

    def at(self, kind: str, step: int) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        return self._read(self._folder(kind, step))

    def remove(self, kind: str) -> None:
        for folder in self._all(kind):
            shutil.rmtree(folder, ignore_errors=True)

    def whole(self, kind: str, step: int) -> bool:
        return self._facts(self._folder(kind, step)) is not None

    def _read(self, folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        facts = self._facts(folder)
        return None if facts is None else (load_tensors(folder / STATE), facts)

    def _facts(self, folder: Path) -> dict[str, Any] | None:
        """What a checkpoint says beside its tensors; None where there is none, or where any of it was changed."""
        if not folder.is_dir():
            return None
        try:
            facts = store.read_json(folder / "state.json")
            told = {name: value for name, value in facts.items() if name != "sha256"}
            if facts["sha256"] == store.sha256_json([store.sha256_file(folder / STATE), told]):
                return told
        except (ArtifactError, OSError, AttributeError, KeyError, TypeError):
            pass  # torn, or not what was written
        if folder.name not in self._told:
            self._told.add(folder.name)
            self.say(f"the checkpoint {folder.name} is damaged: what it held is trained again")
        return None

    def _folder(self, kind: str, step: int) -> Path:
        return self.folder / f"{kind}-{step:08d}"

    def _all(self, kind: str) -> list[Path]:
        return sorted(self.folder.glob(f"{kind}-*"))
