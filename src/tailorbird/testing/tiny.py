"""Tiny random bases of real shapes (Llama, GPT-2, Qwen), whole folders as a user has them; and rows to train on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from tailorbird.techniques.base import TrainingContext
from tailorbird.types import Message, Place, Role, Row

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
Shape = Literal["llama", "gpt2", "qwen"]


def make_tiny_base(folder: Path, shape: Shape = "llama", *, seed: int = 0, hidden: int = 32, layers: int = 2) -> Path:
    """A random base with a byte-level tokenizer and a ChatML template, written to `folder`."""
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in CONTROL])
    vocabulary = tokenizer.get_vocab_size()
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": CONTROL[0],
        "eos_token": CONTROL[2],
        "pad_token": CONTROL[2],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(named), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if shape != "gpt2":
            config = (LlamaConfig if shape == "llama" else Qwen2Config)(
                vocab_size=vocabulary,
                hidden_size=hidden,
                intermediate_size=2 * hidden,
                num_hidden_layers=layers,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=512,
                tie_word_embeddings=True,
                initializer_range=0.1,
                bos_token_id=None,
                eos_token_id=vocabulary - 1,
            )
            network = (LlamaForCausalLM if shape == "llama" else Qwen2ForCausalLM)(config)
            for name, parameter in network.named_parameters():
                if name.endswith("bias"):  # Qwen's, which start at zero
                    parameter.data.normal_(0.0, 0.1)
        else:
            config = GPT2Config(
                vocab_size=vocabulary,
                n_embd=hidden,
                n_layer=layers,
                n_head=4,
                n_positions=512,
                initializer_range=0.1,
                bos_token_id=None,
                eos_token_id=vocabulary - 1,
            )
            network = GPT2LMHeadModel(config)
        network.save_pretrained(str(folder))
    return folder


def training_context(seed: int = 0) -> TrainingContext:
    """What a technique's `trainable` is given beside the model; a text's ids are its bytes, printable ones common."""
    import torch

    return TrainingContext(
        torch.Generator().manual_seed(seed),
        lambda text: list(text.encode()),
        "Name it.\nred, green",
        lambda count: range(32, min(127, 32 + count)),
    )


WORDS = ("red", "green", "blue")


def tiny_rows(count: int = 8, labels: int = 2) -> list[Row]:
    """`count` short classification rows with `labels` labels; the label can be read off the input."""
    rows = []
    for i in range(count):
        label = WORDS[i % labels]
        text = f"{'abcdefghijklmnop'[i % 16] * (1 + i % 3)} {label[0]} {i}"
        messages = (Message(Role.USER, text), Message(Role.ASSISTANT, label))
        rows.append(Row(f"row{i}", messages, (False, True), Place("tiny.csv", i + 2), label=label))
    return rows
