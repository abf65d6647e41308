"""Weights loaded strictly: what the library would draw at random, drop or run is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tailorbird.bases import catalog
from tailorbird.bases.model import load_model
from tailorbird.bases.renderer import Renderer
from tailorbird.errors import ArtifactError, SafetyError
from tailorbird.types import Message, Role

from .conftest import tiny_config, tiny_weights


def save(folder: Path, weights: dict[str, Any]) -> None:
    from safetensors.numpy import save_file

    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})


def test_the_weights_are_those_of_the_file_tied_frozen_and_ours(make_base: Any) -> None:
    import torch

    folder = make_base()
    model = load_model(folder)
    expected = tiny_weights(tiny_config(259))
    state = model.state_dict()
    assert all(np.array_equal(state[n].numpy(), w) for n, w in expected.items())
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    (folder / "model.safetensors").unlink()  # nothing is mapped any more
    with torch.inference_mode():
        assert torch.isfinite(model(torch.tensor([[1, 2, 3]])).logits).all()


def test_bfloat16_is_asked_for_by_name(make_base: Any) -> None:
    import torch

    assert load_model(make_base(), "bfloat16").dtype == torch.bfloat16
    with pytest.raises(ValueError, match="dtype 'int8' is not one of float32, bfloat16, float16"):
        load_model(make_base(), "int8")


def broken(folder: Path, change: str) -> None:
    weights = tiny_weights(tiny_config(259))
    name = "model.layers.1.mlp.up_proj.weight"
    if change == "missing":
        del weights[name]
    elif change == "too many":
        weights["model.layers.1.mlp.extra.weight"] = weights[name]
    elif change == "renamed":
        weights["model.layers.1.mlp.up.weight"] = weights.pop(name)
    elif change == "shape":
        weights[name] = np.ascontiguousarray(weights[name][:40])
    elif change == "nan":
        weights[name][3, 4] = np.nan
    save(folder, weights)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("missing", r"the weights lack model\.layers\.1\.mlp\.up_proj\.weight: it would be drawn at random"),
        ("too many", r"the weights hold model\.layers\.1\.mlp\.extra\.weight"),
        ("renamed", r"the weights lack model\.layers\.1\.mlp\.up_proj\.weight"),
        ("shape", r"model\.layers\.1\.mlp\.up_proj\.weight"),
        ("nan", r"tensor model\.layers\.1\.mlp\.up_proj\.weight holds values that are not finite"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(make_base: Any, change: str, said: str) -> None:
    folder = make_base()
    broken(folder, change)
    with pytest.raises(ArtifactError, match=said):
        load_model(folder)


def test_an_architecture_that_is_not_known_is_an_error_a_person_can_read(make_base: Any) -> None:
    folder = make_base(model_type="unheard_of", architectures=["UnheardOf"])
    with pytest.raises(ArtifactError, match="transformers cannot load this base"):
        load_model(folder)


def test_a_pickle_beside_the_weights_is_not_opened(make_base: Any, tmp_path: Path) -> None:
    import pickle

    class Canary:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "canary",))

    folder = make_base()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Canary()))
    load_model(folder)
    (folder / "model.safetensors").write_bytes(pickle.dumps(Canary()))
    with pytest.raises(ArtifactError):
        load_model(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(SafetyError):
        load_model(folder)
    assert not (tmp_path / "canary").exists()


def test_loading_says_nothing_and_asks_no_network(make_base: Any) -> None:
    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('network')\n"
        "socket.socket.connect = refuse; socket.getaddrinfo = refuse\n"
        "from tailorbird.bases.model import load_model\n"
        "load_model(sys.argv[1])"
    )
    out = subprocess.run([sys.executable, "-c", code, str(make_base())], capture_output=True, text=True, check=False)
    assert (out.returncode, out.stdout, out.stderr) == (0, "", "")


def test_the_public_tiny_base_loads(public_data: Path) -> None:
    folder = public_data / "base-model-stories260k"
    model = load_model(catalog.resolve(str(folder)))
    assert sum(p.numel() for p in model.parameters()) == 260_032


@pytest.mark.real_base
def test_the_real_base_knows_the_capital_of_france(real_base: Path) -> None:
    import torch

    renderer, model = Renderer.from_folder(real_base), load_model(real_base)
    prompt = renderer.prompt([Message(Role.USER, "What is the capital of France?")])
    with torch.inference_mode():
        out = model.generate(torch.tensor([prompt]), max_new_tokens=16, do_sample=False, eos_token_id=renderer.end_ids)
    answer = out[0, len(prompt) :].tolist()
    assert renderer.decode(answer) == "The capital of France is Paris."
    assert answer == renderer.answer("The capital of France is Paris.")


@pytest.mark.real_base
def test_the_real_base_is_the_known_one(real_base: Path) -> None:
    from tailorbird.bases.facts import base_facts

    facts, known = base_facts(real_base), catalog.KNOWN["smollm2-135m"]
    assert facts.fingerprint == known.fingerprint
    assert (facts.parameters, facts.context, facts.licence) == (known.parameters, known.context, "Apache-2.0")
    config = json.loads((real_base / "config.json").read_text(encoding="utf-8"))
    assert config["rms_norm_eps"] == 1e-5
    card = (real_base / "README.md").read_text(encoding="utf-8")
    assert "a third party's copy, dequantized from 4 bits" in card
    assert "Apache License" in (real_base / "LICENSE").read_text(encoding="utf-8")
