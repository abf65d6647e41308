"""A customization as a plain PEFT or transformers folder, for other people's tools.

Merging adds the low-rank update to fp32 copies of the base's weights; the merged folder is kept only if its logits on
the three check rows equal the unmerged ones.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird import store
from tailorbird.artifacts.layout import TOKENIZER_FILES, read_parts, save_weights
from tailorbird.artifacts.manifest import read_manifest, verify
from tailorbird.errors import ArtifactError, SpecError

if TYPE_CHECKING:
    from tailorbird.artifacts.parts import LowRank
    from tailorbird.engine.model import Model

OURS = ("manifest.json", "scores.json")
MERGE_TOLERANCE = 1e-3


def export(folder: Path, out: Path, *, base_folder: Path, merge: bool = False) -> list[str]:
    """Copy what other tools read to `out` (which must not exist or be empty); returns the names of the files.

    Raises SpecError when there is nothing to merge, ArtifactError when the folder is not what was measured.
    """
    folder, out = Path(folder), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SpecError(f"{out} exists and is not empty", remedy="name a new folder")
    verify(folder)
    with store.disk(out):
        return _export(folder, out, base_folder=base_folder, merge=merge)


def _export(folder: Path, out: Path, *, base_folder: Path, merge: bool) -> list[str]:
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        if merge:
            _merged(folder, temporary, base_folder)
        else:
            for file in sorted(folder.iterdir()):
                if file.is_file() and file.name not in OURS:
                    shutil.copyfile(file, temporary / file.name)
        names = sorted(p.name for p in temporary.iterdir())
        if out.exists():
            out.rmdir()
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return names


def _merged(folder: Path, out: Path, base_folder: Path) -> None:
    from tailorbird.bases.model import load_model
    from tailorbird.engine import low_rank
    from tailorbird.engine.model import Model

    parts = read_parts(folder)
    if parts.low_rank is None:
        raise SpecError(
            f"{read_manifest(folder).technique} has no low-rank weights to merge",
            remedy="export it without --merge; only lora is merged",
        )
    model = Model(load_model(base_folder))
    restore = low_rank.wrap(model.network, parts.low_rank.tensors, parts.low_rank.scale)
    before = _logits(folder, model)
    restore()
    _add(model.network, parts.low_rank)
    _same(before, _logits(folder, model), folder)
    save_weights(out, dict(model.network.named_parameters()), base_folder)
    for name in (*TOKENIZER_FILES, "prompt.json", "README.md"):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)


def _add(network: object, update: LowRank) -> None:
    import torch
    from torch import nn

    assert isinstance(network, nn.Module)
    with torch.no_grad():
        for name, (a, b) in update.tensors.items():
            layer = network.get_submodule(name)
            assert isinstance(layer.weight, torch.Tensor)
            change = (b @ a) * update.scale  # (out, in)
            layer.weight += change if isinstance(layer, nn.Linear) else change.t()


def _logits(folder: Path, model: Model) -> list[dict[int, float]]:
    """The largest logits (by token id) after each check row's prompt."""
    from tailorbird.engine.scoring import top_logits

    return [dict(zip(*top_logits(model, row.ids), strict=True)) for row in read_manifest(folder).check_rows]


def _same(before: list[dict[int, float]], after: list[dict[int, float]], folder: Path) -> None:
    for old, new in zip(before, after, strict=True):
        shared = old.keys() & new.keys()
        worst = max((abs(old[i] - new[i]) for i in shared), default=float("inf"))
        if len(shared) < len(old) - 2 or not worst <= MERGE_TOLERANCE:
            raise ArtifactError(
                f"merging changes logits by {worst:.2g}", where=str(folder), remedy="export it unmerged"
            )
