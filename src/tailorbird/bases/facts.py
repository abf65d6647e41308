"""What is known of a base from its config and the headers of its weights: no torch, nothing loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tailorbird.bases import catalog
from tailorbird.bases.headers import WIDTHS, TensorHeader, folder_headers
from tailorbird.errors import ArtifactError
from tailorbird.types import BaseFacts

# Names that architectures give to the same number, newest first.
_ALIASES = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "heads": ("num_attention_heads", "n_head", "num_heads"),
    "vocabulary": ("vocab_size",),
    "context": ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"),
}
# Layers that see a window or a chunk only; and how the list of layer types calls such layers.
_WINDOWS = ("sliding_window", "attention_chunk_size")
_LOCAL = ("sliding", "chunk")
_HEADS = frozenset({"lm_head.weight", "embed_out.weight", "output.weight"})


def base_facts(folder: str | Path) -> BaseFacts:
    """Facts of a ready base folder, its fingerprint included (cached)."""
    from tailorbird.bases.fingerprint import fingerprint

    folder = Path(folder)
    catalog.check_folder(folder)
    config = read_config(folder)
    headers = list(folder_headers(folder))
    numbers = {name: _number(config, folder, name) for name in _ALIASES}
    heads, hidden, seen = numbers["heads"], numbers["hidden_size"], window(config)
    return BaseFacts(
        name=name_of(folder),
        folder=str(folder),
        fingerprint=fingerprint(folder),
        parameters=_parameters(headers, config),
        layers=numbers["layers"],
        hidden_size=hidden,
        intermediate_size=int(config.get("intermediate_size") or config.get("n_inner") or 4 * hidden),
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or hidden // heads),
        vocabulary=numbers["vocabulary"],
        context=numbers["context"] if seen is None else min(numbers["context"], seen),
        window=seen,
        tied_embeddings=tied(config, headers),
        weight_bytes=sum(h.end - h.begin for h in headers),
        has_chat_template=has_chat_template(folder),
        model_type=str(config.get("model_type", "unknown")),
        licence=licence(folder),
    )


def window(config: Mapping[str, Any]) -> int | None:
    """Tokens that the layer which sees least looks back at, itself among them; None where every layer sees all."""
    types = config.get("layer_types")
    local = any(word in str(kind) for kind in types for word in _LOCAL) if types else True
    switched_on = config.get("use_sliding_window", True)
    found = [config.get(name) for name in _WINDOWS if switched_on or name != "sliding_window"]
    sizes = [size for size in found if isinstance(size, int) and not isinstance(size, bool) and size > 0]
    return min(sizes, default=None) if local else None


def name_of(folder: Path) -> str:
    """The name a report shows: the known name, the Hub id of a cached snapshot, else the folder's own name."""
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
        return folder.parent.parent.name.removeprefix("models--").replace("--", "/")
    return folder.name


def read_config(folder: Path) -> dict[str, Any]:
    """config.json; the text part of models that also see or hear."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as problem:
        raise ArtifactError(f"cannot read the config: {problem}", where=str(path)) from None
    if not isinstance(config, dict):
        raise ArtifactError("the config is not a JSON object", where=str(path))
    return {**config, **config["text_config"]} if isinstance(config.get("text_config"), dict) else config


def _number(config: dict[str, Any], folder: Path, name: str) -> int:
    for alias in _ALIASES[name]:
        value = config.get(alias)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    raise ArtifactError(
        f"the config says nothing usable for {_ALIASES[name][0]}",
        where=str(folder / "config.json"),
        remedy="use a causal language model that transformers' AutoModelForCausalLM can load",
    )


def tied(config: dict[str, Any], headers: list[TensorHeader]) -> bool:
    """Whether input and output embeddings are one matrix. Where the config is silent (it leaves out what is the
    default of its class) the file says it: an output matrix of its own lies there, or none does."""
    stated = config.get("tie_word_embeddings")
    return bool(stated) if stated is not None else all(h.name not in _HEADS for h in headers)


def _parameters(headers: list[TensorHeader], config: dict[str, Any]) -> int:
    """Weights, a tied output matrix that also lies in the file counted once, buffers not counted."""
    skip = _HEADS if tied(config, headers) else frozenset()
    return sum(h.elements for h in headers if h.name not in skip and not _is_buffer(h))


def _is_buffer(tensor: TensorHeader) -> bool:
    """Not a weight: integers, rotary tables, and the causal masks that GPT-2 files carry."""
    mask = len(tensor.shape) == 4 and tensor.shape[:2] == (1, 1)
    return mask or not tensor.dtype.startswith(("F", "BF")) or tensor.name.endswith("rotary_emb.inv_freq")


def read_header_facts(folder: Path) -> tuple[int, int]:
    """(parameters, bytes of the weights) for a listing; (0, 0) where the folder cannot be read."""
    try:
        headers = list(folder_headers(folder))
        return _parameters(headers, read_config(folder)), sum(h.elements * WIDTHS[h.dtype] for h in headers)
    except ArtifactError:
        return 0, 0


def has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    try:
        return bool(json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template"))
    except (OSError, ValueError, AttributeError):
        return False


def licence(folder: Path) -> str | None:
    """The licence of a known base, else what the card's header says, else None: never guessed."""
    if folder.name in catalog.KNOWN and folder.parent == catalog.bases_folder():
        return catalog.KNOWN[folder.name].licence
    card = folder / "README.md"
    if not card.is_file():
        return None
    lines = card.read_text(encoding="utf-8", errors="replace").splitlines()[:200]
    if not lines or lines[0].strip() != "---":
        return None
    for line in lines[1:]:
        if line.strip() == "---":
            return None
        if line.startswith("license:"):
            return line.partition(":")[2].strip().strip("'\"") or None
    return None
