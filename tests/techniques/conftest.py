"""Bases of each shape that techniques are tried on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailorbird.testing import make_tiny_base
from tailorbird.testing.tiny import Shape

SHAPES: tuple[Shape, ...] = ("llama", "gpt2", "qwen")  # Llama and Qwen with two keys for four queries


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {shape: make_tiny_base(tmp_path_factory.mktemp(shape), shape) for shape in SHAPES}
