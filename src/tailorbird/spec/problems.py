"""What is wrong in a spec, said all at once: line, field, the nearest known field."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from tailorbird.errors import SpecError


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a spec."""

    path: str
    what: str
    line: int | None = None

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line else ""
        return f"{place}{self.path}: {self.what}" if self.path else f"{place}{self.what}"


def problems_error(problems: Sequence[Problem], where: str | None) -> SpecError:
    ordered = sorted(problems, key=lambda p: (p.line or 0, p.path))
    if len(ordered) == 1:
        return SpecError(str(ordered[0]), where=where)
    lines = "".join(f"\n  {problem}" for problem in ordered)
    return SpecError(f"{len(ordered)} problems{lines}", where=where)


def did_you_mean(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(known)}"
