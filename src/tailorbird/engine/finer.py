"""A base's tensors as its files hold them, where a model of a lower type holds only their rounding.

Masters that begin on the grid of bf16 do not move the network before half a step of that grid has come together, and
training loses its first steps: on the default base, whose file is in fp32, the loss of the third step of SFT on short
rows was 3.9 from the rounding where it is 2.3 from the file's values (`benchmarks/bench_speed.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
        headers = {header.name: header for header in folder_headers(folder)}
        self.known, self.parameters, self.headers = dict(known), parameters, dict[str, TensorHeader]()
        for name, parameter in parameters.items():
            header = headers.get(name) or headers.get(name.removeprefix(f"{prefix}."))
            if name not in known and header is not None and header.dtype in FINER.get(parameter.dtype, ()):
                self.headers[name] = header

    def __getitem__(self, name: str) -> Tensor:
        if name in self.known:
            return self.known[name]
        from safetensors import safe_open

        header, parameter = self.headers[name], self.parameters[name].detach()
        with safe_open(header.file, framework="pt") as file:
            value: Tensor = file.get_tensor(header.name).to(parameter.device)
        # transformers may turn a tensor, or make it of several: then the rounding is all there is.
        same = value.shape == parameter.shape and torch.equal(value.to(parameter.dtype), parameter)
        return value.float() if same else parameter.float()

    def __iter__(self) -> Iterator[str]:
        yield from self.known
        yield from self.headers

    def __len__(self) -> int:
        return len(self.known) + len(self.headers)
