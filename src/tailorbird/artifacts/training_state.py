"""What a customization keeps for a training that goes on where its own ended (`after:`): never opened for answering.

It lies beside the parts, in a folder of its own, hashed in the manifest like all else:

    state.json               schema, epochs met, and the names and shapes of all tensors
    optimizer.safetensors    step/NAME, exp_avg/NAME, exp_avg_sq/NAME of every trained tensor, where that is kept
    encoder.safetensors      trained tensors that are in no part, by name (p-tuning's encoder)

The values themselves are those of the best point, which the parts hold; so are the moments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailorbird import store
from tailorbird.artifacts.layout import read_tensors, write_tensors
from tailorbird.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = 1
STATE, OPTIMIZER, ENCODER = "state.json", "optimizer.safetensors", "encoder.safetensors"


@dataclass(frozen=True)
class TrainingState:
    """`epochs`: met so far, those of the training that this one went on with included. `moments`: the optimizer's
    state; empty where it is not kept. `tensors`: trained ones that are in no part.
    """

    epochs: int
    moments: Mapping[str, Tensor]
    tensors: Mapping[str, Tensor]


def write_state(folder: Path, state: TrainingState) -> None:
    """Write `state` into `folder`, which does not exist."""
    folder.mkdir()
    files = {OPTIMIZER: state.moments, ENCODER: state.tensors}
    shapes = {file: {name: list(t.shape) for name, t in held.items()} for file, held in files.items() if held}
    for file in shapes:
        write_tensors(folder / file, files[file])
    store.write_json(folder / STATE, {"schema": SCHEMA, "epochs": state.epochs, "tensors": shapes})


def read_state(folder: Path) -> TrainingState | None:
    """None where nothing is kept. ArtifactError names the file that is missing, or not what was written."""
    if not folder.is_dir():
        return None
    path = folder / STATE
    if not path.is_file():
        raise ArtifactError(f"{STATE} is missing", where=str(folder), remedy="copy the whole folder again")
    value = store.read_json(path)
    version = value.get("schema") if isinstance(value, dict) else None
    if version != SCHEMA:
        raise ArtifactError(
            f"schema {version!r} is not the one this version reads ({SCHEMA})",
            where=str(path),
            remedy="go on with the tailorbird version that wrote it, or run its spec again",
        )
    epochs, shapes = value.get("epochs"), value.get("tensors")
    if (
        type(epochs) is not int
        or epochs < 0
        or not isinstance(shapes, dict)
        or not shapes.keys() <= {OPTIMIZER, ENCODER}
    ):
        raise ArtifactError("it does not say how many epochs were met, or which tensors are kept", where=str(path))
    held = {file: _read(folder / file, shapes[file]) for file in shapes}
    return TrainingState(epochs, held.get(OPTIMIZER, {}), held.get(ENCODER, {}))


def _read(path: Path, shapes: Any) -> dict[str, Tensor]:
    if not path.is_file():
        raise ArtifactError(f"{path.name} is missing", where=str(path.parent), remedy="copy the whole folder again")
    tensors = read_tensors(path)
    found = {name: list(tensor.shape) for name, tensor in tensors.items()}
    if found != shapes:
        expected = shapes if isinstance(shapes, dict) else {}
        name = min(n for n in found.keys() | expected.keys() if found.get(n) != expected.get(n))
        raise ArtifactError(
            f"{name} has shape {found.get(name, 'none: it is missing')}, {STATE} says {expected.get(name, 'nothing')}",
            where=str(path),
        )
    return tensors


def fitting_moments(state: TrainingState, parameters: Mapping[str, Tensor], where: str) -> Mapping[str, Tensor]:
    """The kept moments, if they are those of `parameters` (or none); ArtifactError names the one that is not."""
    wanted = {f"{part}/{name}": p.shape for name, p in parameters.items() for part in ("exp_avg", "exp_avg_sq")}
    wanted |= {f"step/{name}": p.new_empty(()).shape for name, p in parameters.items()}
    found = {name: tensor.shape for name, tensor in state.moments.items()}
    if found and found != wanted:
        name = min(n for n in found.keys() | wanted.keys() if found.get(n) != wanted.get(n))
        raise ArtifactError(
            f"{name} is {_shape(found.get(name))} there, and {_shape(wanted.get(name))} in what is trained",
            where=where,
            remedy="start from the customization that was written with this state",
        )
    return state.moments


def _shape(shape: Any) -> str:
    return "missing" if shape is None else str(list(shape))
