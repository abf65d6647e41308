"""Where our layers stand in for transformers' own, and where they do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tailorbird.bases.model import load_model
from tailorbird.engine import low_rank
from tailorbird.engine.batches import RowSource
from tailorbird.engine.kernels import blocks, cross_entropy, layers
from tailorbird.engine.model import Model
from tailorbird.engine.probe import set_threads
from tailorbird.engine.segments import pack
from tailorbird.engine.train import token_loss
from tailorbird.testing.tiny import make_tiny_base

from ..test_packing import encoded


def network(kind: str) -> Any:
    import transformers

    sizes = {
        "vocab_size": 300, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.2,
    }  # fmt: skip
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**sizes)
    return getattr(transformers, f"{kind}ForCausalLM")(config).eval()


@pytest.fixture
def llama(tmp_path: Path) -> Model:
    set_threads(1)
    return Model(load_model(make_tiny_base(tmp_path / "base", "llama")))


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the blocks that were computed."""
    names: list[str] = []
    for block in (blocks.Attention, blocks.Mlp):
        own = block.apply

        def noted(*args: Any, own: Any = own, name: str = block.__name__) -> Any:
            names.append(name)
            return own(*args)

        monkeypatch.setattr(block, "apply", noted)
    return names


def a_batch() -> Any:
    return RowSource(encoded(), batch_rows=8, micro_batch_tokens=10_000, seed=0).next(0)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["Llama", "Qwen2", "Mistral"])
def test_layers_of_these_kinds_are_computed_by_the_blocks(kind: str, dtype: torch.dtype, applied: list[str]) -> None:
    model = Model(network(kind).to(dtype))
    assert all(parameter.dtype == dtype for parameter in model.network.parameters())
    assert [each.believed for each in model.kernels] == [True, True]
    assert max(each.difference for each in model.kernels if each.difference is not None) < 1e-5
    applied.clear()
    model.forward(a_batch().packed)
    assert applied == ["Attention", "Mlp"] * 2


@pytest.mark.parametrize("kind", ["Qwen3", "Gemma2"])
def test_layers_with_more_in_them_are_not_recognized(kind: str) -> None:
    assert layers.install(network(kind)) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_that_computes_something_else_is_not_believed(dtype: torch.dtype) -> None:
    """Granite's has Llama's children and scales what it adds: same structure, other formula. A thousandth is seen."""
    made = network("Granite").to(dtype)
    for layer in made.model.layers:
        layer.residual_multiplier = 0.999
    model = Model(made, verify=False)
    assert len(model.kernels) == 2
    assert [each.believed for each in model.kernels] == [False, False]
    assert len(model.doubted) == 2


def test_gradients_are_those_of_transformers_own_layers(llama: Model) -> None:
    """fp64 but for Llama's norm, which rounds to fp32 by itself."""
    llama.network.double()
    for parameter in llama.network.parameters():
        parameter.requires_grad_(True)
    found = []
    for ours in (True, False):
        for each in llama.kernels:
            each.believed = ours
        loss = token_loss(llama, a_batch())
        loss.backward()
        found.append({name: p.grad.to_dense() for name, p in llama.network.named_parameters()})
        llama.network.zero_grad()
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        scale = float(found[1][name].abs().max())
        assert scale > 1e-4
        assert float((gradient - found[1][name]).abs().max()) < 1e-5 * scale, name


def test_what_stands_in_a_layer_and_is_not_known_is_computed_by_its_own_forward(
    llama: Model, applied: list[str]
) -> None:
    batch = a_batch().packed

    def taken() -> int:
        applied.clear()
        llama.forward(batch)
        return len(applied)

    class Doubled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    assert taken() == 4
    attention = llama.layers[0].get_submodule("self_attn")
    handle = attention.get_submodule("q_proj").register_forward_hook(lambda *_: None)
    assert taken() == 2
    handle.remove()
    own = attention.q_proj
    attention.q_proj = Doubled(own.in_features, own.out_features, bias=False)
    assert taken() == 2
    attention.q_proj = own
    assert taken() == 4


def test_dropout_goes_through_the_layers_own_forward_and_only_dropout(llama: Model, applied: list[str]) -> None:
    layer = llama.network.get_submodule("model.layers.0.mlp.up_proj")
    a, b = low_rank.initial(layer, 2, torch.Generator().manual_seed(0))
    low_rank.wrap(llama.network, {"model.layers.0.mlp.up_proj": (a, b)}, 1.0)
    llama.drop_out(0.5)
    source = RowSource(encoded(), batch_rows=8, micro_batch_tokens=10_000, seed=0, dropout=True)
    applied.clear()
    llama.forward(source.next(0)[0].packed)
    assert applied == ["Attention", "Mlp"]  # of the layer without an update
    applied.clear()
    llama.forward(source.everything()[0].packed)
    assert applied == ["Attention", "Mlp"] * 2


def test_a_cached_head_and_a_tree_of_labels_are_not_taken_for_packed_rows(llama: Model, applied: list[str]) -> None:
    cached = llama.cache_head([3, 4, 5])
    batch = pack([[6, 7], [8]], cached=cached)
    assert not batch.segments.plain
    applied.clear()
    llama.forward(batch)
    assert applied == []
    batch = pack([[6, 7], [8]], head=[3, 4])
    batch.segments.mask[0, 1] = False
    assert not batch.segments.plain


@pytest.mark.parametrize("ours", [True, False])
def test_the_wanted_places_are_those_of_all_places(llama: Model, ours: bool) -> None:
    for each in llama.kernels:
        each.believed = ours
    batch = a_batch()
    everything = llama.forward(batch.packed)
    assert len(batch.places) < len(everything)
    torch.testing.assert_close(llama.forward(batch.packed, batch.places), everything[batch.places])


def test_a_loss_that_is_only_looked_at_has_no_gradient_computed(llama: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    own = cross_entropy._losses

    def noted(*args: Any) -> torch.Tensor:
        asked.append(args[-1])
        return own(*args)

    monkeypatch.setattr(cross_entropy, "_losses", noted)
    llama.network.requires_grad_(True)
    learned = token_loss(llama, a_batch())
    with torch.no_grad():
        looked_at = token_loss(llama, a_batch())
    assert asked == [True, False]
    torch.testing.assert_close(learned.detach(), looked_at)
