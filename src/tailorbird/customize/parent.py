"""The customization that a contestant starts from (`after:`): verified, and refused with the reason where it cannot be.

A technique says by kinds of parts what it can do with a parent's (see `techniques.base.Technique`): go on with it, bear
it beside, or fold it into the weights first. What results holds all that must be served; the parent is not needed then.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailorbird.artifacts.layout import read_parts
from tailorbird.artifacts.manifest import Manifest, verify
from tailorbird.artifacts.parts import Parts
from tailorbird.artifacts.training_state import TrainingState, read_state
from tailorbird.customize.job import Job
from tailorbird.errors import SpecError
from tailorbird.plan.chains import other_tensors
from tailorbird.techniques.base import Technique

if TYPE_CHECKING:
    from torch import Tensor

    from tailorbird.engine.model import Model


@dataclass(frozen=True)
class Parent:
    """`state`: what it kept for going on, where the same technique does."""

    manifest: Manifest
    parts: Parts
    state: TrainingState | None = None

    def as_dict(self) -> dict[str, Any]:
        """What the child's manifest says of it."""
        return {"label": self.manifest.label, "technique": self.manifest.technique, "identity": self.manifest.identity}


def read_parent(job: Job, technique: Technique) -> Parent | None:
    """The job's parent, None when it starts from the base.

    Raises ArtifactError when the folder is not what was measured or was made on another base, SpecError when this
    technique cannot start from it.
    """
    if job.parent is None:
        return None
    manifest = verify(job.parent, job.base.fingerprint)
    parts, name = read_parts(job.parent), f"{manifest.label} ({manifest.technique})"
    if not parts.kinds:
        raise SpecError(
            f"{technique.name} cannot start from {name}: it is a prompt, and the weights are the base's",
            where=str(job.parent),
            remedy="leave `after` out: it would start from the base",
        )
    if parts.prompt.examples:
        raise SpecError(
            f"{technique.name} cannot start from {name}: its prompt shows examples, which {technique.name} would drop",
            where=str(job.parent),
            remedy="start from the one that it was made after",
        )
    if refused := parts.kinds - technique.takes:
        why = "it cannot go on with" if refused <= technique.makes else "it has no use for"
        raise SpecError(
            f"{technique.name} cannot start from {name}: {why} its part {', '.join(sorted(refused))}",
            where=str(job.parent),
            remedy="name another parent",
        )
    same = manifest.technique == job.technique
    if not same and (own := parts.kinds & technique.own_only):
        raise SpecError(
            f"{technique.name} cannot start from {name}: it goes on with a part {', '.join(sorted(own))} only where "
            f"{technique.name} made it",
            where=str(job.parent),
            remedy=f"name a parent that {technique.name} made",
        )
    state = read_state(job.parent / technique.state_folder) if same else None
    if (
        state is not None
        and state.moments
        and (other := other_tensors(technique, manifest.settings_effective, job.settings))
    ):
        raise SpecError(f"{job.label} {other[0]}", where=str(job.parent), remedy=other[1])
    job.say(f"starts from {name}, {manifest.identity[:23]}")
    if state is not None:
        kept = " with the optimizer's state" if state.moments else ""
        job.say(f"goes on{kept} after {state.epochs} epochs")
    return Parent(manifest, parts, state)


def starting_model(job: Job, technique: Technique, parent: Parent | None) -> tuple[Model, dict[str, Tensor], Path]:
    """The model as training finds it, nothing in it asking for gradients, with the parent's parts in place; fp32 values
    of its parameters by name, as far as the parent gives them (the model may hold only their rounding); and the folder
    that its weights are from."""
    import torch

    from tailorbird.bases.model import load_model
    from tailorbird.engine.attaching import Attachment, fold
    from tailorbird.engine.model import Model

    base_folder, compute = Path(job.base.folder), job.compute
    parts = parent.parts if parent is not None else Parts(job.prompt, job.decode)
    weights = parts.weights if isinstance(parts.weights, Path) else base_folder
    exact: dict[str, Tensor] = dict(parts.delta or {})
    folded = parent is not None and "weights" in technique.makes
    network = load_model(weights, dtype="float32" if folded else compute.dtype, device=compute.device)
    if folded:
        fold(network, parts)
        exact = {name: parameter.detach() for name, parameter in network.named_parameters()}
    if folded and compute.dtype != "float32":
        network = load_model(weights, dtype=compute.dtype, device=compute.device)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.copy_(exact[name])
    model = Model(network, device=compute.device)
    model.check_context(job.base)
    Attachment(model, parts.without({"weights", *technique.folds}), learns=True).put()
    model.network.requires_grad_(False)
    return model, exact, weights
