"""`table`: tasks put into a prompt table, trained on, listed, taken out."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird import spec as specs
from tailorbird import store, techniques
from tailorbird.artifacts.table import PromptTable, begin, refuse_unfit
from tailorbird.artifacts.version import Split, Version, read_version
from tailorbird.bases.headers import folder_headers
from tailorbird.errors import SpecError, TailorbirdError
from tailorbird.plan import wrong_settings
from tailorbird.running.opening import Chosen, base_folder, choose, unverified
from tailorbird.types import JSON

if TYPE_CHECKING:
    from tailorbird.running import Finished
    from tailorbird.spec import Spec

# Contestants beside a task that is trained on: the base, and the version it starts from. The names on the right are
# theirs where the task itself has that on the left.
OTHERS = {"zero_shot": "base-zero_shot", "before": "version-before"}
LORA_RANK = 16  # of the adapter whose size stands beside a task's


@dataclass(frozen=True)
class Added:
    version: Version
    new: bool


def add(table: Path, run: str, task: str | None = None) -> Added:
    """Puts RUN[:LABEL], or a task of another table, into `table`, which is begun where there is none. `task`: its name
    there, the label when left out."""
    chosen = choose(run)
    return _add(table, chosen, task or chosen.label.partition("@")[0])


def _add(table: Path, chosen: Chosen, task: str) -> Added:
    at = datetime.now(UTC).isoformat(timespec="seconds")
    made = {"from": chosen.place.name, "label": chosen.label, "made_at": _made_at(chosen), "added_at": at}
    manifest = refuse_unfit(chosen.folder, task)  # before a table is begun for it
    opened = begin(table, manifest)
    return Added(*opened.add(chosen.folder, task, made))


def _made_at(chosen: Chosen) -> str | None:
    """When the choice of its run was sealed; of a task of another table what that says."""
    comparison = chosen.place / "comparison.json"
    if comparison.is_file():
        sealed = (store.read_json(comparison).get("recommendation") or {}).get("sealed_at")
        return str(sealed) if sealed else None
    return read_version(chosen.folder).added.made_at


def continuation(
    table: Path, name: str, source: Path, overrides: Sequence[str] = (), base: str | Path | None = None
) -> tuple[Spec, str]:
    """The spec that trains a task on, and the label of what comes out.

    `source` a spec: run as it is, its contestant of the task's technique starting from the task. Data: a spec with that
    contestant, with the version it starts from beside it, and the base. Its name holds version and data, so that the
    same command finds its run again. `base`: where the base lies now; a spec says that itself where this is left out.
    """
    opened = PromptTable.open(table)
    version = opened.verified(opened.find(name))
    technique, after = version.manifest.technique, str(version.folder.resolve())
    if base is not None:
        here = unverified(opened, version, base).base_folder
        overrides = [*overrides, f"base={json.dumps(str(here))}"]
    if source.suffix not in (".yaml", ".yml"):
        at_hand = any(override.partition("=")[0].strip() == "base" for override in overrides)
        here = Path() if at_hand else unverified(opened, version).base_folder
        document = _document(version, here, source.resolve(), after)
        return specs.build(document, overrides=overrides, check=wrong_settings), version.task
    asked = specs.load(source, overrides, check=wrong_settings)
    own = [c.label for c in asked.contestants or () if c.technique == technique]
    if len(own) != 1:
        raise SpecError(
            f"{version.name} is {technique}, and the spec has {len(own)} contestants of that technique",
            where=str(source),
            remedy="give it one: it will start from the task",
        )
    contestants = [c.model_copy(update={"after": after}) if c.label == own[0] else c for c in asked.contestants or ()]
    return asked.model_copy(update={"contestants": contestants}), own[0]


def _document(version: Version, base: Path, data: Path, after: str) -> JSON:
    if not data.exists():
        raise SpecError("no such file or folder", where=str(data))
    decode, manifest = version.prompt.decode, version.manifest
    task: JSON = {"kind": decode.kind, "instruction": version.prompt.instruction}
    task |= {"labels": decode.labels} if decode.labels else {"max_new_tokens": decode.max_new_tokens}
    begins = techniques.get(manifest.technique).begins  # of a part that is there already
    settings = {name: value for name, value in manifest.settings_effective.items() if name not in begins}
    settings["total_virtual_tokens"] = version.virtual_tokens
    on = {"label": version.task, "technique": manifest.technique, "after": after, "settings": settings}
    zero_shot, before = (other if name == version.task else name for name, other in OTHERS.items())
    beside = [
        {"label": zero_shot, "technique": "zero_shot"},
        {"label": before, "adapter": str(version.folder.resolve())},
    ]
    return {
        "base": str(base),
        "name": f"{version.task[:40].rstrip('.-_')}-{store.key(manifest.identity, str(data))[:8]}",
        "data": str(data),
        "task": task,
        "dtype": manifest.compute_dtype,
        "contestants": [*beside, on],
    }


def go_on(table: Path, name: str, finished: Finished, label: str) -> Added:
    """Adds what a continuing run has made as the task's next version."""
    return _add(table, choose(f"{finished.folder}:{label}"), name.partition("@")[0])


def remove(table: Path, name: str) -> list[str]:
    return PromptTable.open(table).remove(name)


def listed(table: Path) -> JSON:
    """What is in a table, every file compared with its hash. `damaged`: name -> why, of what is not as it was added.
    `lora_bytes`: of an adapter of rank 16 on all linear layers of the same base, for comparison; None where the base is
    not found."""
    opened = PromptTable.open(table)
    rows = []
    damaged: dict[str, TailorbirdError] = opened.damaged()
    for version in opened.versions():
        try:
            rows.append(_row(opened.verified(version)))
        except TailorbirdError as error:
            damaged[version.name] = error
    return {
        "table": str(table),
        "base": opened.base.name,
        "fingerprint": opened.base.fingerprint,
        "compute_dtype": opened.compute_dtype,
        "lora_bytes": _lora_bytes(opened),
        "tasks": rows,
        "damaged": {name: str(error) for name, error in damaged.items()},
    }


def _row(version: Version) -> JSON:
    scores, added = version.scores, version.added
    split = "test" if scores.test is not None and scores.test.n else "validation"
    score = (scores.test if split == "test" else scores.validation) or Split()
    forgetting = scores.forgetting and scores.forgetting.bits_per_byte
    return {
        "task": version.task,
        "version": version.number,
        "name": version.name,
        "technique": version.manifest.technique,
        "virtual_tokens": version.virtual_tokens,
        "bytes": version.bytes,
        "split": None if score.score is None else split,
        **score.model_dump(),
        "forgetting": forgetting.change if forgetting else None,
        "identity": version.manifest.identity,
        "parent": (version.manifest.parent or {}).get("identity"),
        **added.model_dump(by_alias=True, include={"place", "label", "made_at", "added_at"}),
    }


def _lora_bytes(table: PromptTable) -> int | None:
    try:
        return lora_bytes(base_folder(table.path, (table.base.name, table.base.fingerprint)))
    except TailorbirdError:  # the list does not need the base
        return None


def lora_bytes(folder: Path) -> int:
    """fp32 bytes of A and B of rank 16 on all linear layers but the output, from the shapes in the base's files."""
    matrices = [t for t in folder_headers(folder) if len(t.shape) == 2 and re.search(r"\.\d+\.", t.name)]
    return sum(4 * LORA_RANK * sum(matrix.shape) for matrix in matrices)
