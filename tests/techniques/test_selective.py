"""selective: which parameters learn, that the others do not, and what is refused with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tailorbird.artifacts.layout import read_parts
from tailorbird.bases.facts import base_facts
from tailorbird.bases.model import load_model
from tailorbird.engine.model import Model
from tailorbird.errors import SpecError
from tailorbird.techniques.selective import Selective, SelectiveSettings
from tailorbird.testing import make_tiny_base, technique_contract
from tailorbird.testing.cases import TRAINING

from .making import make

ONE = {"learning_rate": 0.01, "epochs": 1, "batch_rows": 4}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {shape: make_tiny_base(tmp_path_factory.mktemp(shape), shape) for shape in ("llama", "gpt2")}


def chosen(base: Path, **asked: object) -> set[str]:
    model = Model(load_model(base))
    trainable = Selective().trainable(model, SelectiveSettings.model_validate({**ONE, **asked}), torch.Generator())
    learning = {name for name, p in model.network.named_parameters() if p.requires_grad}
    assert learning == trainable.parameters.keys()
    return learning


def test_biases_are_all_bias_terms(bases: dict[str, Path]) -> None:
    """Two blocks of four linear layers and two norms, and the last norm: 2 * 6 + 1."""
    names = chosen(bases["gpt2"], update="biases")
    assert len(names) == 13
    assert all(name.endswith(".bias") for name in names)


def test_norms_are_the_normalization_layers(bases: dict[str, Path]) -> None:
    assert chosen(bases["llama"], update="norms") == {
        "model.norm.weight",
        *(
            f"model.layers.{n}.{norm}.weight"
            for n in (0, 1)
            for norm in ("input_layernorm", "post_attention_layernorm")
        ),
    }
    assert len(chosen(bases["gpt2"], update="norms")) == 10  # weight and bias of five


def test_the_last_layers_are_whole_blocks_from_the_end(bases: dict[str, Path]) -> None:
    for shape, block in (("llama", "model.layers."), ("gpt2", "transformer.h.")):
        last, both = chosen(bases[shape]), chosen(bases[shape], layers=2)
        assert {name.removeprefix(block)[:2] for name in last} == {"1."}
        assert {name.removeprefix(block)[:2] for name in both} == {"0.", "1."}
        assert last < both


@pytest.mark.parametrize("update", ["biases", "norms"])
def test_weight_decay_is_neither_taken_nor_searched_where_only_vectors_learn(
    bases: dict[str, Path], update: str
) -> None:
    with pytest.raises(ValueError, match=f"weight_decay is for matrices, and {update} are vectors"):
        SelectiveSettings.model_validate({**ONE, "update": update, "weight_decay": 0.1})
    base = base_facts(bases["gpt2"])
    assert "weight_decay" not in Selective().search_space(base, 100, {"update": update})
    assert "weight_decay" in Selective().search_space(base, 100)


def test_a_base_without_biases_is_refused_with_the_reason(bases: dict[str, Path]) -> None:
    with pytest.raises(SpecError, match=r"LlamaForCausalLM\) has no biases to update\n  → set update: norms"):
        chosen(bases["llama"], update="biases")
    with pytest.raises(SpecError, match="has 2 blocks, the last 3 are asked for"):
        chosen(bases["llama"], layers=3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("shape", "update"), [("llama", "norms"), ("gpt2", "biases"), ("llama", "last_layers")])
def test_only_what_is_chosen_is_stored_and_reopened_to_the_last_bit(
    bases: dict[str, Path], tmp_path: Path, shape: str, update: str, dtype: str
) -> None:
    from tailorbird.answerers.opening import open_customization

    folder = make(tmp_path / "made", "selective", bases[shape], dtype=dtype, update=update)
    delta = read_parts(folder).delta
    assert delta is not None
    assert delta.keys() == chosen(bases[shape], update=update)
    answerer = open_customization(folder, bases[shape])  # compares the check rows
    with answerer.attached() as model:
        own = dict(model.network.named_parameters())
        assert all(torch.equal(own[name], value.to(own[name].dtype)) for name, value in delta.items())
    base = dict(load_model(bases[shape], dtype=dtype).named_parameters())
    assert all(torch.equal(base[name], parameter) for name, parameter in answerer.model.network.named_parameters())


def test_the_contract_holds_on_gpt2(bases: dict[str, Path], tmp_path: Path) -> None:
    technique_contract(
        Selective(),
        tmp_path,
        base=make_tiny_base(tmp_path / "base", "gpt2", hidden=64),
        overfit={"learning_rate": 0.01, "epochs": 150, "batch_rows": 8, "layers": 2},
        changed={**TRAINING, "update": "biases", "layers": 2},
    )
