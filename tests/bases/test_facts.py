"""Facts and fingerprint of a base, from headers and bytes alone; torn files are named."""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tailorbird import store
from tailorbird.bases import fingerprint as fingerprints
from tailorbird.bases.facts import base_facts
from tailorbird.bases.fingerprint import compute, fingerprint
from tailorbird.bases.headers import read_headers
from tailorbird.errors import ArtifactError

from .conftest import tiny_config, tiny_weights


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def save(folder: Path, weights: dict[str, Any], name: str = "model.safetensors") -> None:
    from safetensors.numpy import save_file

    save_file(weights, str(folder / name))


# --- facts --------------------------------------------------------------------------------------------


def test_facts_are_counted_from_config_and_headers(make_base: Any) -> None:
    facts = base_facts(make_base())
    layer = 32 * 32 * 2 + 16 * 32 * 2 + 48 * 32 * 3 + 2 * 32  # q and o; k and v; the three of the MLP; two norms
    assert facts.parameters == 259 * 32 + 32 + 2 * layer
    assert facts.weight_bytes == 4 * facts.parameters
    assert facts.flops_per_token == 2 * (32 + 2 * layer)
    assert (facts.layers, facts.heads, facts.kv_heads, facts.head_dim, facts.context) == (2, 4, 2, 8, 256)
    assert (facts.hidden_size, facts.intermediate_size, facts.vocabulary) == (32, 48, 259)
    assert facts.tied_embeddings
    assert facts.has_chat_template
    assert facts.licence is None


def test_an_untied_head_is_counted(make_base: Any) -> None:
    tied, untied = base_facts(make_base("a")), base_facts(make_base("b", tie_word_embeddings=False))
    assert untied.parameters - tied.parameters == 259 * 32
    assert untied.flops_per_token == tied.flops_per_token


def test_a_licence_is_read_from_the_card_never_guessed(make_base: Any) -> None:
    folder = make_base()
    (folder / "README.md").write_text("---\nlicense: mit\n---\nlicense: gpl\n")
    assert base_facts(folder).licence == "mit"
    (folder / "README.md").write_text("license: gpl\n")
    assert base_facts(folder).licence is None


def test_the_names_that_gpt_2_gives_are_understood(make_base: Any) -> None:
    folder = make_base()
    (folder / "config.json").write_text(
        json.dumps(
            {"model_type": "gpt2", "n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 64, "vocab_size": 259}
        )
    )
    facts = base_facts(folder)
    assert (facts.layers, facts.hidden_size, facts.intermediate_size, facts.context) == (2, 32, 128, 64)
    assert facts.tied_embeddings  # transformers' default for it


@pytest.mark.parametrize("shape", ["gpt2", "llama", "qwen2", "gemma"])
@pytest.mark.parametrize("tie", [True, False])
def test_parameters_are_what_transformers_counts(make_base: Any, shape: str, tie: bool) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    from tailorbird.bases.model import load_model

    sizes = {
        "vocab_size": 259, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "tie_word_embeddings": tie, "max_position_embeddings": 64,
    }  # fmt: skip
    if shape != "gpt2":
        sizes |= {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(shape, **sizes))
    folder = make_base()
    model.save_pretrained(folder)
    facts = base_facts(folder)
    assert facts.parameters == model.num_parameters() == load_model(folder).num_parameters()
    assert (facts.tied_embeddings, facts.layers, facts.context) == (tie, 2, 64)


def test_a_config_without_layers_is_named(make_base: Any) -> None:
    folder = make_base()
    edit(folder / "config.json", num_hidden_layers="two")
    with pytest.raises(ArtifactError, match="the config says nothing usable for num_hidden_layers"):
        base_facts(folder)


# --- fingerprint --------------------------------------------------------------------------------------


def test_the_same_base_elsewhere_or_cut_into_shards_has_the_same_fingerprint(make_base: Any, tmp_path: Path) -> None:
    folder = make_base()
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert fingerprint(copy) == fingerprint(folder)
    weights = tiny_weights(tiny_config(259))
    names = sorted(weights)
    (copy / "model.safetensors").unlink()
    halves = {"model-1.safetensors": names[:5], "model-2.safetensors": names[5:]}
    for file, part in halves.items():
        save(copy, {n: weights[n] for n in part}, file)
    index = {"weight_map": {n: file for file, part in halves.items() for n in part}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    assert fingerprint(copy) == fingerprint(folder)


NOISE = {"transformers_version": "9", "_name_or_path": "x", "torch_dtype": "float32", "use_cache": False}


def test_versions_and_spellings_are_not_identity(make_base: Any) -> None:
    folder = make_base()
    before = compute(folder)
    edit(folder / "config.json", **NOISE)
    edit(folder / "config.json", rope_parameters={"rope_theta": 10000.0, "rope_type": "default"})
    edit(
        folder / "tokenizer_config.json", tokenizer_class="Other", eos_token={"content": "<|im_end|>", "special": True}
    )
    (folder / "README.md").write_text("a card")
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text(json.dumps(json.loads(tokenizer.read_text(encoding="utf-8")), indent=7), encoding="utf-8")
    assert compute(folder) == before


def _bit(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


CHANGES = {
    "one bit of a weight": _bit,
    "a setting": lambda folder: edit(folder / "config.json", rms_norm_eps=1e-6),
    "a token's name": lambda folder: edit(folder / "tokenizer_config.json", eos_token="<|im_start|>"),
    "the template": lambda folder: (folder / "chat_template.jinja").write_text("other"),
    "the template removed": lambda folder: (folder / "chat_template.jinja").unlink(),
    "a merge": lambda folder: edit(folder / "tokenizer.json", normalizer={"type": "Lowercase"}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_whatever_changes_an_answer_changes_the_fingerprint(make_base: Any, change: Any) -> None:
    folder = make_base()
    before = fingerprint(folder)
    change(folder)
    assert fingerprint(folder) != before


def test_a_renamed_tensor_or_another_type_or_shape_changes_it(make_base: Any) -> None:
    import numpy as np

    folder = make_base()
    weights = tiny_weights(tiny_config(259))
    norm = weights.pop("model.norm.weight")
    variants = [
        {"model.norm.weight": norm}, {"model.norm.weights": norm}, {"model.norm.weight": norm.reshape(4, 8)},
        {"model.norm.weight": norm.view(np.int32)},
    ]  # fmt: skip
    seen = set()
    for variant in variants:
        save(folder, weights | variant)
        seen.add(compute(folder))
    assert len(seen) == len(variants)


def test_files_that_did_not_change_are_not_read_again(make_base: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_base()
    value = fingerprint(folder)
    monkeypatch.setattr(fingerprints, "compute", lambda *_, **__: pytest.fail("read again"))
    assert fingerprint(folder) == value
    os.utime(folder / "model.safetensors", ns=(1, 1))
    with pytest.raises(pytest.fail.Exception, match="read again"):
        fingerprint(folder)


def test_a_damaged_cache_is_made_anew(make_base: Any) -> None:
    folder = make_base()
    value = fingerprint(folder)
    for cache in (store.home() / "cache").iterdir():
        cache.write_text("{")
    assert fingerprint(folder) == value


def test_progress_ends_at_the_bytes_of_the_weights(make_base: Any) -> None:
    folder = make_base()
    seen: list[tuple[int, int]] = []
    fingerprint(folder, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (base_facts(folder).weight_bytes,) * 2


# --- headers ------------------------------------------------------------------------------------------


def test_headers_give_names_types_shapes_and_places(tmp_path: Path) -> None:
    import numpy as np

    save(tmp_path, {"b": np.zeros((2, 3), np.float32), "a": np.ones(4, np.float16)})
    found = {t.name: t for t in read_headers(tmp_path / "model.safetensors")}
    assert {n: (t.dtype, t.shape, t.end - t.begin) for n, t in found.items()} == {
        "a": ("F16", (4,), 8),
        "b": ("F32", (2, 3), 24),
    }
    data = (tmp_path / "model.safetensors").read_bytes()
    assert data[found["a"].begin : found["a"].end] == np.ones(4, np.float16).tobytes()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 400), tail=st.binary(max_size=3))
def test_a_file_cut_anywhere_or_with_a_tail_is_refused(tmp_path: Path, cut: int, tail: bytes) -> None:
    import numpy as np

    save(tmp_path, {"a": np.ones(70, np.float32)})
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    torn = whole[: min(cut, len(whole))] + tail
    if torn == whole:
        return
    path.write_bytes(torn)
    if len(torn) == len(whole):  # a tail of the right length: the bytes differ, the form is whole
        return
    with pytest.raises(ArtifactError, match="not a whole safetensors file"):
        read_headers(path)


HEADERS = {
    "not JSON": b"{{{",
    "a list": b"[1]",
    "no offsets": b'{"a": {"dtype": "F32", "shape": [1]}}',
    "negative": b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
    "beyond the end": b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}',
    "shape that lies": b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
    "unknown type": b'{"a": {"dtype": "Q4", "shape": [1], "data_offsets": [0, 4]}}',
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS.keys())
def test_headers_that_lie_are_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
    with pytest.raises(ArtifactError):
        read_headers(path)


def test_an_index_cannot_name_files_outside(make_base: Any) -> None:
    folder = make_base()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../secret.safetensors"}}')
    with pytest.raises(ArtifactError, match="names files outside its folder"):
        base_facts(folder)


def test_a_shard_that_is_missing_is_named(make_base: Any) -> None:
    folder = make_base()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone.safetensors"}}')
    with pytest.raises(ArtifactError, match=r"gone\.safetensors is missing"):
        fingerprint(folder)


def test_the_context_ends_where_a_layers_window_does(make_base: Any) -> None:
    plain, windowed = base_facts(make_base("a")), base_facts(make_base("b", sliding_window=64))
    assert (plain.context, plain.window, plain.named_context) == (256, None, "256")
    assert (windowed.context, windowed.window) == (64, 64)
    assert windowed.named_context == "64 (the sliding window of its attention)"
