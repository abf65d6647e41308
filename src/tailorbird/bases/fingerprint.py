"""The identity of a base: SHA-256 over its weights, config, tokenizer and chat template.

Two folders have one fingerprint exactly when every tensor (name, type, shape, bytes), every setting of the model that
matters and every token are the same, however the weights are cut into files and whatever version wrote them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tailorbird import store
from tailorbird.bases.headers import TensorHeader, folder_headers, weight_files
from tailorbird.errors import ArtifactError, TailorbirdError

REVISION = 1  # raise when the meaning of the hash changes: old caches are then not believed
_CHUNK = 1 << 22
# Written by versions and tools, without meaning for the model. The type of the weights is in the tensors.
_CONFIG_NOISE = frozenset(
    {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache", "id2label",
     "label2id", "attn_implementation", "_attn_implementation", "quantization_config"}
)  # fmt: skip
_TOKENIZER_KEYS = ("bos_token", "eos_token", "unk_token", "pad_token", "add_prefix_space")


def fingerprint(folder: str | Path, *, progress: Callable[[int, int], None] | None = None) -> str:
    """`sha256:…` of the base in `folder`. Files that have not changed (path, size, time) are not read again.

    `progress(done, total)` in bytes is called while weights are hashed.
    """
    folder = Path(folder).resolve()
    stamp = _stamp(folder)
    cache = store.home() / "cache" / f"fingerprint-{store.key(str(folder))}.json"
    cached = _read_cache(cache)
    if cached is not None and cached.get("stamp") == stamp:
        return str(cached["fingerprint"])
    value = compute(folder, progress=progress)
    if _stamp(folder) != stamp:
        raise ArtifactError("the base changed while it was read", where=str(folder), remedy="try again")
    try:
        store.write_json(cache, {"folder": str(folder), "stamp": stamp, "fingerprint": value})
    except (OSError, TailorbirdError):
        pass  # a home that cannot be written costs a second per start, nothing else
    return value


def known_folder(value: str) -> Path | None:
    """Where a base with this fingerprint lies, if it was met on this machine and is there as it was."""
    for cache in sorted((store.home() / "cache").glob("fingerprint-*.json")):
        cached = _read_cache(cache)
        folder = cached.get("folder") if cached is not None and cached["fingerprint"] == value else None
        if isinstance(folder, str) and (Path(folder) / "config.json").is_file():
            with suppress(TailorbirdError, OSError):
                if fingerprint(folder) == value:
                    return Path(folder)
    return None


def compute(folder: Path, *, progress: Callable[[int, int], None] | None = None) -> str:
    """The fingerprint from the files themselves."""
    parts = {
        "revision": REVISION,
        "weights": _weights(sorted(folder_headers(folder), key=lambda t: t.name), progress),
        "config": canonical_config(store.read_json(folder / "config.json")),
        "tokenizer": tokenizer_hash(folder),
        "template": template_text_hash(folder),
    }
    return f"sha256:{store.sha256_json(parts)}"


def canonical_config(config: dict[str, Any]) -> dict[str, Any]:
    """Settings that mean something, the two spellings of the rotary base made one, nulls left out."""
    kept = {k: v for k, v in config.items() if k not in _CONFIG_NOISE and v is not None}
    rope = kept.get("rope_parameters")
    if isinstance(rope, dict) and "rope_theta" in rope:
        kept.pop("rope_theta", None)
    elif "rope_theta" in kept and not kept.get("rope_scaling"):
        kept["rope_parameters"] = {"rope_theta": kept.pop("rope_theta"), "rope_type": "default"}
    if isinstance(kept.get("text_config"), dict):
        kept["text_config"] = canonical_config(kept["text_config"])
    return kept


def tokenizer_hash(folder: Path) -> str:
    """Of tokenizer.json as a value (not its spelling) and of the settings that name or add tokens."""
    from tailorbird.bases.tokens import tokenizer_settings

    settings = tokenizer_settings(folder)
    named = {key: settings[key] for key in _TOKENIZER_KEYS if settings.get(key) is not None}
    # {"content": "</s>", …} and "</s>" are two spellings of one thing.
    named = {key: value.get("content") if isinstance(value, dict) else value for key, value in named.items()}
    return store.sha256_json([store.read_json(folder / "tokenizer.json"), named])


def template_text_hash(folder: Path) -> str | None:
    from tailorbird.bases.renderer import read_template
    from tailorbird.bases.template import template_hash

    text = read_template(folder)
    return None if text is None else template_hash(text)


def _weights(tensors: list[TensorHeader], progress: Callable[[int, int], None] | None) -> str:
    names = [t.name for t in tensors]
    if len(set(names)) != len(names):
        twice = next(n for i, n in enumerate(names) if n in names[:i])
        raise ArtifactError(f"tensor {twice} is in two files", where=str(tensors[0].file.parent))
    digest = hashlib.sha256()
    total, done = sum(t.end - t.begin for t in tensors), 0
    for tensor in tensors:
        digest.update(json.dumps([tensor.name, tensor.dtype, list(tensor.shape)]).encode() + b"\n")
        with open(tensor.file, "rb", buffering=0) as file:
            file.seek(tensor.begin)
            left = tensor.end - tensor.begin
            while left:
                piece = file.read(min(_CHUNK, left))
                if not piece:
                    raise ArtifactError(f"tensor {tensor.name} ends early", where=str(tensor.file))
                digest.update(piece)
                left -= len(piece)
                done += len(piece)
                if progress:
                    progress(done, total)
    return digest.hexdigest()


def _stamp(folder: Path) -> list[list[Any]]:
    names = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
             "model.safetensors.index.json")  # fmt: skip
    files = [folder / name for name in names if (folder / name).is_file()] + weight_files(folder)
    stamp: list[list[Any]] = [["revision", REVISION, 0]]
    for path in files:
        try:
            status = path.stat()
        except FileNotFoundError:
            raise ArtifactError(f"{path.name} is missing", where=str(folder), remedy="copy the base again") from None
        stamp.append([path.name, status.st_size, status.st_mtime_ns])
    return stamp


def _read_cache(path: Path) -> dict[str, Any] | None:
    try:
        value = store.read_json(path)
    except (OSError, TailorbirdError):
        return None
    return value if isinstance(value, dict) and str(value.get("fingerprint", "")).startswith("sha256:") else None
