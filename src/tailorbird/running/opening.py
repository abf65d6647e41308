"""RUN[:LABEL] or TABLE:TASK -> a customization that is there, opened as it was measured. For `load`, `apply`, `chat`,
`export`, `after:`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailorbird import store
from tailorbird.artifacts.manifest import refuse_other_base
from tailorbird.artifacts.table import PromptTable
from tailorbird.artifacts.version import Version
from tailorbird.errors import ArtifactError, ResourceError, SpecError
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

    place: the run or prompt table that it is in. base: name and fingerprint of its base; base_then: where a run found
    that, None for a table; base_now: where it is said to be now, a folder or a name. batch_tokens: tokens of one
    forward; no answer depends on it.
    """

    place: Path
    label: str
    folder: Path
    base: tuple[str, str]
    base_then: Path | None
    base_now: str | Path | None
    device_then: str
    dtype: str
    threads: int
    instruction: str | None
    labels: tuple[str, ...]
    max_new_tokens: int
    batch_tokens: int = 4096

    @property
    def base_folder(self) -> Path:
        """Where the base lies now. Looked for when it is needed: not all that can be done needs it."""
        return base_folder(self.place, self.base, self.base_then, self.base_now)

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


def base_folder(place: Path, base: tuple[str, str], then: Path | None = None, now: str | Path | None = None) -> Path:
    """The folder of a base (name, fingerprint) that what is at `place` needs: the one that is said, else where it lay
    `then`, else where a base of this fingerprint was met on this machine, else where its name leads to.

    ArtifactError when another base lies there, ResourceError when there is none.
    """
    from tailorbird.bases.catalog import resolve
    from tailorbird.bases.fingerprint import fingerprint, known_folder

    if now is not None:
        folder = resolve(str(now))
    elif then is not None and (then / "config.json").is_file():
        folder = then
    elif (known := known_folder(base[1])) is not None:
        folder = known
    else:
        try:
            folder = resolve(base[0])
        except ResourceError as error:
            remedy = f"say where it lies now with --base FOLDER (base= in Python); {error.remedy}"
            raise ResourceError(error.what, where=str(place), remedy=remedy) from error
    refuse_other_base(place, base, fingerprint(folder))
    return folder


def in_table(table: PromptTable, name: str, base: str | Path | None = None) -> Chosen:
    """A task of a prompt table, TASK or TASK@HASH. `base`: where its base lies now."""
    version = table.verified(table.find(name))
    decode = version.prompt.decode
    return replace(
        unverified(table, version, base),
        label=name,
        instruction=version.prompt.instruction,
        labels=tuple(decode.labels),
        max_new_tokens=decode.max_new_tokens,
    )


def unverified(table: PromptTable, version: Version, base: str | Path | None = None) -> Chosen:
    """What a version's manifest says of base and machine; its files are not looked at."""
    manifest = version.manifest
    return Chosen(
        place=table.path,
        label=version.name,
        folder=version.folder,
        base=(table.base.name, table.base.fingerprint),
        base_then=None,
        base_now=base,
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


def choose(run: str | Path, base: str | Path | None = None) -> Chosen:
    """The customization that RUN[:LABEL] means, without LABEL the recommended one; or TABLE:TASK of a prompt table.
    `base`: where its base lies now."""
    place, colon, task = str(run).rpartition(":")
    if colon and PromptTable.is_at(Path(place)):
        return in_table(PromptTable.open(place), task, base)
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
        base=(plan.base["name"], plan.base["fingerprint"]),
        base_then=Path(plan.base["folder"]),
        base_now=base,
        device_then=plan.device,
        dtype=plan.dtype,
        threads=plan.threads,
        instruction=plan.task["instruction"],
        labels=tuple(plan.task["labels"]),
        max_new_tokens=plan.task["max_new_tokens"],
        batch_tokens=plan.micro_batch_tokens,
    )
