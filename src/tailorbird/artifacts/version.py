"""One version of a task in a prompt table: a customization folder, and what lies beside it there.

All that the table, `list` and those who open a task go by is read here, once, with its type: a file that is not what it
should be makes this version damaged, and nothing else. `added.json` holds a hash of its own content and of the files
beside it; the manifest's own hash holds the rest together.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tailorbird import store
from tailorbird.artifacts.layout import ADAPTER_CONFIG, PROMPT, tensor_files
from tailorbird.artifacts.manifest import ADDED, BESIDE, Manifest, read_manifest, typed, with_hash, without_hash
from tailorbird.artifacts.parts import KINDS
from tailorbird.errors import ArtifactError

STORED = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING")  # what stands before a text and changes no weight
HASH = 12  # hex digits of an identity in a version's name
SCORES = "scores.json"
READD = "put back what was there, or remove the task and add it again"


class Added(BaseModel):
    """added.json: which version of which task this is, the run or table it came from, and when; hashes of the files
    that are no part of its identity."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    task: str
    version: int = Field(ge=1)
    identity: str
    beside: dict[str, str]
    place: str = Field(alias="from")
    label: str
    made_at: str | None
    added_at: str


class Split(BaseModel):
    """A score on `n` rows with its interval; None where none was measured."""

    model_config = ConfigDict(frozen=True, strict=True)
    score: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None


class BitsPerByte(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)
    change: float | None = None


class Forgetting(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)
    bits_per_byte: BitsPerByte | None = None


class Scores(BaseModel):
    """scores.json: its row of the comparison, as far as it is listed."""

    model_config = ConfigDict(frozen=True, strict=True)
    test: Split | None = None
    validation: Split | None = None
    forgetting: Forgetting | None = None


class Turn(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    role: Literal["system", "user", "assistant"]
    content: str


class Example(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    messages: list[Turn]
    answer: str


class Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    kind: str
    labels: dict[str, str]
    calibration: dict[str, float] | None
    max_new_tokens: int = Field(ge=0)


class TaskPrompt(BaseModel):
    """prompt.json: what stands before a request, and how its answer is read."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    instruction: str | None
    examples: list[Example]
    decode: Asked


class Stored(BaseModel):
    """adapter_config.json, as far as it is listed."""

    model_config = ConfigDict(frozen=True, strict=True)
    num_virtual_tokens: int = Field(ge=1)


@dataclass(frozen=True)
class Version:
    """One customization in a table."""

    folder: Path
    manifest: Manifest
    added: Added
    prompt: TaskPrompt
    virtual_tokens: int
    scores: Scores

    @property
    def task(self) -> str:
        return self.added.task

    @property
    def number(self) -> int:
        return self.added.version

    @property
    def name(self) -> str:
        """TASK@HASH: this version for good, whatever is added later."""
        return f"{self.task}@{digest(self.manifest)}"

    @property
    def bytes(self) -> int:
        """What has to be deployed beyond the base: tensors and prompt."""
        return sum(file.stat().st_size for file in (*tensor_files(self.folder), self.folder / PROMPT))


def read_version(folder: Path) -> Version:
    """ArtifactError names the file that is missing, changed or no version's. Tensors are not looked at, nor whether all
    hashes are right: `PromptTable.verified` does that."""
    manifest = read_manifest(folder)
    path = folder / ADDED
    added = typed(Added, without_hash(_read(path), path), path)
    task, at, end = folder.name.partition("@")
    if added.task != task or added.identity != manifest.identity or (at and end != digest(manifest)):
        raise ArtifactError(
            f"is not what was added as {added.task!r} ({added.identity[:23]}…)",
            where=str(folder),
            remedy="put it back under its own name, or remove it and add it again",
        )
    stored = typed(Stored, _read(folder / ADAPTER_CONFIG), folder / ADAPTER_CONFIG)
    prompt = typed(TaskPrompt, _read(folder / PROMPT), folder / PROMPT)
    measured = folder / SCORES
    scores = typed(Scores, _read(measured), measured) if measured.is_file() else Scores()
    return Version(folder, manifest, added, prompt, stored.num_virtual_tokens, scores)


def _read(path: Path) -> Any:
    if not path.is_file():
        raise ArtifactError(f"{path.name} is missing", where=str(path.parent), remedy=READD)
    return store.read_json(path)


def write_added(folder: Path, facts: dict[str, Any]) -> None:
    """added.json of what lies in `folder`."""
    added = Added.model_validate({**facts, "beside": beside(folder)})
    store.write_json(folder / ADDED, with_hash(added.model_dump(by_alias=True)))


def beside(folder: Path) -> dict[str, str]:
    """Hashes of what lies beside the payload, the manifest first of all, which holds the payload's."""
    names = sorted(BESIDE - {ADDED})
    return {name: store.sha256_file(folder / name) for name in names if (folder / name).is_file()}


def digest(manifest: Manifest) -> str:
    return manifest.identity.removeprefix("sha256:")[:HASH]


def stored_alone(folder: Path) -> bool:
    """Whether a customization folder holds a prompt before the text and nothing else. A part of its own folder means
    several parts; whole weights and deltas have no adapter_config.json."""
    config = folder / ADAPTER_CONFIG
    if any((folder / kind).is_dir() for kind in KINDS) or not config.is_file():
        return False
    value = store.read_json(config)
    return isinstance(value, dict) and value.get("peft_type") in STORED
