"""Tiny random models of the two shapes, ready for our attention."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from tailorbird.bases.model import load_model
from tailorbird.engine.model import Model
from tailorbird.engine.probe import set_threads
from tailorbird.testing.tiny import Shape, make_tiny_base


@pytest.fixture(scope="session", params=["llama", "gpt2"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape: Shape = request.param
    return make_tiny_base(tmp_path_factory.mktemp(f"base-{shape}"), shape)


@pytest.fixture
def model(base: Path) -> Model:
    set_threads(1)
    return Model(load_model(base))


@pytest.fixture
def exact(base: Path) -> Model:
    """The same in double precision throughout (Llama's norm rounds to fp32 by itself), where equal means to 1e-10."""
    set_threads(1)
    network = load_model(base).to(torch.float64)
    for module in network.modules():
        if type(module).__name__ == "LlamaRMSNorm":
            module.forward = partial(_norm, module)
    return Model(network)


def _norm(module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + module.variance_epsilon)
    return module.weight * x * scale
