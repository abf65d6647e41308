"""Parts to files and back, in the layouts of the field: PEFT's for adapters, transformers' for whole weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailorbird import store
from tailorbird.artifacts.parts import Decode, LowRank, Parts, Prompt
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
ADAPTER, ADAPTER_CONFIG, WEIGHTS = "adapter_model.safetensors", "adapter_config.json", "model.safetensors"


def write_parts(folder: Path, parts: Parts, base_folder: Path, base_name: str, template: str) -> None:
    """Write the payload of a customization into `folder` (which exists and is empty)."""
    store.write_json(folder / "prompt.json", {**parts.prompt.as_dict(), "decode": parts.decode.as_dict()})
    for name in TOKENIZER_FILES:
        if (base_folder / name).is_file():
            shutil.copyfile(base_folder / name, folder / name)
    store.write_text(folder / "chat_template.jinja", template)
    if parts.low_rank is not None:
        _save(folder / ADAPTER, lora_tensors(parts.low_rank))
        store.write_json(folder / ADAPTER_CONFIG, lora_config(parts.low_rank, base_name))
    if parts.soft is not None:
        _save(folder / ADAPTER, {"prompt_embeddings": parts.soft})
        store.write_json(folder / ADAPTER_CONFIG, prompt_tuning_config(parts.soft, base_folder, base_name))
    if parts.weights is not None:
        if isinstance(parts.weights, Path):
            raise TypeError("weights to be written are tensors by name")
        save_weights(folder, parts.weights, base_folder)


def save_weights(folder: Path, weights: Mapping[str, Tensor], base_folder: Path) -> None:
    """Whole weights in fp32 as transformers reads them, with the base's config."""
    _save(folder / WEIGHTS, weights)
    config = store.read_json(base_folder / "config.json")
    config["dtype"] = "float32"
    config.pop("torch_dtype", None)
    store.write_json(folder / "config.json", config)
    if (base_folder / "generation_config.json").is_file():
        shutil.copyfile(base_folder / "generation_config.json", folder / "generation_config.json")


def read_parts(folder: Path) -> Parts:
    """The parts of a customization written by `write_parts`; tensors are checked for names, shapes and finiteness."""
    value = store.read_json(folder / "prompt.json")
    prompt, decode = Prompt.from_dict(value), Decode.from_dict(value["decode"])
    soft, low_rank = read_adapter(folder) if (folder / ADAPTER_CONFIG).is_file() else (None, None)
    weights = folder if (folder / WEIGHTS).is_file() else None
    return Parts(prompt, decode, soft, low_rank, weights)


def read_adapter(folder: Path) -> tuple[Tensor | None, LowRank | None]:
    """A PEFT adapter folder, ours or made elsewhere: LORA, PROMPT_TUNING, or the table of a P_TUNING."""
    config_path, path = folder / ADAPTER_CONFIG, folder / ADAPTER
    config = store.read_json(config_path)
    if not path.is_file():
        raise ArtifactError(f"{ADAPTER} is missing beside adapter_config.json", where=str(folder))
    tensors = _load(path)
    kind = config.get("peft_type")
    if kind in ("PROMPT_TUNING", "P_TUNING"):
        return _read_soft(folder, config, tensors), None
    if kind == "LORA":
        return None, _read_lora(folder, config, tensors)
    raise ArtifactError(
        f"adapters of type {kind!r} are not supported (LORA, PROMPT_TUNING, P_TUNING are)", where=str(config_path)
    )


def _read_soft(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Tensor:
    if set(tensors) != {"prompt_embeddings"}:
        raise ArtifactError(
            f"expected the tensor prompt_embeddings alone, found {sorted(tensors)}", where=str(folder / ADAPTER)
        )
    soft = tensors["prompt_embeddings"]
    wanted = (config.get("num_virtual_tokens"), config.get("token_dim"))
    if soft.dim() != 2 or tuple(soft.shape) != wanted:
        raise ArtifactError(
            f"prompt_embeddings has shape {tuple(soft.shape)}, its config says {wanted}", where=str(folder / ADAPTER)
        )
    return soft


def _read_lora(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LowRank:
    where = str(folder / ADAPTER)
    unsupported = [
        key
        for key in (
            "use_dora",
            "use_rslora",
            "rank_pattern",
            "alpha_pattern",
            "modules_to_save",
            "trainable_token_indices",
        )
        if config.get(key)
    ]
    if unsupported or config.get("bias", "none") != "none":
        raise ArtifactError(f"this LoRA uses {', '.join(unsupported) or 'bias'}, which is not supported", where=where)
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
    return LowRank(rank, alpha, pairs, bool(config.get("fan_in_fan_out", False)))


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
        "lora_dropout": 0.0,
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


def _save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save_file

    save_file(
        {name: t.detach().float().cpu().contiguous() for name, t in tensors.items()},
        str(path),
        metadata={"format": "pt"},
    )


def _load(path: Path) -> dict[str, Tensor]:
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
