"""What a run was made from, by content: so that going on with other data, another base or other versions is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tailorbird import store
from tailorbird.errors import DataError, SpecError
from tailorbird.plan import MadeBefore
from tailorbird.spec import Contestant, Spec


@dataclass(frozen=True)
class Inputs:
    """`data`: path as written -> hash; `contestants`: label -> hash of the file or folder it brings along."""

    spec: str
    data: dict[str, str]
    base: str
    versions: dict[str, str]
    contestants: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Inputs:
        return cls(**{name: value[name] for name in cls.__dataclass_fields__})


def inputs_of(spec: Spec) -> Inputs:
    """Hashes what the spec names; parses no row and loads nothing. SpecError or DataError for what is not there."""
    from tailorbird.bases.catalog import resolve
    from tailorbird.bases.fingerprint import fingerprint
    from tailorbird.bases.machine import versions
    from tailorbird.data.files import resolve as resolve_files

    replay = [spec.data.replay.path] if spec.data.replay else []
    named = [*spec.data.paths, *replay, *(p for p in (spec.data.test, spec.data.validation) if p)]
    data = {file.shown: store.sha256_file(file.path) for file in resolve_files(named, spec.folder).files}
    if spec.data.retention not in ("full", "fast"):
        path = spec.path(spec.data.retention)
        if not path.is_file():
            raise DataError(
                "no such file", where=f"data.retention: {path}", remedy="`full`, `fast`, or a file of texts"
            )
        data[f"retention: {spec.data.retention}"] = store.sha256_file(path)
    base = fingerprint(resolve(spec.base.name, root=spec.folder))
    return Inputs(
        spec=store.sha256_json(spec.document()),
        data=data,
        base=base,
        versions=versions(),
        contestants={c.label: brought for c in spec.contestants or () if (brought := _brought(spec, c, base))},
    )


def _brought(spec: Spec, contestant: Contestant, base: str) -> str | None:
    """Content of an imported contestant's file or folder, or of a customization made before that one starts from. Of a
    command only its line is known, which is in the spec."""
    if (parent := parent_folder(spec, contestant.label, contestant.after)) is not None:
        from tailorbird.artifacts.manifest import verify

        return verify(parent, base).identity
    path = brought_path(spec, contestant)
    if path is None:
        return None
    if path.is_file():
        return store.sha256_file(path)
    files = sorted(p for p in path.rglob("*") if p.is_file())
    return "sha256:" + store.sha256_json([[str(p.relative_to(path).as_posix()), store.sha256_file(p)] for p in files])


def brought_path(spec: Spec, contestant: Contestant) -> Path | None:
    """Where an imported contestant's file or folder lies; SpecError when nothing is there."""
    named = contestant.answers or contestant.adapter
    if named is None:
        return None
    path = spec.path(named)
    if not path.exists():
        where = f"contestant {contestant.label}: {path}"
        raise SpecError("no such file or folder", where=where, remedy="relative paths start at the spec's folder")
    return path


def parent_folder(spec: Spec, label: str, after: str | None) -> Path | None:
    """The folder of a customization made before, RUN:LABEL or a path; None for a contestant of this spec, or none.

    Raises SpecError when nothing is there, ResourceError when there is no such run.
    """
    from tailorbird.plan.chains import is_outside
    from tailorbird.running.opening import choose

    if after is None or not is_outside(after):
        return None
    for path in (spec.path(after), Path(after)):
        if (path / "manifest.json").is_file():
            return path
    run, _, label_there = after.rpartition(":")
    if not (run and label_there):
        raise SpecError(
            "there is no customization (a folder with a manifest.json)",
            where=f"contestant {label}: after: {spec.path(after)}",
            remedy="relative paths start at the spec's folder; a run's contestant is RUN:LABEL",
        )
    beside = spec.path(run)
    return choose(f"{beside}:{label_there}" if beside.is_dir() else after).folder


def made_before(spec: Spec) -> dict[str, MadeBefore]:
    """What each contestant's parent consists of that was made before this run: by the contestant's label."""
    from tailorbird import techniques
    from tailorbird.artifacts.layout import adapters
    from tailorbird.artifacts.manifest import read_manifest

    found = {}
    for contestant in spec.contestants or ():
        folder = parent_folder(spec, contestant.label, contestant.after)
        if folder is None:
            continue
        manifest = read_manifest(folder)
        parts = {kind: _settings_of(kind, config) for kind, config in adapters(folder).items()}
        if manifest.technique in techniques.NAMES:
            maker = techniques.get(manifest.technique)
            own = {name: f.default for name, f in maker.Settings.model_fields.items() if not f.is_required()}
            parts |= {kind: {**own, **manifest.settings_effective} for kind in maker.makes}
        found[contestant.label] = MadeBefore(manifest.technique, parts)
    return found


def _settings_of(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that an adapter was made with, from its configuration as PEFT has it."""
    if kind in ("soft", "kv"):
        return {"total_virtual_tokens": config["num_virtual_tokens"]}
    if kind == "low_rank":
        names = {"rank": "r", "alpha": "lora_alpha", "rslora": "use_rslora", "targets": "target_modules"}
        return {name: config[theirs] for name, theirs in names.items()}
    return {}


def differences(before: Inputs, now: Inputs) -> list[str]:
    """What is not as it was, one line each; the spec itself and contestants may change freely."""
    lines = []
    for path in sorted(before.data.keys() | now.data.keys()):
        if path not in now.data:
            lines.append(f"data: {path} is gone")
        elif path not in before.data:
            lines.append(f"data: {path} is new")
        elif before.data[path] != now.data[path]:
            lines.append(f"data: {path} has other content")
    if before.base != now.base:
        lines.append(f"base: was {before.base[:19]}…, is {now.base[:19]}…")
    for name in sorted(before.versions.keys() | now.versions.keys()):
        old, new = before.versions.get(name, "none"), now.versions.get(name, "none")
        if old != new:
            lines.append(f"version of {name}: was {old}, is {new}")
    return lines
