"""A Llama-architecture GGUF file -> a transformers folder (config, safetensors, tokenizer, chat template).

Written with `gguf`, `numpy`, `tokenizers` and `safetensors` alone, so that the same file gives the same bytes (and the
same fingerprint) whatever version of torch or transformers is installed, in four seconds rather than twenty. Weights
are dequantized to float32: a block of Q4_1 is `scale * nibble + minimum` with both in float16, whose result neither
float16 nor bfloat16 can hold, so any smaller type would lose a second time what the 4 bits already lost once.
Known limits: only what the known bases need (Llama tensors, byte-level BPE); everything else is refused by name.

Llama-type GGUF files keep the query and key rows of each head interleaved for their own rotary kernel; `_unpermute`
turns them back (llama.cpp, convert_hf_to_gguf.py, `LlamaModel.permute`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailorbird.errors import ArtifactError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Progress = Callable[[int, int, str], None]

_SPECIAL = 3  # gguf TokenType.CONTROL
_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def convert(gguf_file: Path, folder: Path, progress: Progress | None = None) -> None:
    """Write `folder` (which must exist) from `gguf_file`. The caller publishes it; nothing here needs to be atomic."""
    from gguf import GGUFReader

    reader = GGUFReader(str(gguf_file))
    fields = {name: field.contents() for name, field in reader.fields.items()}
    _refuse_unknown(fields, gguf_file)
    tied = all(tensor.name != "output.weight" for tensor in reader.tensors)
    _write_json(folder / "config.json", config(fields, tied=tied))
    _write_json(folder / "generation_config.json", _generation_config(fields))
    _write_tokenizer(fields, folder)
    _write_weights(reader.tensors, fields, folder / "model.safetensors", progress)


def config(fields: dict[str, Any], *, tied: bool) -> dict[str, Any]:
    """The transformers config that these GGUF fields describe. `rope_theta` stands twice: for transformers 4 and 5."""
    theta = float(fields["llama.rope.freq_base"])
    heads = int(fields["llama.attention.head_count"])
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": int(fields["tokenizer.ggml.bos_token_id"]),
        "dtype": "float32",
        "eos_token_id": int(fields["tokenizer.ggml.eos_token_id"]),
        "head_dim": int(fields["llama.embedding_length"]) // heads,
        "hidden_act": "silu",
        "hidden_size": int(fields["llama.embedding_length"]),
        "initializer_range": 0.02,
        "intermediate_size": int(fields["llama.feed_forward_length"]),
        "max_position_embeddings": int(fields["llama.context_length"]),
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": int(fields["llama.block_count"]),
        "num_key_value_heads": int(fields["llama.attention.head_count_kv"]),
        "pad_token_id": int(fields["tokenizer.ggml.padding_token_id"]),
        # Stored as float32 in the file: 9.999999747e-06 was 1e-5 before that.
        "rms_norm_eps": float(f"{float(fields['llama.attention.layer_norm_rms_epsilon']):.6g}"),
        "rope_parameters": {"rope_theta": theta, "rope_type": "default"},
        "rope_theta": theta,
        "tie_word_embeddings": tied,
        "use_cache": True,
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
    }


def _generation_config(fields: dict[str, Any]) -> dict[str, Any]:
    names = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    return {key: int(fields[f"tokenizer.ggml.{name}_token_id"]) for key, name in names.items()}


def _refuse_unknown(fields: dict[str, Any], path: Path) -> None:
    wanted = {"general.architecture": "llama", "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm"}
    for name, value in wanted.items():
        if fields.get(name) != value:
            raise ArtifactError(
                f"{name} is {fields.get(name)!r}; only {value!r} can be converted",
                where=str(path),
                remedy="use the model's transformers folder (config.json and *.safetensors) instead of the GGUF file",
            )


def _write_tokenizer(fields: dict[str, Any], folder: Path) -> None:
    """tokenizer.json, its config and the chat template, as in the original model's repository."""
    from tokenizers import Tokenizer

    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    text = json.dumps(tokenizer_json(fields), ensure_ascii=False, separators=(",", ":"))
    try:
        Tokenizer.from_str(text)
    except Exception as problem:  # the library raises a bare Exception
        raise ArtifactError(f"the tokenizer in the file is damaged: {problem}", where=str(folder)) from None
    _write_text(folder / "tokenizer.json", text)

    def named(name: str) -> str:
        return tokens[int(fields[f"tokenizer.ggml.{name}_token_id"])]

    _write_json(
        folder / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "bos_token": named("bos"),
            "clean_up_tokenization_spaces": False,
            "eos_token": named("eos"),
            "model_max_length": int(fields["llama.context_length"]),
            "pad_token": named("padding"),
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": named("unknown"),
        },
    )
    _write_text(folder / "chat_template.jinja", fields["tokenizer.chat_template"])


def tokenizer_json(fields: dict[str, Any]) -> dict[str, Any]:
    """The value of tokenizer.json: spelled out here, because the library's own spelling changes with its version."""
    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    types: list[int] = fields["tokenizer.ggml.token_type"]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": tokens[i], **flags} for i, t in enumerate(types) if t == _SPECIAL],
        "normalizer": None,
        # `pre = smollm` means single digits *and* byte level; byte level alone splits "  7" otherwise.
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in fields["tokenizer.ggml.merges"]],
        },
    }


def _write_weights(tensors: list[Any], fields: dict[str, Any], path: Path, progress: Progress | None) -> None:
    import numpy as np
    from gguf import dequantize
    from safetensors.numpy import save_file

    weights: dict[str, NDArray[np.float32]] = {}
    for done, tensor in enumerate(tensors, 1):
        array = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        if not np.isfinite(array).all():
            raise ArtifactError(f"tensor {tensor.name} holds values that are not finite", where=str(path))
        if ".attn_q." in tensor.name:
            array = _unpermute(array, int(fields["llama.attention.head_count"]))
        elif ".attn_k." in tensor.name:
            array = _unpermute(array, int(fields["llama.attention.head_count_kv"]))
        weights[tensor_name(tensor.name)] = np.ascontiguousarray(array)
        if progress:
            progress(done, len(tensors), "dequantizing")
    save_file(dict(sorted(weights.items())), str(path), metadata={"format": "pt"})
    path.chmod(0o644)  # the library makes it 0600


def tensor_name(name: str) -> str:
    """`blk.7.attn_q.weight` -> `model.layers.7.self_attn.q_proj.weight`."""
    stem = name.removesuffix(".weight")
    if stem in _TOP:
        return f"{_TOP[stem]}.weight"
    _, layer, part = stem.split(".")
    return f"model.layers.{layer}.{_BLOCK[part]}.weight"


def _unpermute(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows ordered (head, pair, side) -> rows ordered (head, side, pair); weight: (rows, columns)."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    _write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def _write_text(path: Path, text: str) -> None:
    path.write_bytes(text.encode())  # bytes: no newline translation, the hash is the same on every system
