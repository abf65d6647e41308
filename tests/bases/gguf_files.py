"""A Llama GGUF of one layer, small enough to check by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import pre_tokenizers

HIDDEN, HEADS, INNER = 32, 4, 32
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def tiny_gguf(
    path: Path, *, architecture: str = "llama", pre: str = "smollm", up_block: bytes | None = None, **_: Any
) -> Path:
    """Query rows hold their own row number; `up_block`: one Q4_1 block that fills each row of the up projection."""
    import gguf

    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS // 2)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "12", "ab"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["1 2", "a b"])
    for name, value in (("bos", 1), ("eos", 2), ("unk", 0), ("pad", 2)):
        getattr(writer, f"add_{name}_token_id")(value)
    writer.add_chat_template(TEMPLATE)
    rng = np.random.default_rng(0)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(f"{name}.weight", rng.normal(0, 0.1, shape).astype(np.float32))

    add("token_embd", len(tokens), HIDDEN)
    add("output_norm", HIDDEN)
    writer.add_tensor("blk.0.attn_q.weight", np.repeat(np.arange(HIDDEN, dtype=np.float32)[:, None], HIDDEN, axis=1))
    half = HIDDEN // 2
    for name, rows in {
        "attn_k": half,
        "attn_v": half,
        "attn_output": HIDDEN,
        "ffn_gate": INNER,
        "ffn_down": HIDDEN,
    }.items():
        add(f"blk.0.{name}", rows, HIDDEN)
    add("blk.0.attn_norm", HIDDEN)
    add("blk.0.ffn_norm", HIDDEN)
    if up_block is None:
        add("blk.0.ffn_up", INNER, HIDDEN)
    else:
        quantized = np.frombuffer(up_block * INNER, np.uint8).reshape(INNER, len(up_block))
        writer.add_tensor("blk.0.ffn_up.weight", quantized, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
