"""RUN[:LABEL] -> a customization that is there, opened as it was measured. For `load`, `apply`, `chat`, `export`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailorbird import store
from tailorbird.errors import ArtifactError, SpecError
from tailorbird.plan import Plan
from tailorbird.running.folder import RunFolder, find
from tailorbird.spec import did_you_mean

if TYPE_CHECKING:
    from tailorbird.answerers.local import LocalAnswerer


@dataclass(frozen=True)
class Chosen:
    """A finished contestant that has a customization folder."""

    run: RunFolder
    label: str
    folder: Path
    plan: Plan

    @property
    def base_folder(self) -> Path:
        """Where the base lies now: where it lay when the run was made, else where its name leads to."""
        then = Path(self.plan.base["folder"])
        if (then / "config.json").is_file():
            return then
        from tailorbird.bases.catalog import resolve

        return resolve(self.plan.base["name"])

    def device(self) -> str:
        """The device it was measured on, or what there is."""
        if self.plan.device == "cpu":
            return "cpu"
        from tailorbird.bases.machine import torch_device

        return torch_device("auto")[0]

    def open(self) -> LocalAnswerer:
        from tailorbird.answerers.opening import open_customization

        return open_customization(
            self.folder,
            self.base_folder,
            device=self.device(),
            batch_tokens=self.plan.micro_batch_tokens,
        )

    def open_beside(self) -> LocalAnswerer:
        """The base with the task's instruction alone."""
        from tailorbird.answerers.opening import open_bare
        from tailorbird.artifacts.layout import read_parts
        from tailorbird.artifacts.parts import Prompt

        decode = replace(read_parts(self.folder).decode, calibration=None)
        return open_bare(
            self.base_folder,
            prompt=Prompt(self.plan.task["instruction"]),
            decode=decode,
            device=self.device(),
            dtype=self.plan.dtype,
            threads=self.plan.threads,
            batch_tokens=self.plan.micro_batch_tokens,
        )


def comparison_of(folder: RunFolder) -> dict[str, Any]:
    if not folder.comparison.is_file():
        raise ArtifactError(
            "this run has not come to an end",
            where=str(folder.path),
            remedy="the command that began it goes on: tailorbird run SPEC",
        )
    return dict(store.read_json(folder.comparison))


def choose(run: str | Path) -> Chosen:
    """The customization that RUN[:LABEL] means; without LABEL the recommended one."""
    folder, label = find(run)
    comparison = comparison_of(folder)
    rows = {row["label"]: row for row in comparison["rows"]}
    usable = [row["label"] for row in comparison["rows"] if row.get("artifact") and row["state"] == "done"]
    if label is None:
        label = (comparison.get("recommendation") or {}).get("label")
        if label is None:
            verdict = (comparison.get("recommendation") or {}).get("verdict")
            remedy = (
                f"name one of: {', '.join(f'{folder.path}:{u}' for u in usable)}" if usable else "no technique finished"
            )
            raise SpecError(
                f"the verdict is {verdict}: no customization is recommended", where=str(folder.path), remedy=remedy
            )
    if label not in rows:
        raise SpecError(f"no contestant is called {label!r}; {did_you_mean(label, usable)}", where=str(folder.path))
    if label not in usable:
        row = rows[label]
        why = row["note"] or f"it is {row['kind']}, not a customization made here"
        raise SpecError(
            f"{label} cannot be opened: {why}", where=str(folder.path), remedy=f"one of: {', '.join(usable)}"
        )
    plan = Plan.from_dict(store.read_json(folder.path / "plan.json"))
    return Chosen(folder, label, folder.path / rows[label]["artifact"], plan)
