"""Small bases made here: a byte-level tokenizer with a few merges, tiny Llama weights, any chat template."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here may read or fill the user's cache (the real base is found through TAILORBIRD_REAL_HOME)."""
    if "TAILORBIRD_REAL_HOME" not in os.environ:
        monkeypatch.setenv("TAILORBIRD_REAL_HOME", os.environ.get("TAILORBIRD_HOME", ""))
    monkeypatch.setenv("TAILORBIRD_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture
def real_base(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of smollm2-135m, wherever the user has it; skips where it is absent."""
    from tailorbird.bases import catalog
    from tailorbird.errors import ResourceError

    if os.environ.get("TAILORBIRD_REAL_HOME"):
        monkeypatch.setenv("TAILORBIRD_HOME", os.environ["TAILORBIRD_REAL_HOME"])
    else:
        monkeypatch.delenv("TAILORBIRD_HOME", raising=False)
    try:
        return catalog.resolve("smollm2-135m")
    except ResourceError:
        pytest.skip("needs the base: tailorbird bases get smollm2-135m")


def byte_tokenizer(control: tuple[str, ...] = CONTROL, merges: tuple[tuple[str, str], ...] = ()) -> Tokenizer:
    """Bytes, the given merges, then the control tokens. Token of "a" is its byte-level letter."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*alphabet, *(a + b for a, b in merges)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    return tokenizer


def tiny_config(vocabulary: int, **changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "vocab_size": vocabulary, "tie_word_embeddings": True,
        "rope_theta": 10000.0, "dtype": "float32", "transformers_version": "5.0.0",
    } | changes  # fmt: skip


def tiny_weights(config: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    """Random float32 tensors with the names and shapes of a Llama of this config (numpy)."""
    import numpy as np

    rng = np.random.default_rng(seed)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden), "model.norm.weight": (hidden,)}
    for i in range(config["num_hidden_layers"]):
        block = f"model.layers.{i}."
        shapes |= {
            block + "input_layernorm.weight": (hidden,), block + "post_attention_layernorm.weight": (hidden,),
            block + "self_attn.q_proj.weight": (hidden, hidden), block + "self_attn.k_proj.weight": (keys, hidden),
            block + "self_attn.v_proj.weight": (keys, hidden), block + "self_attn.o_proj.weight": (hidden, hidden),
            block + "mlp.gate_proj.weight": (inner, hidden), block + "mlp.up_proj.weight": (inner, hidden),
            block + "mlp.down_proj.weight": (hidden, inner),
        }  # fmt: skip
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    return {name: rng.normal(0, 0.05, shape).astype(np.float32) for name, shape in shapes.items()}


def write_tokenizer(
    folder: Path, tokenizer: Tokenizer, template: str | None, named: dict[str, str] | None = None
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **(named or {})}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


MakeBase = Callable[..., Path]


@pytest.fixture
def make_base(tmp_path: Path) -> MakeBase:
    """A whole ready base folder; keywords change its config, `seed` its weights."""

    def make(name: str = "tiny", *, template: str | None = CHATML, seed: int = 0, **changes: Any) -> Path:
        from safetensors.numpy import save_file

        tokenizer = byte_tokenizer()
        folder = write_tokenizer(
            tmp_path / name,
            tokenizer,
            template,
            {"bos_token": CONTROL[0], "eos_token": CONTROL[2], "pad_token": CONTROL[2]},
        )
        config = tiny_config(tokenizer.get_vocab_size(), **changes)
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        save_file(tiny_weights(config, seed), str(folder / "model.safetensors"), metadata={"format": "pt"})
        return folder

    return make
