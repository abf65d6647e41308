"""Rows made by hand, and files made of bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tailorbird.data import Dataset, read
from tailorbird.types import Row

from .rows import make_row, sentence


@pytest.fixture
def row() -> Callable[..., Row]:
    return make_row


@pytest.fixture
def good_lines() -> Callable[[int], list[bytes]]:
    """JSON lines of good prompt/completion rows."""

    def lines(count: int) -> list[bytes]:
        return [json.dumps({"prompt": sentence(i), "completion": f"answer {i}"}).encode() for i in range(count)]

    return lines


@pytest.fixture
def read_bytes(tmp_path: Path) -> Callable[..., Dataset]:
    """Writes a file and reads it; everything may be bad unless said otherwise."""

    def read_it(name: str, content: bytes, **options: Any) -> Dataset:
        (tmp_path / name).write_bytes(content)
        return read([name], root=tmp_path, **{"max_bad_share": 1.0, **options})

    return read_it
