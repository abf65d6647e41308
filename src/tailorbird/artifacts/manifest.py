"""The manifest: what a customization is, what it belongs to, and a hash of every file that makes it up.

No torch: `show`, `check` and `apply`'s first second read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tailorbird import store
from tailorbird.errors import ArtifactError, SafetyError

SCHEMA = 1
NAME = "manifest.json"
ADDED = "added.json"  # how it came into a prompt table
BESIDE = frozenset({NAME, "README.md", "scores.json", ADDED})  # written beside, not part of the identity
M = TypeVar("M", bound=BaseModel)
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".npy", ".npz", ".ckpt")


class CheckRow(BaseModel):
    """Token ids of a prompt and, after its last token, the largest logits (fp32) by token id."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    ids: list[int]
    top_ids: list[int]
    top_logits: list[float]


class Manifest(BaseModel):
    """Everything that must hold for a customization to be what was measured."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    schema_version: int = Field(alias="schema")
    label: str
    technique: str
    technique_revision: int
    citation: str
    base_name: str
    base_fingerprint: str
    compute_dtype: str
    template_hash: str
    settings_asked: dict[str, Any]
    settings_effective: dict[str, Any]
    data: dict[str, Any]
    environment: dict[str, Any]
    training: dict[str, Any]
    files: dict[str, str]
    check_rows: list[CheckRow]
    parent: dict[str, str] | None = None  # label, technique and identity of the one it was started from

    @field_validator("environment")
    @classmethod
    def _says_how_to_open_it(cls, value: dict[str, Any]) -> dict[str, Any]:
        if type(value.get("device")) is not str or type(value.get("threads")) is not int or value["threads"] < 1:
            raise ValueError("does not say on which device it was measured, with how many threads")
        return value

    @property
    def identity(self) -> str:
        """Equal identity, equal customization: the base, the payload's hashes and how it is computed."""
        return "sha256:" + store.sha256_json(
            {
                "base": self.base_fingerprint,
                "files": self.files,
                "dtype": self.compute_dtype,
                "template": self.template_hash,
            }
        )


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> Manifest:
    """Hash what lies in `folder` and write the manifest over it."""
    files = {str(p.relative_to(folder).as_posix()): store.sha256_file(p) for p in payload(folder)}
    manifest = Manifest.model_validate({"schema": SCHEMA, "files": files, **facts})
    written = manifest.model_dump(by_alias=True)
    if manifest.parent is None:
        del written["parent"]
    store.write_json(folder / NAME, written)
    return manifest


def refuse_other_base(place: Path, needed: tuple[str, str], fingerprint: str) -> None:
    """ArtifactError where `fingerprint` is not that of the base (name, fingerprint) that what is at `place` needs."""
    name, own = needed
    if own != fingerprint:
        raise ArtifactError(
            f"made for another base: it needs {own[:23]}… ({name}), this one is {fingerprint[:23]}…",
            where=str(place),
            remedy="give the base it was made on (weights, tokenizer and chat template all count)",
        )


def payload(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in BESIDE)


def read_manifest(folder: Path) -> Manifest:
    path = folder / NAME
    if not path.is_file():
        raise ArtifactError("there is no manifest.json", where=str(folder), remedy="is this a customization folder?")
    value = store.read_json(path)
    version = value.get("schema") if isinstance(value, dict) else None
    if version != SCHEMA:
        raise ArtifactError(
            f"schema {version!r} is not the one this version reads ({SCHEMA})",
            where=str(path),
            remedy="open it with the tailorbird version that wrote it, or run its spec again",
        )
    return typed(Manifest, value, path)


def typed(model: type[M], value: Any, path: Path) -> M:
    """What a JSON file holds, as `model`; ArtifactError names the first field that is not of its type."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise ArtifactError(
            f"{path.stem} field {field}: {first['msg']}" if field else f"{path.name}: {first['msg']}", where=str(path)
        ) from error


def with_hash(facts: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with a hash of its own content, for a file that nothing else holds a hash of."""
    return {**facts, "sha256": store.sha256_json(dict(facts))}


def without_hash(value: Any, path: Path) -> dict[str, Any]:
    """What `with_hash` was given, from what was read at `path`; ArtifactError where anything of it was changed."""
    facts = {name: part for name, part in value.items() if name != "sha256"} if isinstance(value, dict) else {}
    try:
        same = bool(facts) and value.get("sha256") == store.sha256_json(facts)
    except (ValueError, RecursionError):  # NaN, or nested too deep: not written here
        same = False
    if not same:
        raise ArtifactError(
            "is not as it was written (the hash of its own content differs)",
            where=str(path),
            remedy="put back what was there, or make it again",
        )
    return facts


def verify(folder: Path, fingerprint: str | None = None) -> Manifest:
    """Compare every payload file with its hash, and the base with its fingerprint; refuse anything extra."""
    for found in folder.rglob("*"):
        if found.suffix in PICKLES:
            raise SafetyError(
                f"{found.name} can run code when it is read; only safetensors and JSON are opened", where=str(folder)
            )
        if found.is_symlink():
            raise SafetyError(
                f"{found.name} is a link", where=str(folder), remedy="copy the file itself into the folder"
            )
    manifest = read_manifest(folder)
    if fingerprint is not None:
        refuse_other_base(folder, (manifest.base_name, manifest.base_fingerprint), fingerprint)
    present = {str(p.relative_to(folder).as_posix()): p for p in payload(folder)}
    for name, digest in manifest.files.items():
        if name not in present:
            raise ArtifactError(f"{name} is missing", where=str(folder), remedy="copy the whole folder again")
        if store.sha256_file(present[name]) != digest:
            raise ArtifactError(
                f"{name} is not the file that was measured (its hash differs)",
                where=str(folder),
                remedy="copy it again",
            )
    extra = sorted(set(present) - set(manifest.files))
    if extra:
        raise ArtifactError(f"{extra[0]} does not belong to this customization", where=str(folder), remedy="remove it")
    return manifest
