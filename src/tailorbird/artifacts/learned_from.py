"""What a customization has learned from: hashes of its Train and Tuning rows, and of those of all it was made after.

A file of the payload, so that a run which starts from this one, or has it as a contestant, does not measure it there. A
hash says nothing of a text to who does not have it; who has it can tell that it was among them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tailorbird import store
from tailorbird.errors import ArtifactError

NAME, SCHEMA = "learned_from.json", 1
SPLITS = ("train", "tuning")
_HASH = re.compile(r"[0-9a-f]{16}")

Met = Mapping[str, Sequence[str]]


def write_learned_from(folder: Path, own: Met, parent: Met | None) -> None:
    """Nothing is written where nothing was learned from."""
    train, tuning = (set(own.get(split, ())) | set((parent or {}).get(split, ())) for split in SPLITS)
    if train or tuning:
        held = {"train": sorted(train), "tuning": sorted(tuning - train)}
        store.write_json(folder / NAME, {"schema": SCHEMA, **held})


def read_learned_from(folder: Path) -> Met | None:
    """None where it is not said: one made elsewhere, or a prompt. ArtifactError when it is not what is written here."""
    path = folder / NAME
    if not path.is_file():
        return None
    value = store.read_json(path)
    if not isinstance(value, dict) or value.keys() != {"schema", *SPLITS} or value["schema"] != SCHEMA:
        raise ArtifactError(f"is not a {NAME} that this version reads", where=str(path))
    for split in SPLITS:
        if not isinstance(value[split], list) or not all(
            isinstance(h, str) and _HASH.fullmatch(h) for h in value[split]
        ):
            raise ArtifactError(f"{split}: is not a list of hashes", where=str(path))
    return {split: value[split] for split in SPLITS}
