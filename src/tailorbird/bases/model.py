"""Load a base's weights into a transformers model. The only file of `bases` that imports torch and transformers.

Strict where the library only warns: a weight that the file lacks would be drawn at random, one too many would be
dropped, and both would be measured as if they were the base.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailorbird.bases import catalog
from tailorbird.bases.facts import read_config, tied
from tailorbird.bases.headers import folder_headers
from tailorbird.errors import ArtifactError, ResourceError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

DTYPES = ("float32", "bfloat16", "float16")


def load_model(
    folder: str | Path, dtype: str = "float32", device: str = "cpu", *, attention: str | None = None
) -> PreTrainedModel:
    """The base in evaluation mode, every parameter without gradient, in torch's own memory.

    `attention`: name of the attention function (transformers' `attn_implementation`); None leaves the library's choice.
    """
    folder = Path(folder)
    catalog.check_folder(folder)
    headers = list(folder_headers(folder))  # a torn file is named before torch maps it
    quiet_and_offline()
    import torch
    from transformers import AutoModelForCausalLM

    torch_dtype = _dtype(dtype)
    options: dict[str, Any] = {"attn_implementation": attention} if attention else {}
    # Wrong shapes are let through here so that the report names them; _check_keys then refuses them.
    options["ignore_mismatched_sizes"] = True
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=torch_dtype, use_safetensors=True, trust_remote_code=False, local_files_only=True,
            output_loading_info=True, **options,
        )  # fmt: skip
    except torch.OutOfMemoryError as problem:
        raise _no_memory(folder, str(problem)) from None
    except (ValueError, KeyError, OSError, RuntimeError, ImportError) as problem:
        raise ArtifactError(
            f"transformers cannot load this base: {type(problem).__name__}: {_first_line(problem)}",
            where=str(folder),
            remedy="use a causal language model that AutoModelForCausalLM supports without remote code",
        ) from problem
    _check_keys(report, folder)
    try:
        model = model.to(device)
        own_memory(model, where=str(folder))
    except torch.OutOfMemoryError as problem:
        raise _no_memory(folder, str(problem)) from None
    if tied(read_config(folder), headers):
        _check_ties(model, folder)
    model.requires_grad_(False)
    model.eval()
    return model


def quiet_and_offline() -> None:
    """No network, no telemetry, no progress bars, no advice from the library. Call before it is first imported."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def own_memory(model: torch.nn.Module, *, where: str | None = None) -> None:
    """Copy every parameter and buffer out of the mapped file, ties kept: the alignment of mapped tensors varies from
    start to start, and with it the last bits of matrix products. Non-finite weights are refused on the way."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():  # a shared parameter comes once
            if parameter.is_floating_point() and not bool(torch.isfinite(parameter).all()):
                said = f"tensor {name} holds values that are not finite"
                raise ArtifactError(said, where=where, remedy="copy the base again")
            parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
        for module in model.modules():
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = buffer.clone()


def _dtype(name: str) -> torch.dtype:
    import torch

    if name not in DTYPES:
        raise ValueError(f"dtype {name!r} is not one of {', '.join(DTYPES)}")
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def _check_keys(report: dict[str, Any], folder: Path) -> None:
    problems = (
        ("missing_keys", "the weights lack {names}: it would be drawn at random"),
        ("unexpected_keys", "the weights hold {names}, which this architecture has no place for"),
        ("mismatched_keys", "the shape of {names} is not what the config says"),
        ("error_msgs", "transformers reports: {names}"),
    )
    for key, sentence in problems:
        names = sorted(str(n[0] if isinstance(n, tuple) else n) for n in report.get(key) or ())
        if names:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise ArtifactError(
                sentence.format(names=shown),
                where=str(folder),
                remedy="the weights and config.json do not belong together: fetch or copy the base again",
            )


def _check_ties(model: PreTrainedModel, folder: Path) -> None:
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and head.weight is not embeddings.weight:
        raise ArtifactError(
            "the config ties input and output embeddings, the loaded model does not",
            where=str(folder),
            remedy="set tie_word_embeddings to false in config.json if the weights hold their own lm_head",
        )


def _no_memory(folder: Path, said: str) -> ResourceError:
    return ResourceError(
        f"not enough memory for this base: {said.splitlines()[0] if said else ''}",
        where=str(folder),
        remedy="use a smaller base, dtype: bfloat16, or a machine with more memory (tailorbird bases shows what fits)",
    )


def _first_line(problem: BaseException) -> str:
    lines = str(problem).strip().splitlines()
    return lines[0] if lines else ""
