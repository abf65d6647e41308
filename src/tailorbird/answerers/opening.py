"""From a folder to an answerer: hashes, base, shapes and three check rows are compared before the first answer."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tailorbird.answerers.local import LocalAnswerer
from tailorbird.artifacts.layout import PROMPT, read_adapter, read_parts, tensor_files
from tailorbird.artifacts.manifest import Manifest, verify
from tailorbird.artifacts.parts import Decode, Parts, Prompt
from tailorbird.bases.facts import base_facts
from tailorbird.bases.fingerprint import fingerprint
from tailorbird.bases.model import load_model
from tailorbird.bases.renderer import Renderer
from tailorbird.engine.model import Model
from tailorbird.engine.probe import set_threads
from tailorbird.errors import ArtifactError
from tailorbird.types import BaseFacts

SAME_MACHINE, ELSEWHERE, ELSEWHERE_BF16 = 1e-5, 1e-3, 0.5
KEPT = 2  # bases held in memory at once (chat beside its base needs two)

TopLogits = Callable[[Sequence[int], int], tuple[list[int], list[float]]]
"""A prompt's ids and a count -> that many of the largest logits after it: token ids and values."""

_models: dict[tuple[str, str, str], Model] = {}


def environment(device: str, dtype: str, threads: int) -> dict[str, Any]:
    """What must be equal for two runs to agree to the last bit."""
    import torch
    import transformers

    from tailorbird.bases.machine import card, processor

    named = {} if device == "cpu" else {"device_name": card(device)}
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "system": platform.system(),
        "processor": processor(),
        "device": device,
        **named,
        "dtype": dtype,
        "threads": threads,
    }


def shared_model(folder: Path, dtype: str, device: str) -> Model:
    """The base in memory, loaded once per process for all customizations of it."""
    key = (str(folder.resolve()), dtype, device)
    if key not in _models:
        while len(_models) >= KEPT:
            _models.pop(next(iter(_models)))
        _models[key] = Model(load_model(folder, dtype=dtype, device=device), device=device)
    return _models[key]


def release() -> None:
    """Let go of every base in memory."""
    _models.clear()


def open_customization(
    folder: str | Path,
    base_folder: str | Path,
    *,
    device: str = "cpu",
    dtype: str | None = None,
    threads: int | None = None,
    batch_tokens: int = 4096,
) -> LocalAnswerer:
    """Open what was exported and measured, verified. `dtype` None = the one it was measured in.

    Raises ArtifactError when a file, tensor, base, template or check row is not what the manifest says.
    """
    folder, base_folder = Path(folder), Path(base_folder)
    facts = base_facts(base_folder)
    manifest = verify(folder, fingerprint(base_folder))
    asked = dtype or manifest.compute_dtype
    threads = threads or int(manifest.environment["threads"])
    set_threads(threads)
    parts = read_parts(folder)
    weights = parts.weights if isinstance(parts.weights, Path) else None
    renderer = Renderer.from_folder(folder if weights == folder else base_folder)
    if renderer.template_hash != manifest.template_hash:
        raise ArtifactError("the chat template is not the one it was trained with", where=str(folder))
    if weights is not None:
        model = Model(load_model(weights, dtype=asked, device=device), device=device)
    else:
        model = shared_model(base_folder, asked, device)
    answerer = LocalAnswerer(
        model=model,
        renderer=renderer,
        parts=parts,
        base=facts,
        batch_tokens=batch_tokens,
        deployed_bytes=deployed_bytes(folder),
        trainable_parameters=int(manifest.training.get("trainable_parameters", 0)),
    )
    if asked == manifest.compute_dtype:
        compare_check_rows(answerer.top_logits, manifest, environment(device, asked, threads), folder)
    return answerer


def compare_check_rows(top_logits: TopLogits, manifest: Manifest, here: dict[str, Any], folder: Path) -> None:
    """The kept logits of three rows against this machine's. bf16 rounds differently on other processors."""
    same = here == manifest.environment
    elsewhere = ELSEWHERE_BF16 if manifest.compute_dtype == "bfloat16" else ELSEWHERE
    tolerance = SAME_MACHINE if same else elsewhere
    if not manifest.check_rows:
        raise ArtifactError("its manifest has no check rows", where=str(folder), remedy="make it again")
    for number, row in enumerate(manifest.check_rows):
        ids, values = top_logits(row.ids, 4 * len(row.top_ids))
        now = dict(zip(ids, values, strict=True))
        worst = max(abs(now.get(i, -1e9) - v) for i, v in zip(row.top_ids, row.top_logits, strict=True))
        if not worst <= tolerance:
            raise ArtifactError(
                f"check row {number + 1}: logits differ from the measured ones by {worst:.2g} (allowed: {tolerance:g})",
                where=str(folder),
                remedy="the base, the versions or the files are not those that were measured",
            )


def open_bare(
    base_folder: str | Path,
    *,
    prompt: Prompt | None = None,
    decode: Decode | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    threads: int = 1,
    batch_tokens: int = 4096,
) -> LocalAnswerer:
    """The untouched base, for forgetting and for looking beside."""
    set_threads(threads)
    base_folder = Path(base_folder)
    return _on_base(base_folder, Parts(prompt or Prompt(), decode or Decode("write")), device, dtype, batch_tokens)


def open_parts(
    base_folder: str | Path, parts: Parts, *, device: str, dtype: str, threads: int, batch_tokens: int
) -> LocalAnswerer:
    """Candidate parts of a search, not yet on disk. For Tuning rows only: a measurement opens a folder."""
    set_threads(threads)
    return _on_base(Path(base_folder), parts, device, dtype, batch_tokens)


def _on_base(base_folder: Path, parts: Parts, device: str, dtype: str, batch_tokens: int) -> LocalAnswerer:
    weights = parts.weights if isinstance(parts.weights, Path) else base_folder
    return LocalAnswerer(
        model=shared_model(weights, dtype, device),
        renderer=Renderer.from_folder(base_folder),
        parts=parts,
        base=base_facts(base_folder),
        batch_tokens=batch_tokens,
    )


def open_foreign(
    folder: str | Path,
    base_folder: str | Path,
    *,
    prompt: Prompt,
    decode: Decode,
    device: str,
    dtype: str,
    threads: int,
    batch_tokens: int = 4096,
) -> LocalAnswerer:
    """A PEFT or transformers folder made elsewhere, on this base. Nothing ties it to the base but its shapes: the row
    is marked imported and carries no reload guarantee."""
    set_threads(threads)
    folder, base_folder = Path(folder), Path(base_folder)
    if (folder / "adapter_config.json").is_file():
        parts = Parts(prompt, decode, **read_adapter(folder))
        answerer = _on_base(base_folder, parts, device, dtype, batch_tokens)
        answerer.deployed_bytes = deployed_bytes(folder)
        return answerer
    if not (folder / "config.json").is_file():
        raise ArtifactError(
            "neither adapter_config.json (PEFT) nor config.json (transformers) is there",
            where=str(folder),
            remedy="name the folder that save_pretrained wrote",
        )
    facts: BaseFacts = base_facts(folder)
    model = Model(load_model(folder, dtype=dtype, device=device), device=device)
    foreign = Parts(prompt, decode, weights=folder)
    renderer = Renderer.from_folder(folder)
    return LocalAnswerer(model, renderer, foreign, facts, batch_tokens, deployed_bytes=deployed_bytes(folder))


def deployed_bytes(folder: Path) -> int:
    """Bytes beyond the base: the prompt and the trained tensors, not the copies of tokenizer and template."""
    prompt = folder / PROMPT
    return sum(file.stat().st_size for file in (*tensor_files(folder), *([prompt] if prompt.is_file() else ())))
