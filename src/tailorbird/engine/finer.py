"""A base's tensors as its files hold them, where a model of a lower type holds only their rounding.

Masters that begin on the grid of bf16 do not move the network before half a step of that grid has come together, and
training loses its first steps: on the default base, whose file is in fp32, the loss of the third step of SFT on short
rows was 3.9 from the rounding where it is 2.3 from the file's values (`benchmarks/bench_speed.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from tailorbird.bases.headers import TensorHeader, folder_headers

FINER = {torch.bfloat16: ("F16", "F32", "F64"), torch.float16: ("F32", "F64")}  # types of files, by those of models


class Finer(Mapping[str, Tensor]):
    """fp32 values by name of those of `parameters` that the files of `folder` hold in a finer type, read one at a time
    when they are asked for. `prefix`: what a model may put before the names in its files. `known` goes before files."""

    def __init__(
        self, folder: Path, parameters: Mapping[str, Tensor], prefix: str, known: Mapping[str, Tensor]
    ) -> None:
        self.known, self.parameters = dict(known), parameters
        self.files = _files(folder, (name for name in parameters if name not in known), prefix)
        finer = {name: FINER.get(parameters[name].dtype, ()) for name in self.files}
        self.headers = {name: header for name, header in self.files.items() if header.dtype in finer[name]}

    def __getitem__(self, name: str) -> Tensor:
        if name in self.known:
            return self.known[name]
        value, parameter = _read(self.headers[name], self.parameters[name]), self.parameters[name].detach()
        return value.float() if _rounds_to(value, parameter) else parameter.float()

    def __iter__(self) -> Iterator[str]:
        yield from self.known
        yield from self.headers

    def __len__(self) -> int:
        return len(self.known) + len(self.headers)


class Start(Mapping[str, Tensor]):
    """The fp32 values that a training begins with, for one that begins again; named as in `Optimizer.state`. Made of
    its Finer before the first step: what lies in the base's files is read again when it is asked for, the rest is
    `held`. What the Finer knew from elsewhere is for its source to give again, into `held`."""

    def __init__(self, finer: Finer) -> None:
        self.headers: dict[str, TensorHeader] = {}
        self.held: dict[str, Tensor] = {}
        self.parameters = {f"master/{n}": p for n, p in finer.parameters.items() if n not in finer.known}
        for name, parameter in self.parameters.items():
            header = finer.files.get(name.removeprefix("master/"))
            if header is not None and _rounds_to(_read(header, parameter), parameter):
                self.headers[name] = header
            else:
                self.held[name] = parameter.detach().float().clone()

    def __getitem__(self, name: str) -> Tensor:
        if name in self.held:
            return self.held[name]
        return _read(self.headers[name], self.parameters[name]).float()

    def __iter__(self) -> Iterator[str]:
        yield from self.held
        yield from self.headers

    def __len__(self) -> int:
        return len(self.held) + len(self.headers)


def _files(folder: Path, names: Iterable[str], prefix: str) -> dict[str, TensorHeader]:
    """Where each of the names lies, of those that are there."""
    headers = {header.name: header for header in folder_headers(folder)}
    found = {name: headers.get(name) or headers.get(name.removeprefix(f"{prefix}.")) for name in names}
    return {name: header for name, header in found.items() if header is not None}


def _read(header: TensorHeader, parameter: Tensor) -> Tensor:
    from safetensors import safe_open

    with safe_open(header.file, framework="pt") as file:
        value: Tensor = file.get_tensor(header.name).to(parameter.device)
    return value


def _rounds_to(value: Tensor, parameter: Tensor) -> bool:
    """Transformers may turn a tensor, or make it of several: then what it made is all there is."""
    return value.shape == parameter.shape and torch.equal(value.to(parameter.dtype), parameter.detach())
