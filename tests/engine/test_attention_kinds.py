"""Attention of other kinds than ours (windows, soft caps, sinks): right where that is the same, else refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from tailorbird.bases.facts import window
from tailorbird.engine.model import Model
from tailorbird.engine.segments import pack
from tailorbird.errors import ResourceError
from tailorbird.types import BaseFacts

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": None,
}
WINDOWED = {
    "mistral": {"sliding_window": 16},
    "qwen2": {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
    "phi3": {"sliding_window": 16},
    "gemma3_text": {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]},
}


def network(kind: str, **settings: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(SIZES | settings)))


def base_of(**facts: Any) -> BaseFacts:
    return cast("BaseFacts", SimpleNamespace(folder="/bases/one", **facts))


def logits(model: Model, row: list[int], *, head: int) -> torch.Tensor:
    """(vocabulary,) at the row's end, the row cut in a shared head and the rest."""
    batch = pack([row[head:], row[head : head + 1]], head=row[:head])
    with torch.no_grad():
        return model.logits(model.forward(batch)[batch.ends[0]].unsqueeze(0))[0]


@pytest.mark.parametrize("kind", WINDOWED)
def test_a_row_within_the_window_is_right_and_a_longer_one_is_refused(kind: str) -> None:
    plain = network(kind, **WINDOWED[kind])
    plain.set_attn_implementation("eager")
    row = [7 * i % 60 + 3 for i in range(17)]
    with torch.no_grad():
        expected = plain(input_ids=torch.tensor([row[:16]])).logits[0, -1]

    model = Model(plain)
    assert model.window == 16
    torch.testing.assert_close(logits(model, row[:16], head=5), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ResourceError, match="a row of 17 tokens is longer than the sliding window of 16 tokens"):
        logits(model, row, head=5)


def test_tokens_of_a_prefix_count_in_the_window() -> None:
    model = Model(network("mistral", sliding_window=16))
    model.kv = torch.zeros(model.kv_shape(4))
    batch = pack([list(range(3, 16))], pairs=4)  # 13 tokens and 4 pairs
    with pytest.raises(ResourceError, match="a row of 17 tokens"):
        model.forward(batch)


def test_a_window_that_only_the_class_knows_is_refused_before_any_row() -> None:
    """MistralConfig has one of 4096 where config.json says nothing."""
    model, base = Model(network("mistral", max_position_embeddings=8192)), base_of(context=8192)
    assert model.window == 4096
    told = '(?s)see a window of 4096 tokens.*"sliding_window": 4096 into its config.json'
    with pytest.raises(ResourceError, match=told):
        model.check_context(base)
    model.check_context(base_of(context=4096))


@pytest.mark.parametrize(
    ("kind", "settings", "asked"),
    [
        ("gemma2", {"attn_logit_softcapping": 50.0, "final_logit_softcapping": None}, "softcap"),
        ("gpt_oss", {"num_local_experts": 2, "num_experts_per_tok": 1}, "s_aux"),
    ],
)
def test_what_attention_is_asked_for_and_does_not_compute_is_refused(
    kind: str, settings: dict[str, Any], asked: str
) -> None:
    with pytest.raises(ResourceError, match=f"asks for what is not computed here: {asked}"):
        Model(network(kind, **settings))


def test_soft_capped_logits_are_refused() -> None:
    with pytest.raises(ResourceError, match="soft-capped"):
        Model(network("gemma3_text", final_logit_softcapping=30.0))


def test_the_self_test_compares_with_transformers_own_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window that neither the config names nor the layers hand on is in transformers' masks alone."""
    made = network("mistral", sliding_window=16)
    monkeypatch.setattr("tailorbird.engine.model.window", lambda config: None)
    monkeypatch.setattr(Model, "_window", lambda self: None)
    with pytest.raises(ResourceError, match="packed rows differ from single rows"):
        Model(made)


def test_a_window_is_read_where_layers_use_one() -> None:
    assert window({"sliding_window": 32}) == 32
    assert window({"sliding_window": None}) is None
    assert window({"sliding_window": 32, "use_sliding_window": False}) is None
    assert window({"sliding_window": 32, "layer_types": ["full_attention"] * 2}) is None
    assert window({"sliding_window": 32, "layer_types": ["full_attention", "sliding_attention"]}) == 32
    assert window({"attention_chunk_size": 8, "layer_types": ["chunked_attention"]}) == 8
    assert window({"use_sliding_window": True, "sliding_window": 32, "attention_chunk_size": 8}) == 8
    assert window({}) is None
