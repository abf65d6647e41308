"""RUN[:LABEL] or TABLE:TASK -> a customization that is there, opened as it was measured. For `load`, `apply`, `chat`,
`export`, `after:`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailorbird import store
from tailorbird.artifacts.table import PromptTable
from tailorbird.artifacts.version import Version
from tailorbird.errors import ArtifactError, SpecError
from tailorbird.plan import Plan
from tailorbird.running.folder import RunFolder, find
from tailorbird.spec import did_you_mean

if TYPE_CHECKING:
    from tailorbird.answerers.local import LocalAnswerer

NO_FILES = {
    "reference": "it is a reference, fitted to be measured against; it leaves no files (the report has its settings)",
    "imported": "it was brought along, not made here",
}


@dataclass(frozen=True)
class Chosen:
    """A customization folder, and what it needs to be opened as it was measured.

    place: the run or prompt table that it is in. base: the name of its base; base_then: where that lay then.
    batch_tokens: tokens of one forward; no answer depends on it.
    """

    place: Path
    label: str
    folder: Path
    base: str
    base_then: Path
    device_then: str
    dtype: str
    threads: int
    instruction: str | None
    labels: tuple[str, ...]
    max_new_tokens: int
    batch_tokens: int = 4096

    @property
    def base_folder(self) -> Path:
        """Where the base lies now: where it lay when this was made, else where its name leads to."""
        if (self.base_then / "config.json").is_file():
            return self.base_then
        from tailorbird.bases.catalog import resolve

        return resolve(self.base)

    def device(self) -> str:
        """The device it was measured on, or what there is."""
        if self.device_then == "cpu":
            return "cpu"
        from tailorbird.bases.machine import torch_device

        return torch_device("auto")[0]

    def open(self) -> LocalAnswerer:
        from tailorbird.answerers.opening import open_customization

        return open_customization(self.folder, self.base_folder, device=self.device(), batch_tokens=self.batch_tokens)

    def open_beside(self) -> LocalAnswerer:
        """The base with the task's instruction alone."""
        from tailorbird.answerers.opening import open_bare
        from tailorbird.artifacts.layout import read_parts
        from tailorbird.artifacts.parts import Prompt

        return open_bare(
            self.base_folder,
            prompt=Prompt(self.instruction),
            decode=replace(read_parts(self.folder).decode, calibration=None),
            device=self.device(),
            dtype=self.dtype,
            threads=self.threads,
            batch_tokens=self.batch_tokens,
        )


def in_table(table: PromptTable, name: str) -> Chosen:
    """A task of a prompt table, TASK or TASK@HASH."""
    version = table.verified(table.find(name))
    decode = version.prompt.decode
    return replace(
        unverified(table, version),
        label=name,
        instruction=version.prompt.instruction,
        labels=tuple(decode.labels),
        max_new_tokens=decode.max_new_tokens,
    )


def unverified(table: PromptTable, version: Version) -> Chosen:
    """What a version's manifest says of base and machine; its files are not looked at."""
    manifest = version.manifest
    return Chosen(
        place=table.path,
        label=version.name,
        folder=version.folder,
        base=table.base.name,
        base_then=Path(table.base.folder),
        device_then=manifest.environment["device"],
        dtype=manifest.compute_dtype,
        threads=manifest.environment["threads"],
        instruction=None,
        labels=(),
        max_new_tokens=0,
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
    """The customization that RUN[:LABEL] means, without LABEL the recommended one; or TABLE:TASK of a prompt table."""
    place, colon, task = str(run).rpartition(":")
    if colon and PromptTable.is_at(Path(place)):
        return in_table(PromptTable.open(place), task)
    if PromptTable.is_at(Path(run)):
        tasks = sorted(PromptTable.open(run).newest())
        raise SpecError(
            "is a prompt table", where=str(run), remedy=f"name one of: {', '.join(f'{run}:{t}' for t in tasks)}"
        )
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
        why = row["note"] if row["state"] != "done" else NO_FILES.get(row["kind"], "it has no files")
        raise SpecError(
            f"{label} cannot be opened: {why}", where=str(folder.path), remedy=f"one of: {', '.join(usable)}"
        )
    plan = Plan.from_dict(store.read_json(folder.path / "plan.json"))
    return Chosen(
        place=folder.path,
        label=label,
        folder=folder.path / rows[label]["artifact"],
        base=plan.base["name"],
        base_then=Path(plan.base["folder"]),
        device_then=plan.device,
        dtype=plan.dtype,
        threads=plan.threads,
        instruction=plan.task["instruction"],
        labels=tuple(plan.task["labels"]),
        max_new_tokens=plan.task["max_new_tokens"],
        batch_tokens=plan.micro_batch_tokens,
    )
