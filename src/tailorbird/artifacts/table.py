"""The prompt table: a folder of soft prompts on one frozen base, each a whole, verified, immutable customization.

    TABLE/table.json                   base, chat template, compute type: what all tasks must agree in
    TABLE/prompt_table/TASK/           the first version of a task
    TABLE/prompt_table/TASK@HASH/      a later one; HASH is the beginning of its identity

A version comes with one rename and goes with one, so that a kill leaves the table as it was before or after. Nothing is
ever written into a version that is there: adding a task leaves every other one's bytes alone. `added.json`,
`scores.json` and the card lie beside a version's files and are not part of its identity.

No torch: what a tensor holds is looked at when a task is opened.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tailorbird import store
from tailorbird.artifacts.manifest import ADDED, BESIDE, Manifest, typed, verify, with_hash, without_hash
from tailorbird.artifacts.version import READD, Version, beside, digest, read_version, stored_alone, write_added
from tailorbird.errors import ArtifactError, ResourceError, SpecError, TailorbirdError
from tailorbird.spec import checked_name, did_you_mean

SCHEMA = 2
NAME, TASKS, BASE = "table.json", "prompt_table", "base"
DAMAGED = "damaged"  # in place of the hash of a task's first version, where that cannot be told


class Base(BaseModel):
    """The frozen base of all tasks: wherever it lies on the machine where the table is opened."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    name: str
    fingerprint: str


class Facts(BaseModel):
    """table.json."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    schema_version: int = Field(alias="schema")
    base: Base
    template_hash: str
    compute_dtype: str


@dataclass(frozen=True)
class PromptTable:
    """A table on disk."""

    path: Path
    base: Base
    template_hash: str
    compute_dtype: str

    @staticmethod
    def is_at(path: Path) -> bool:
        return (path / NAME).is_file()

    @staticmethod
    def open(path: str | Path) -> PromptTable:
        """ResourceError when there is none, ArtifactError when table.json is not one."""
        path = Path(path)
        if not PromptTable.is_at(path):
            raise ResourceError("there is no prompt table", where=str(path), remedy="`tailorbird table add` begins one")
        value = store.read_json(path / NAME)
        found = value.get("schema") if isinstance(value, dict) else None
        if found != SCHEMA:
            raise ArtifactError(
                f"schema {found!r} is not the one this version reads ({SCHEMA})",
                where=str(path / NAME),
                remedy="put back what was there, or begin a new table and add the runs to it again",
            )
        facts = typed(Facts, without_hash(value, path / NAME), path / NAME)
        return PromptTable(path, facts.base, facts.template_hash, facts.compute_dtype)

    # What is there

    def versions(self) -> list[Version]:
        """All versions of all tasks, by task and oldest first, but those that are `damaged`."""
        return self._look()[0]

    def damaged(self) -> dict[str, TailorbirdError]:
        """What lies among the tasks and is no version of one, or one of another base: name -> why. The name is what
        `remove` takes: a folder's, or TASK@damaged where the folder's is that of all its versions."""
        return {_name_of_damaged(folder): error for folder, error in self._look()[1].items()}

    def tasks(self) -> set[str]:
        """All that there are, damaged ones too."""
        versions, damaged = self._look()
        return {version.task for version in versions} | {_task(folder) for folder in damaged}

    def newest(self) -> dict[str, Version]:
        """The newest version of each task. One with a damaged version has none: that may have been its newest."""
        versions, damaged = self._look()
        unsure = {_task(name) for name in damaged}
        return {version.task: version for version in versions if version.task not in unsure}

    def find(self, name: str) -> Version:
        """TASK (its newest version) or TASK@HASH. SpecError when there is none, ArtifactError when it is damaged."""
        versions, damaged = self._look()
        task, at, _ = name.partition("@")
        same = [v for v in versions if v.task == task and (not at or v.name == name)]
        broken = [error for folder, error in damaged.items() if _task(folder) == task]
        if broken and not (at and same):
            raise broken[0]
        if not same:
            known = sorted({v.task for v in versions} | ({v.name for v in versions} if at else set()))
            raise SpecError(f"no task is called {name!r}; {did_you_mean(name, known)}", where=str(self.path))
        return same[-1]

    def _look(self) -> tuple[list[Version], dict[str, TailorbirdError]]:
        below = self.path / TASKS
        versions: list[Version] = []
        damaged: dict[str, TailorbirdError] = {}
        for folder in sorted(p for p in below.iterdir() if not p.name.startswith(".")) if below.is_dir() else []:
            try:
                versions.append(self._version(folder))
            except TailorbirdError as error:
                damaged[folder.name] = error
        return sorted(versions, key=lambda v: (v.task, v.number)), damaged

    def verified(self, version: Version) -> Version:
        """Every file of it compared with its hash, and its base with the table's."""
        verify(version.folder, self.base.fingerprint)
        kept, there = version.added.beside, beside(version.folder)
        if changed := sorted(name for name in {*there, *kept} if kept.get(name) != there.get(name)):
            raise ArtifactError(f"{', '.join(changed)}: not as it was added", where=str(version.folder), remedy=READD)
        return version

    def _version(self, folder: Path) -> Version:
        if not folder.is_dir() or folder.is_symlink() or _wrong_name(_task(folder.name)) is not None:
            raise ArtifactError("does not belong to a prompt table", where=str(folder), remedy="remove it")
        version = read_version(folder)
        self._fits(version.manifest, folder)
        return version

    def _fits(self, manifest: Manifest, where: Path) -> None:
        theirs = (manifest.base_fingerprint, manifest.template_hash, manifest.compute_dtype)
        ours = (self.base.fingerprint, self.template_hash, self.compute_dtype)
        for what, its, own in zip(("base", "chat template", "compute type"), theirs, ours, strict=True):
            if its != own:
                raise ArtifactError(
                    f"its {what} is {its[:23]}, the table's {own[:23]}",
                    where=str(where),
                    remedy="one table is for one base: add it to another table",
                )

    # Adding and removing

    def remove(self, name: str) -> list[str]:
        """Takes out TASK with all its versions, or TASK@HASH alone, damaged or not; gives their names.

        The newest goes last, and what is damaged after it: killed in between, TASK is still what it was.
        """
        with _lock(self.path):
            versions, damaged = self._look()
            gone = {version.name: version.folder for version in versions if name in (version.task, version.name)}
            for folder in damaged:
                if name in (_task(folder), _name_of_damaged(folder)):
                    gone[_name_of_damaged(folder)] = self.path / TASKS / folder
            if not gone:
                self.find(name)  # which says that there is none, and what there is
            for path in gone.values():
                if path.is_dir() and not path.is_symlink():
                    store.discard_folder(path)
                else:
                    path.unlink()
            return list(gone)

    def add(self, source: Path, task: str, made: Mapping[str, Any]) -> tuple[Version, bool]:
        """Copies a customization folder in; (its version, whether it is new here).

        The same one again changes nothing. One that was started from a version of this task is its next version;
        another one of a name that is taken is refused. `made` is kept in added.json.
        """
        manifest = refuse_unfit(source, task, self.base.fingerprint)
        self._fits(manifest, source)
        with _lock(self.path):
            store.sweep(self.path / TASKS)
            versions, damaged = self._look()
            there = [v for v in versions if v.task == task]
            if broken := [error for name, error in damaged.items() if _task(name) == task]:
                raise broken[0]
            for version in there:
                if version.manifest.identity == manifest.identity:
                    return version, False
            if there and (manifest.parent or {}).get("identity") not in {v.manifest.identity for v in there}:
                raise SpecError(
                    f"a task is called {task!r} already, and this one was not made from it",
                    where=str(self.path),
                    remedy="give it another name with --as, or remove the one that is there",
                )
            number = there[-1].number + 1 if there else 1
            added = {**made, "task": task, "version": number, "identity": manifest.identity}
            final = self.path / TASKS / (f"{task}@{digest(manifest)}" if there else task)
            self._publish(source, manifest, added, final)
            return self._version(final), True

    def _publish(self, source: Path, manifest: Manifest, added: dict[str, Any], final: Path) -> None:
        temporary = final.with_name(f".{final.name}.tmp")
        try:
            with store.disk(final):
                for name in (*manifest.files, *sorted(BESIDE - {ADDED})):
                    if name in manifest.files or (source / name).is_file():
                        (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                        store.fault("copy")
                        shutil.copyfile(source / name, temporary / name)
            write_added(temporary, added)
            verify(temporary, self.base.fingerprint)
            store.publish_folder(temporary, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def begin(path: Path, manifest: Manifest) -> PromptTable:
    """The table at `path`; a new, empty one for this customization's base where there is none."""
    if not PromptTable.is_at(path) and _is_something_else(path):
        raise SpecError("exists, and is no prompt table", where=str(path), remedy="name a new folder")
    with _lock(path):
        store.sweep(path)
        if not PromptTable.is_at(path):
            base = {"name": manifest.base_name, "fingerprint": manifest.base_fingerprint}
            facts = {"template_hash": manifest.template_hash, "compute_dtype": manifest.compute_dtype}
            store.write_json(path / NAME, with_hash({"schema": SCHEMA, "base": base, **facts}))
    return PromptTable.open(path)


def _is_something_else(path: Path) -> bool:
    """A folder with anything in it but what a beginning that was killed has left; or a file."""
    ours = re.compile(rf"\.lock|\.{re.escape(NAME)}\..*\.tmp")
    return path.exists() and (not path.is_dir() or any(not ours.fullmatch(p.name) for p in path.iterdir()))


def _lock(path: Path) -> store.RunLock:
    return store.RunLock(path, "this prompt table", "wait for it; then the same command again")


def _wrong_name(task: str) -> str | None:
    try:
        checked_name(task, "task")
    except ValueError as error:
        return f"{task!r} cannot be a task's name: {error}"
    if task.endswith("."):
        return f"{task!r} cannot be a folder's name on Windows"
    return f"{BASE!r} is what rows for the untouched base are called" if task == BASE else None


def refuse_unfit(source: Path, task: str, fingerprint: str | None = None) -> Manifest:
    """The verified manifest. SpecError or ArtifactError for what no table (on that base) takes."""
    if wrong := _wrong_name(task):
        raise SpecError(wrong, remedy="name the task with --as")
    manifest = verify(source, fingerprint)
    if not stored_alone(source):
        raise SpecError(
            f"{manifest.label} ({manifest.technique}) is more than a prompt before the text",
            where=str(source),
            remedy="a prompt table holds soft prompts and key/value prefixes; others are served beside it (--beside)",
        )
    return manifest


def _task(folder: str) -> str:
    return folder.partition("@")[0]


def _name_of_damaged(folder: str) -> str:
    return folder if "@" in folder or _wrong_name(folder) else f"{folder}@{DAMAGED}"
