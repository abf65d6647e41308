"""A customization as a plain PEFT or transformers folder, for other people's tools.

Merging adds the low-rank update or the delta to the base's weights. The merged folder is kept only if it answers as
what was measured does: the logits on the three check rows, computed from the written file in its own type, are compared
with the unmerged ones. A type of few bits can swallow a small update whole (in bf16 an update that moved the logits by
0.047 came with a rounding of 0.055), so the difference is weighed against all that the update does to the logits.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailorbird import store
from tailorbird.artifacts.layout import DELTA, TOKENIZER_FILES, read_parts, save_weights
from tailorbird.artifacts.learned_from import NAME as LEARNED_FROM
from tailorbird.artifacts.manifest import ADDED, read_manifest, verify
from tailorbird.artifacts.training_state import STATE
from tailorbird.bases.fingerprint import fingerprint
from tailorbird.errors import ArtifactError, SpecError

if TYPE_CHECKING:
    from torch import Tensor

OURS = ("manifest.json", "scores.json", LEARNED_FROM, ADDED)
EMBEDDINGS = "prompt_embeds.safetensors"
FP32_DIFFERENCE = 1e-3  # largest difference of a logit that merging in fp32 may make
LOST = 0.1  # of the customization's own effect on the logits that merging in another type may lose
MERGE_TYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Exported:
    """Names of the files; after merging the largest `difference` of a check row's logit to the unmerged ones, and the
    largest `effect` that the customization has on them."""

    files: list[str]
    difference: float | None = None
    effect: float | None = None


def export(
    folder: Path, out: Path, *, base_folder: Path | None = None, merge: bool = False, dtype: str = "float32"
) -> Exported:
    """Copy what other tools read to `out` (which must not exist or be empty). `base_folder`: merging needs it.

    Raises SpecError when there is nothing to merge or what is there needs merging, ArtifactError when the folder is not
    what was measured, when it is to be merged into another base, or when `dtype` would lose the change.
    """
    folder = Path(folder)
    if dtype not in MERGE_TYPES:
        raise SpecError(f"weights cannot be merged in {dtype!r}", remedy=f"one of {', '.join(MERGE_TYPES)}")
    told: dict[str, float] = {}
    if merge and base_folder is None:
        raise SpecError("merging needs the base", remedy="give its base_folder")
    with _new_folder(folder, Path(out), base_folder if merge else None) as (temporary, names):
        if merge and base_folder is not None:
            told = _merged(folder, temporary, base_folder, dtype)
        else:
            _copied(folder, temporary)
    return Exported(names, **told)


def export_embeddings(folder: Path, out: Path, *, base_folder: Path) -> Exported:
    """A soft prompt as `prompt_embeds.safetensors` (total_virtual_tokens, hidden_size) fp32, and what sends it before a
    text to a server that takes embeddings: client.py for vLLM's `prompt_embeds`, what it goes by, and the tokenizer.

    Raises SpecError when there is anything but a soft prompt, ArtifactError when the folder is not what was measured,
    or was made on another base.
    """
    import hashlib

    from safetensors.torch import save_file

    from tailorbird.bases.model import load_model
    from tailorbird.bases.renderer import Renderer

    folder = Path(folder)
    with _new_folder(folder, Path(out), base_folder) as (temporary, names):
        parts, manifest = read_parts(folder), read_manifest(folder)
        if parts.soft is None or parts.kinds != {"soft"}:
            raise SpecError(
                f"{manifest.label} ({manifest.technique}) is no soft prompt alone",
                remedy="export it without --prompt-embeds",
            )
        save_file({"prompt_embeds": parts.soft.contiguous()}, str(temporary / EMBEDDINGS))
        renderer, network = Renderer.from_folder(base_folder), load_model(base_folder)
        matrix = network.get_input_embeddings().weight.detach().numpy()
        recipe = {
            **renderer.around(lambda message: parts.prompt.conversation((message,))),
            "embeddings": hashlib.sha256(matrix.tobytes()).hexdigest(),
            "max_new_tokens": parts.decode.max_new_tokens,
        }
        store.write_json(temporary / "client.json", recipe)
        store.write_text(temporary / "tokenizer.json", renderer.tokens.tokenizer.to_str())
        texts = resources.files("tailorbird") / "artifacts" / "prompt_embeds"
        shape = f"{parts.soft.shape[0]} x {parts.soft.shape[1]}"
        readme = (texts / "README.md").read_text(encoding="utf-8")
        for mark, value in (("LABEL", manifest.label), ("BASE", manifest.base_name), ("SHAPE", shape)):
            readme = readme.replace(f"{{{mark}}}", value)
        store.write_text(temporary / "README.md", readme)
        store.write_text(temporary / "client.py", (texts / "client.txt").read_text(encoding="utf-8"))
    return Exported(names)


@contextmanager
def _new_folder(folder: Path, out: Path, base_folder: Path | None = None) -> Iterator[tuple[Path, list[str]]]:
    """Verifies the customization, and that `base_folder` holds its base, then gives a folder to write into, which
    becomes `out` at the end, and the list that will hold the names in it."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SpecError(f"{out} exists and is not empty", remedy="name a new folder")
    verify(folder, None if base_folder is None else fingerprint(base_folder))
    temporary, names = out.with_name(f".{out.name}.tmp"), list[str]()
    with store.disk(out):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary, names
            names += sorted(p.relative_to(temporary).as_posix() for p in temporary.rglob("*") if p.is_file())
            if out.exists():
                out.rmdir()
            temporary.rename(out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _copied(folder: Path, out: Path) -> None:
    if any(folder.rglob(DELTA)):
        raise SpecError(
            f"{read_manifest(folder).technique} changed weights of the base itself, which no other tool reads apart",
            remedy="export it with --merge: whole weights with the change in them",
        )
    kept = {path.parent for path in folder.glob(f"*/{STATE}")}  # for going on with the training: no other tool's
    for file in sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in OURS and p.parent not in kept):
        target = out / file.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def _merged(folder: Path, out: Path, base_folder: Path, dtype: str) -> dict[str, float]:
    from tailorbird.bases.model import load_model
    from tailorbird.engine.attaching import fold
    from tailorbird.engine.model import Model

    manifest, parts = read_manifest(folder), read_parts(folder)
    if not parts.kinds & {"low_rank", "peft", "delta"}:
        what = "whole weights already" if "weights" in parts.kinds else "no weights to merge"
        raise SpecError(f"{manifest.technique} has {what}", remedy="export it without --merge")
    if parts.positions:
        what = "a soft prompt" if "soft" in parts.kinds else "a prefix"
        raise SpecError(
            f"{manifest.label} has {what} beside its weights, and {what} is no weight",
            remedy="export it without --merge",
        )
    weights = parts.weights if isinstance(parts.weights, Path) else base_folder
    below, unmerged = _measured(folder, weights, manifest.compute_dtype)
    if dtype == "float32" != manifest.compute_dtype:
        below, unmerged = _measured(folder, weights, dtype)
    network: Any = load_model(weights)
    fold(network, parts)
    whole: dict[str, Tensor] = dict(network.named_parameters())
    save_weights(out, whole, base_folder, dtype)
    del whole, network
    for name in (*TOKENIZER_FILES, "prompt.json", "README.md"):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)
    merged = _logits(folder, Model(load_model(out, dtype=dtype), verify=False))
    effect, difference = _apart(below, unmerged), _apart(unmerged, merged)
    allowed = FP32_DIFFERENCE if dtype == "float32" else LOST * effect
    if not difference <= allowed:
        raise ArtifactError(
            f"merging in {dtype} changes logits by {difference:.2g}, and what was learned changes them by {effect:.2g}",
            where=str(folder),
            remedy="export it unmerged" + ("" if dtype == "float32" else ", or merge in float32"),
        )
    return {"difference": difference, "effect": effect}


def _measured(folder: Path, weights: Path, dtype: str) -> tuple[Tensor, Tensor]:
    """Logits of the check rows without what is to be merged and with it, unmerged, computed in `dtype`. ArtifactError
    when those with it are not the ones that were measured."""
    import torch

    from tailorbird.answerers.opening import compare_check_rows, environment
    from tailorbird.bases.model import load_model
    from tailorbird.engine.attaching import Attachment
    from tailorbird.engine.model import Model
    from tailorbird.engine.scoring import top_logits

    model, manifest = Model(load_model(weights, dtype=dtype)), read_manifest(folder)
    below = _logits(folder, model)
    Attachment(model, read_parts(folder)).put()
    if dtype == manifest.compute_dtype:
        here = environment("cpu", dtype, torch.get_num_threads())
        compare_check_rows(partial(top_logits, model), manifest, here, folder)
    return below, _logits(folder, model)


def _logits(folder: Path, model: Any) -> Tensor:
    """(check rows, vocabulary) fp32: all logits after each check row's prompt."""
    import torch

    from tailorbird.engine.scoring import top_logits

    rows = []
    for row in read_manifest(folder).check_rows:
        ids, values = top_logits(model, row.ids, model.vocabulary)
        rows.append(torch.tensor(values)[torch.tensor(ids).argsort()])
    return torch.stack(rows)


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())
