"""GGUF -> transformers folder: exact weights, rows in transformers' order, the tokenizer the file means."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tailorbird.bases.convert_gguf import convert, tensor_name
from tailorbird.bases.renderer import Renderer
from tailorbird.errors import ArtifactError

from .gguf_files import HEADS, tiny_gguf


def converted(tmp_path: Path, **changes: object) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    convert(tiny_gguf(tmp_path / "tiny.gguf", **changes), folder)
    return folder


def test_names_of_tensors() -> None:
    assert tensor_name("blk.7.attn_q.weight") == "model.layers.7.self_attn.q_proj.weight"
    assert tensor_name("blk.0.ffn_norm.weight") == "model.layers.0.post_attention_layernorm.weight"
    assert tensor_name("token_embd.weight") == "model.embed_tokens.weight"
    assert tensor_name("output_norm.weight") == "model.norm.weight"


def test_query_rows_come_back_in_halves(tmp_path: Path) -> None:
    """Two heads of four rows: the file holds (0, 2, 1, 3), pairs side by side; transformers wants (0, 1, 2, 3)."""
    from safetensors.numpy import load_file

    weights = load_file(str(converted(tmp_path) / "model.safetensors"))
    rows = weights["model.layers.0.self_attn.q_proj.weight"][:, 0]
    half = len(rows) // HEADS // 2
    file_rows = [head * 2 * half + 2 * i + side for head in range(HEADS) for side in (0, 1) for i in range(half)]
    assert rows.tolist() == [float(i) for i in file_rows]


def test_q4_1_blocks_are_dequantized_exactly(tmp_path: Path) -> None:
    """value = scale * nibble + minimum, scale and minimum in float16: a plain-Python reference of one block."""
    from safetensors.numpy import load_file

    scale, minimum = np.float16(0.1), np.float16(-0.7)
    block = scale.tobytes() + minimum.tobytes() + bytes(range(16))  # low nibbles 0..15, high nibbles 0
    expected = [float(scale) * n + float(minimum) for n in range(16)] + [float(minimum)] * 16
    folder = converted(tmp_path, up_block=block)
    weights = load_file(str(folder / "model.safetensors"))["model.layers.0.mlp.up_proj.weight"]
    assert weights.dtype == np.float32
    assert weights[0].tolist() == np.asarray(expected, np.float32).tolist()


def test_config_says_what_the_file_means(tmp_path: Path) -> None:
    config = json.loads((converted(tmp_path) / "config.json").read_text(encoding="utf-8"))
    assert config["rms_norm_eps"] == 1e-5  # the file holds float32(1e-5) = 9.999999747378752e-06
    assert config["max_position_embeddings"] == 64
    assert config["tie_word_embeddings"] is True
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (1, 2, 2)
    assert "quantization_config" not in config


def test_digits_are_split_and_the_template_renders(tmp_path: Path) -> None:
    made = Renderer.from_folder(converted(tmp_path))
    assert made.token_text(made.tokens.encode("a  12")) == ["a", " ", " ", "1", "2"]
    assert made.end_ids == [2]


def test_the_same_file_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = converted(tmp_path), tmp_path / "again"
    second.mkdir()
    convert(tmp_path / "tiny.gguf", second)
    assert {p.name: p.read_bytes() for p in first.iterdir()} == {p.name: p.read_bytes() for p in second.iterdir()}


def test_the_model_equals_what_transformers_makes_of_the_file(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from tailorbird.bases.model import load_model

    ours = load_model(converted(tmp_path)).state_dict()
    theirs = AutoModelForCausalLM.from_pretrained(
        str(tmp_path), gguf_file="tiny.gguf", local_files_only=True
    ).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architecture": "gemma"}, "general.architecture is 'gemma'"),
        ({"pre": "qwen2"}, "tokenizer.ggml.pre is 'qwen2'"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path: Path, change: dict[str, str], said: str) -> None:
    with pytest.raises(ArtifactError, match=said):
        converted(tmp_path, **change)
