"""What every file format turns into: a record with its place, or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tailorbird.types import Place, Rejected


class BadRow(Exception):
    """A record that cannot become a row: the field (None: the whole record), a stable code, a reason to act on."""

    def __init__(self, field: str | None, code: str, reason: str) -> None:
        super().__init__(reason)
        self.field, self.code, self.reason = field, code, reason

    def at(self, place: Place) -> Rejected:
        return Rejected(place, self.field, self.code, self.reason)


@dataclass(frozen=True, slots=True)
class Record:
    """One object of a JSON file or one line of a table, not yet understood."""

    place: Place
    value: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Repair:
    """Something a format reader put right without losing a row: counted by code."""

    code: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class Remark:
    """Something about a file as a whole that is known only when it is read; shown among the warnings."""

    text: str


Item = Record | Rejected | Repair | Remark
