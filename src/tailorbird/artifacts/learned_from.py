"""What a customization has learned from: hashes of its Train, Replay and Tuning rows, and of those of all it was made
after.

A file of the payload, so that a run which starts from this one, or has it as a contestant, does not measure it there. A
hash says nothing of a text to who does not have it; who has it can tell that it was among them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tailorbird import store
from tailorbird.errors import ArtifactError

NAME, SCHEMA = "learned_from.json", 1
_HASH = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class LearnedFrom:
    """Hashes of rows that it was trained on, and of those that only chose its best point. complete: whether that is
    all; not where it was made after one that does not say."""

    train: frozenset[str] = frozenset()
    tuning: frozenset[str] = frozenset()
    complete: bool = True

    def after(self, parent: LearnedFrom) -> LearnedFrom:
        """These, and those of the parent it was made from."""
        train = self.train | parent.train
        return LearnedFrom(train, (self.tuning | parent.tuning) - train, self.complete and parent.complete)


UNKNOWN = LearnedFrom(complete=False)


def learned_from(own: Mapping[str, Sequence[str]], parent: Path | None) -> LearnedFrom:
    """Of one with these rows, started from the customization at `parent`."""
    train = frozenset(own.get("train", ()))
    mine = LearnedFrom(train, frozenset(own.get("tuning", ())) - train)
    return mine if parent is None else mine.after(read_learned_from(parent) or UNKNOWN)


def write_learned_from(folder: Path, told: LearnedFrom) -> None:
    """Nothing is written where nothing was learned from."""
    if told != LearnedFrom():
        hashes = {"train": sorted(told.train), "tuning": sorted(told.tuning)}
        store.write_json(folder / NAME, {"schema": SCHEMA, "complete": told.complete, **hashes})


def read_learned_from(folder: Path) -> LearnedFrom | None:
    """None where it is not said: one made elsewhere, or a prompt. ArtifactError when it is not what is written here."""
    path = folder / NAME
    if not path.is_file():
        return None
    value = store.read_json(path)
    fields = {"schema", "complete", "train", "tuning"}
    if not isinstance(value, dict) or value.keys() != fields or value["schema"] != SCHEMA:
        raise ArtifactError(f"is not a {NAME} that this version reads", where=str(path))
    for split in ("train", "tuning"):
        hashes = value[split]
        if not isinstance(hashes, list) or not all(isinstance(h, str) and _HASH.fullmatch(h) for h in hashes):
            raise ArtifactError(f"{split}: is not a list of hashes", where=str(path))
    return LearnedFrom(frozenset(value["train"]), frozenset(value["tuning"]), value["complete"] is True)
