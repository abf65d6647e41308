"""In bf16 what is trained of the base begins from the values of its files, not from their rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tailorbird.artifacts.layout import read_parts
from tailorbird.bases.model import load_model
from tailorbird.engine.finer import Finer

from . import making

STILL: dict[str, Any] = {"learning_rate": 1e-30, "epochs": 1, "batch_rows": 8, "warmup_share": 0.0}


def still(written: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Equal, but for what zeros can move at this rate."""
    return torch.allclose(written, wanted, rtol=0.0, atol=1e-29)


@pytest.mark.parametrize("shape", ["llama", "gpt2", "qwen"])
def test_sft_that_does_not_move_writes_the_files_own_values(bases: dict[str, Path], tmp_path: Path, shape: str) -> None:
    folder = making.make(tmp_path / "made", "sft", bases[shape], dtype="bfloat16", **STILL)
    written = load_file(str(next(folder.rglob("model.safetensors"))))
    wanted = dict(load_model(bases[shape]).named_parameters())
    assert any(not torch.equal(value, value.bfloat16().float()) for value in wanted.values())
    assert written.keys() == wanted.keys()
    assert all(still(written[name], wanted[name]) for name in wanted)


def test_so_does_a_part_of_the_base(bases: dict[str, Path], tmp_path: Path) -> None:
    folder = making.make(tmp_path / "made", "selective", bases["llama"], dtype="bfloat16", **STILL)
    delta, wanted = read_parts(folder).delta, dict(load_model(bases["llama"]).named_parameters())
    assert delta
    assert all(still(value, wanted[name]) for name, value in delta.items())


def test_only_finer_tensors_of_the_same_values_are_taken(bases: dict[str, Path]) -> None:
    network = load_model(bases["llama"], dtype="bfloat16")
    exact = dict(load_model(bases["llama"]).named_parameters())
    names = list(exact)[:3]
    parameters = {name: parameter for name, parameter in network.named_parameters() if name in names}
    with torch.no_grad():
        parameters[names[0]].zero_()  # as where transformers makes something else of what the file holds
    found = Finer(bases["llama"], {**parameters, "prompt": torch.zeros(2)}, "model", {names[2]: torch.ones(1)})
    assert sorted(found) == sorted(names)
    assert torch.equal(found[names[0]], torch.zeros_like(exact[names[0]]))
    assert torch.equal(found[names[1]], exact[names[1]])
    assert torch.equal(found[names[2]], torch.ones(1))
    assert found[names[1]].dtype == torch.float32
    assert list(Finer(bases["llama"], exact, "model", {})) == []  # fp32 itself


@pytest.mark.parametrize(
    ("technique", "dtype", "after"),
    [
        ("sft", "bfloat16", None),
        ("sft", "float32", None),
        ("selective", "bfloat16", None),
        ("selective", "bfloat16", "selective"),
        ("lora", "bfloat16", None),
    ],
)
def test_what_begins_again_has_its_first_values_and_no_second_network(
    bases: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    technique: str,
    dtype: str,
    after: str | None,
) -> None:
    """As if the lower rate had been that of the first step."""
    from tailorbird.bases import model
    from tailorbird.engine.standing import RATE_AFTER, Standing

    keeping = {"keep_optimizer": True} if after else {}
    parent = making.make(tmp_path / "parent", after, bases["gpt2"], dtype=dtype, **keeping) if after else None
    loaded: list[Path] = []
    plain = model.load_model
    monkeypatch.setattr(model, "load_model", lambda folder, **named: loaded.append(folder) or plain(folder, **named))

    def trained(name: str) -> dict[str, torch.Tensor]:
        asked = {"epochs": 3, "schedule": "constant", "warmup_share": 0.0, **keeping}
        made = making.make(tmp_path / name, technique, bases["gpt2"], parent, dtype=dtype, **asked)
        return {str(f.relative_to(made)): load_file(f) for f in made.rglob("*.safetensors")}  # type: ignore[misc]

    with monkeypatch.context() as patched:
        patched.setattr(Standing, "rate_factor", RATE_AFTER)
        expected = trained("steady")
    whole = len(loaded)
    monkeypatch.setattr(Standing, "exploded", property(lambda run: run.step == 3 and not run.rolled_back))
    found = trained("again")
    assert len(loaded) == 2 * whole
    assert found.keys() == expected.keys()
    for name, tensors in expected.items():
        assert all(torch.equal(found[name][key], value) for key, value in tensors.items())
