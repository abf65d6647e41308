"""Parts to files and back, in the layouts of the field: PEFT's for adapters, transformers' for whole weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailorbird import store
from tailorbird.artifacts.parts import KINDS, Decode, LowRank, Parts, PeftAdapter, Prompt
from tailorbird.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
PREFIX = "base_model.model."
ADAPTER, ADAPTER_CONFIG, WEIGHTS, DELTA = (
    "adapter_model.safetensors", "adapter_config.json", "model.safetensors", "delta.safetensors",
)  # fmt: skip
PROMPT = "prompt.json"
# PEFT's methods whose layers are its own here, with the fields that say what they compute and where.
PEFT_FIELDS = {
    "LORA": ("r", "lora_alpha", "target_modules", "fan_in_fan_out", "use_dora", "use_rslora"),
    "IA3": ("target_modules", "feedforward_modules", "fan_in_fan_out"),
    "VERA": ("r", "target_modules", "fan_in_fan_out", "projection_prng_key", "save_projection"),
    "LOHA": ("r", "alpha", "target_modules"),
}
_NO_EFFECT = (  # where an adapter is opened to answer
    "peft_type", "task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "peft_version",
    "lora_dropout", "vera_dropout", "rank_dropout", "module_dropout", "d_initial", "init_weights", "init_lora_weights",
    "init_ia3_weights", "qalora_group_size", "megatron_core", "eva_config",
)  # fmt: skip
# A LoRA without DoRA is computed here, and where its layers are the names of its tensors say.
_LORA_FIELDS = (
    "r", "lora_alpha", "fan_in_fan_out", "use_rslora", "target_modules", "exclude_modules", "layers_to_transform",
    "layers_pattern",
)  # fmt: skip
# The others of PEFT's initializations take something away from the base's weights, and its files do not hold these.
_BASE_AS_IT_IS = (True, False, None, "gaussian", "eva", "orthogonal")


def write_parts(folder: Path, parts: Parts, base_folder: Path, base_name: str, template: str) -> None:
    """Write the payload of a customization into `folder` (which exists and is empty).

    One part with tensors lies at the top, so that PEFT or transformers open the folder as it is. Where there are
    several, each lies in a folder of its own name: no other tool can take a piece for the whole.
    """
    store.write_json(folder / PROMPT, {**parts.prompt.as_dict(), "decode": parts.decode.as_dict()})
    _with_tokenizer(folder, base_folder, template)
    parts = _whole(parts)
    several = len(parts.kinds) > 1

    def place(kind: str) -> Path:
        inside = folder / kind if several else folder
        inside.mkdir(exist_ok=True)
        return inside

    below = "../weights" if parts.weights is not None else base_name
    if parts.low_rank is not None:
        inside = place("low_rank")
        write_tensors(inside / ADAPTER, lora_tensors(parts.low_rank))
        store.write_json(inside / ADAPTER_CONFIG, lora_config(parts.low_rank, below))
    if parts.peft is not None:
        inside = place("peft")
        write_tensors(inside / ADAPTER, parts.peft.tensors)
        named = {"base_model_name_or_path": below, "task_type": "CAUSAL_LM", "inference_mode": True}
        store.write_json(inside / ADAPTER_CONFIG, {**parts.peft.config, **named})
    if parts.soft is not None:
        inside = place("soft")
        write_tensors(inside / ADAPTER, {"prompt_embeddings": parts.soft})
        store.write_json(inside / ADAPTER_CONFIG, prompt_tuning_config(parts.soft, base_folder, below))
    if parts.kv is not None:
        inside = place("kv")
        write_tensors(inside / ADAPTER, {"prompt_embeddings": prefix_table(parts.kv)})
        store.write_json(inside / ADAPTER_CONFIG, prefix_tuning_config(parts.kv, below))
    if parts.delta is not None:
        write_tensors(place("delta") / DELTA, parts.delta)
    if parts.weights is not None:
        assert not isinstance(parts.weights, Path)
        save_weights(place("weights"), parts.weights, base_folder)
        if several:
            _with_tokenizer(folder / "weights", base_folder, template)


def _with_tokenizer(folder: Path, base_folder: Path, template: str) -> None:
    for name in TOKENIZER_FILES:
        if (base_folder / name).is_file():
            shutil.copyfile(base_folder / name, folder / name)
    store.write_text(folder / "chat_template.jinja", template)


def _whole(parts: Parts) -> Parts:
    """Whole weights as tensors by name, with the delta among them: its values are the weights' values."""
    if parts.weights is None:
        return parts
    weights = read_weights(parts.weights) if isinstance(parts.weights, Path) else dict(parts.weights)
    return replace(parts, weights={**weights, **(parts.delta or {})}, delta=None)


def save_weights(folder: Path, weights: Mapping[str, Tensor], base_folder: Path, dtype: str = "float32") -> None:
    """Whole weights as transformers reads them, with the base's config."""
    write_tensors(folder / WEIGHTS, weights, dtype)
    config = store.read_json(base_folder / "config.json")
    config["dtype"] = dtype
    config.pop("torch_dtype", None)
    store.write_json(folder / "config.json", config)
    if (base_folder / "generation_config.json").is_file():
        shutil.copyfile(base_folder / "generation_config.json", folder / "generation_config.json")


def tensor_files(folder: Path) -> list[Path]:
    """Every file of tensors of a customization, wherever its part lies."""
    places = (folder, *(folder / kind for kind in KINDS))
    return sorted(file for place in places for file in place.glob("*.safetensors"))


def virtual_positions(folder: Path) -> tuple[int, int]:
    """Virtual tokens and pairs of a prefix of an adapter or a customization, as its configuration says: no tensor is
    read."""
    tokens = pairs = 0
    for inside in (folder, *(folder / kind for kind in KINDS)):
        if (inside / ADAPTER_CONFIG).is_file():
            config = store.read_json(inside / ADAPTER_CONFIG)
            count = config.get("num_virtual_tokens")
            count = count if type(count) is int else 0
            tokens, pairs = (
                (tokens, pairs + count) if config.get("peft_type") == "PREFIX_TUNING" else (tokens + count, pairs)
            )
    return tokens, pairs


def adapters(folder: Path) -> dict[str, dict[str, Any]]:
    """Kind -> configuration of the adapters among the parts of a customization: no tensor is read."""
    found = {}
    for inside in (folder, *(folder / kind for kind in KINDS)):
        if (inside / ADAPTER_CONFIG).is_file():
            config = store.read_json(inside / ADAPTER_CONFIG)
            found[_kind(config, inside / ADAPTER_CONFIG)] = config
    return found


def _kind(config: Mapping[str, Any], path: Path) -> str:
    """Of what parts an adapter of PEFT's is; ArtifactError for a type that is not known here."""
    kind = config.get("peft_type")
    if kind in ("PROMPT_TUNING", "P_TUNING"):
        return "soft"
    if kind == "PREFIX_TUNING":
        return "kv"
    if kind in PEFT_FIELDS:
        return "low_rank" if kind == "LORA" and not config.get("use_dora") else "peft"
    known = ", ".join(("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", *PEFT_FIELDS))
    raise ArtifactError(f"adapters of type {kind!r} are not supported ({known} are)", where=str(path))


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The fp32 tensors of whole weights, by name."""
    return read_tensors(folder / WEIGHTS)


def read_parts(folder: Path) -> Parts:
    """The parts of a customization written by `write_parts`; tensors are checked for names, shapes and finiteness."""
    value = store.read_json(folder / PROMPT)
    parts = Parts(Prompt.from_dict(value), Decode.from_dict(value["decode"]))
    for inside in (folder, *(folder / kind for kind in KINDS)):
        if (inside / ADAPTER_CONFIG).is_file():
            parts = replace(parts, **read_adapter(inside))
        if (inside / DELTA).is_file():
            parts = replace(parts, delta=_read_delta(inside))
        if (inside / WEIGHTS).is_file():
            parts = replace(parts, weights=inside)
    return parts


def read_adapter(folder: Path) -> dict[str, Any]:
    """A PEFT adapter folder, ours or made elsewhere, as fields of `Parts`: LORA, PROMPT_TUNING, the table of a
    P_TUNING, PREFIX_TUNING, or one of `PEFT_FIELDS`, whose layers are PEFT's own."""
    config_path, path = folder / ADAPTER_CONFIG, folder / ADAPTER
    config = store.read_json(config_path)
    if not path.is_file():
        raise ArtifactError(f"{ADAPTER} is missing beside adapter_config.json", where=str(folder))
    tensors = read_tensors(path)
    kind = _kind(config, config_path)
    read = {"soft": _read_soft, "kv": _read_kv, "peft": _read_peft, "low_rank": _read_lora}[kind]
    return {kind: read(folder, config, tensors)}


def _read_delta(folder: Path) -> dict[str, Tensor]:
    values = read_tensors(folder / DELTA)
    if not values:
        raise ArtifactError("the delta holds no tensors", where=str(folder / DELTA))
    return values


def _read_soft(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Tensor:
    return _read_table(folder, tensors, (config.get("num_virtual_tokens"), config.get("token_dim")))


def _read_table(folder: Path, tensors: Mapping[str, Tensor], wanted: tuple[Any, Any]) -> Tensor:
    """The one tensor of PEFT's prompt learning methods, if it has the wanted shape."""
    if set(tensors) != {"prompt_embeddings"}:
        raise ArtifactError(
            f"expected the tensor prompt_embeddings alone, found {sorted(tensors)}", where=str(folder / ADAPTER)
        )
    table = tensors["prompt_embeddings"]
    if table.dim() != 2 or tuple(table.shape) != wanted:
        raise ArtifactError(
            f"prompt_embeddings has shape {tuple(table.shape)}, its config says {wanted}", where=str(folder / ADAPTER)
        )
    return table


def _read_kv(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Tensor:
    names = ("num_virtual_tokens", "num_layers", "num_attention_heads", "token_dim")
    n, layers, heads, width = sizes = [config.get(name, 0) for name in names]
    if not all(type(size) is int and size > 0 for size in sizes) or width % heads:
        raise ArtifactError(
            f"{', '.join(names)} are {n}, {layers}, {heads}, {width}: no sizes of a prefix",
            where=str(folder / ADAPTER_CONFIG),
        )
    table = _read_table(folder, tensors, (n, layers * 2 * width))
    return table.view(n, layers, 2, heads, width // heads).permute(1, 2, 3, 0, 4).contiguous()


def prefix_table(kv: Tensor) -> Tensor:
    """(layers, 2, heads, n, D) as PEFT lays it out: (n, layers * 2 * heads * D), a layer's keys before its values."""
    return kv.permute(3, 0, 1, 2, 4).reshape(kv.shape[3], -1)


def prefix_tuning_config(kv: Tensor, base_name: str) -> dict[str, Any]:
    """With grouped queries `num_attention_heads` and `token_dim` are those of the keys, as PEFT has them."""
    layers, _, heads, n, size = kv.shape
    return {
        "peft_type": "PREFIX_TUNING",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "num_virtual_tokens": int(n),
        "token_dim": int(heads * size),
        "num_transformer_submodules": 1,
        "num_attention_heads": int(heads),
        "num_layers": int(layers),
        "encoder_hidden_size": int(heads * size),
        "prefix_projection": False,
        "inference_mode": True,
    }


def _read_peft(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> PeftAdapter:
    kind = config["peft_type"]
    _refuse_others(folder, config, PEFT_FIELDS[kind])
    if not tensors:
        raise ArtifactError("the adapter holds no tensors", where=str(folder / ADAPTER))
    return PeftAdapter(
        {"peft_type": kind, **{key: config[key] for key in PEFT_FIELDS[kind] if key in config}}, dict(tensors)
    )


def _refuse_others(folder: Path, config: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Configuration fields that change what the layers compute are known by name; any other that is set is refused."""
    kind, where = config["peft_type"], str(folder / ADAPTER_CONFIG)
    start = config.get("init_weights", config.get("init_lora_weights"))
    if start not in _BASE_AS_IT_IS:
        raise ArtifactError(
            f"this {kind} adapter began as {start!r}, an initialization that changes the base",
            where=where,
            remedy="save it as a plain LoRA: PEFT's save_pretrained(..., path_initial_model_for_weight_conversion=...)",
        )
    other = sorted(
        key
        for key, value in config.items()
        if key not in (*known, *_NO_EFFECT) and value not in (None, False, 0, 0.0, "none", {}, [])
    )
    if other:
        raise ArtifactError(f"this {kind} adapter uses {', '.join(other)}, which is not supported", where=where)


def _read_lora(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LowRank:
    where = str(folder / ADAPTER)
    _refuse_others(folder, config, _LORA_FIELDS)
    rank, alpha = int(config["r"]), float(config["lora_alpha"])
    layers: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, rest = key.removeprefix(PREFIX).rpartition(".lora_")
        part = rest.removesuffix(".weight")
        if not key.startswith(PREFIX) or part not in ("A", "B") or not name:
            raise ArtifactError(f"unexpected tensor {key}", where=where)
        layers.setdefault(name, {})[part] = tensor
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for name, both in layers.items():
        if set(both) != {"A", "B"}:
            missing = "B" if "A" in both else "A"
            raise ArtifactError(f"{PREFIX}{name}.lora_{missing}.weight is missing", where=where)
        a, b = both["A"], both["B"]
        if a.dim() != 2 or b.dim() != 2 or a.shape[0] != rank or b.shape[1] != rank:
            raise ArtifactError(
                f"{name}: A {tuple(a.shape)} and B {tuple(b.shape)} do not fit rank {rank}", where=where
            )
        pairs[name] = (a, b)
    if not pairs:
        raise ArtifactError("the adapter holds no tensors", where=where)
    return LowRank(
        rank,
        alpha,
        pairs,
        bool(config.get("fan_in_fan_out", False)),
        bool(config.get("use_rslora", False)),
        float(config.get("lora_dropout") or 0.0),
    )


def lora_tensors(part: LowRank) -> dict[str, Tensor]:
    named = {}
    for name, (a, b) in part.tensors.items():
        named[f"{PREFIX}{name}.lora_A.weight"] = a
        named[f"{PREFIX}{name}.lora_B.weight"] = b
    return named


def lora_config(part: LowRank, base_name: str) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": part.rank,
        "lora_alpha": int(part.alpha) if float(part.alpha).is_integer() else part.alpha,
        "lora_dropout": part.dropout,
        "use_rslora": part.rslora,
        "target_modules": sorted({name.rpartition(".")[2] for name in part.tensors}),
        "bias": "none",
        "fan_in_fan_out": part.fan_in_fan_out,
        "inference_mode": True,
    }


def prompt_tuning_config(soft: Tensor, base_folder: Path, base_name: str) -> dict[str, Any]:
    base = json.loads((base_folder / "config.json").read_text(encoding="utf-8"))
    return {
        "peft_type": "PROMPT_TUNING",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "num_virtual_tokens": int(soft.shape[0]),
        "token_dim": int(soft.shape[1]),
        "num_transformer_submodules": 1,
        "num_attention_heads": base.get("num_attention_heads", base.get("n_head")),
        "num_layers": base.get("num_hidden_layers", base.get("n_layer")),
        "prompt_tuning_init": "RANDOM",
        "inference_mode": True,
    }


def write_tensors(path: Path, tensors: Mapping[str, Tensor], dtype: str = "float32") -> None:
    import torch
    from safetensors.torch import save_file

    save_file(
        {name: t.detach().to("cpu", getattr(torch, dtype)).contiguous() for name, t in tensors.items()},
        str(path),
        metadata={"format": "pt"},
    )


def read_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = {name: tensor.clone() for name, tensor in load_file(str(path)).items()}
    except SafetensorError as error:
        raise ArtifactError(f"not a whole safetensors file: {error}", where=str(path)) from error
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise ArtifactError(f"{name} has dtype {tensor.dtype}, a floating-point type is needed", where=str(path))
        if not bool(tensor.isfinite().all()):
            raise ArtifactError(f"{name} holds values that are not finite", where=str(path))
    return {name: tensor.float() for name, tensor in tensors.items()}
