"""The headers of safetensors files, read without torch, numpy or the tensors: names, dtypes, shapes, byte ranges."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tailorbird.errors import ArtifactError

# Bytes of one element; types below a byte or unknown are refused: we neither train nor hash them.
WIDTHS = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
_HEADER_LIMIT = 100_000_000


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """One tensor in one file; `begin`, `end` are offsets from the start of the file, in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    begin: int
    end: int

    @property
    def elements(self) -> int:
        count = 1
        for side in self.shape:
            count *= side
        return count


def read_headers(path: Path) -> list[TensorHeader]:
    """Every tensor of one file; a torn or lying header is an ArtifactError that names the file (and tensor)."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
        if not 2 <= length <= min(size - 8, _HEADER_LIMIT):
            raise _torn(path, "its header is torn")
        try:
            header: Any = json.loads(file.read(length))
        except (ValueError, RecursionError):
            raise _torn(path, "its header is not JSON") from None
    if not isinstance(header, dict):
        raise _torn(path, "its header is not a JSON object")
    tensors = [_tensor(path, n, e, 8 + length, size) for n, e in header.items() if n != "__metadata__"]
    if sum(t.end - t.begin for t in tensors) != size - 8 - length:
        raise _torn(path, "its length is not what its header says")
    return tensors


def _tensor(path: Path, name: str, entry: Any, start: int, size: int) -> TensorHeader:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(int(s) for s in entry["shape"]), entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise _torn(path, f"the entry of tensor {name} is malformed") from None
    if dtype not in WIDTHS:
        raise ArtifactError(
            f"tensor {name} is of type {dtype}, which cannot be used here",
            where=str(path),
            remedy="use the model in float32, bfloat16 or float16, not a quantized copy",
        )
    tensor = TensorHeader(name, dtype, shape, path, start + begin, start + end)
    if min((0, *shape)) < 0 or tensor.end > size or end - begin != tensor.elements * WIDTHS[dtype]:
        raise _torn(path, f"the extent of tensor {name} does not fit its shape")
    return tensor


def weight_files(folder: Path) -> list[Path]:
    """The files transformers would load: those the index names, else `model.safetensors`, else all there are."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError):
            raise _torn(index, "it is not an index of weights") from None
        if any("/" in name or "\\" in name or name.startswith(".") for name in names):
            raise ArtifactError("the index names files outside its folder", where=str(index))
        return [folder / name for name in names]
    single = folder / "model.safetensors"
    return [single] if single.is_file() else sorted(folder.glob("*.safetensors"))


def folder_headers(folder: Path) -> Iterator[TensorHeader]:
    for path in weight_files(folder):
        if not path.is_file():
            raise ArtifactError(f"{path.name} is missing", where=str(folder), remedy="fetch or copy the base again")
        yield from read_headers(path)


def _torn(path: Path, why: str) -> ArtifactError:
    return ArtifactError(f"not a whole safetensors file: {why}", where=str(path), remedy="fetch or copy the base again")
