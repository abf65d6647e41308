"""The customization folder: payload, manifest, and the logits of three Train rows as the live model gives them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailorbird import store
from tailorbird.artifacts.parts import Parts
from tailorbird.customize.job import Job
from tailorbird.customize.parent import Parent
from tailorbird.techniques.base import Technique

if TYPE_CHECKING:
    from tailorbird.artifacts.training_state import TrainingState
    from tailorbird.bases.renderer import Renderer

TopLogits = Callable[[Sequence[int]], tuple[list[int], list[float]]]
CHECK_ROWS = 3


def hand_over(
    job: Job,
    technique: Technique,
    parts: Parts,
    renderer: Renderer,
    facts: dict[str, Any],
    top_logits: TopLogits,
    out: Path,
    parent: Parent | None = None,
    state: TrainingState | None = None,
) -> None:
    """Write the folder beside, with the logits of three Train rows as the live model gives them, then publish it."""
    from tailorbird.answerers.opening import environment
    from tailorbird.artifacts.layout import write_parts
    from tailorbird.artifacts.learned_from import learned_from, write_learned_from
    from tailorbird.artifacts.manifest import write_manifest
    from tailorbird.artifacts.training_state import write_state
    from tailorbird.data import met

    compute, base_folder = job.compute, Path(job.base.folder)
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    write_parts(temporary, parts, base_folder, job.base.name, renderer.template)
    if state is not None:
        write_state(temporary / technique.state_folder, state)
    checks = []
    for row in job.train[:CHECK_ROWS]:
        ids = renderer.prompt(parts.prompt.conversation(row.prompt))
        top_ids, logits = top_logits(ids)
        checks.append({"ids": ids, "top_ids": top_ids, "top_logits": logits})
    own = met((*job.train, *job.replay), job.tuning) if technique.trained else {}
    write_learned_from(temporary, learned_from(own, job.parent))
    stable = {k: v for k, v in facts.items() if k not in ("train_seconds", "peak_memory_mb")}
    write_manifest(
        temporary,
        {
            "label": job.label,
            "technique": job.technique,
            "technique_revision": technique.revision,
            "citation": technique.citation,
            "base_name": job.base.name,
            "base_fingerprint": job.base.fingerprint,
            "compute_dtype": compute.dtype,
            "template_hash": renderer.template_hash,
            "settings_asked": job.asked,
            "settings_effective": job.settings,
            "data": {
                "train_rows": len(job.train),
                "tuning_rows": len(job.tuning),
                "replay_rows": len(job.replay),
                "train": "sha256:" + store.sha256_json([row.id for row in job.train]),
                "seed": job.seed,
            },
            "environment": environment(compute.device, compute.dtype, compute.threads),
            "training": stable,
            "check_rows": checks,
            **({"parent": parent.as_dict()} if parent is not None else {}),
        },
    )
    store.publish_folder(temporary, out)
