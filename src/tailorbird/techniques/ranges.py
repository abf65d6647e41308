"""What a setting may be tried at: the ranges that a technique declares, or a spec asks for. No sampler here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["log", "linear", "whole", "choice"]


@dataclass(frozen=True)
class Range:
    """`log`, `linear`: a real number from `low` to `high`; `whole`: a whole one, both ends included; `choice`: one of
    `choices`.
    """

    kind: Kind
    low: float = 0.0
    high: float = 0.0
    choices: tuple[Any, ...] = ()

    def holds(self, value: Any) -> bool:
        if self.kind == "choice":
            return any(value == c and isinstance(value, bool) == isinstance(c, bool) for c in self.choices)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and self.low <= value <= self.high and (self.kind != "whole" or value == int(value))

    def ends(self) -> tuple[Any, ...]:
        """The values that must be allowed for all of it to be allowed."""
        return self.choices if self.kind == "choice" else (self.low, self.high)

    def values(self) -> tuple[Any, ...] | None:
        """All of them, where they can be counted."""
        if self.kind == "choice":
            return self.choices
        return tuple(range(int(self.low), int(self.high) + 1)) if self.kind == "whole" else None

    def as_dict(self) -> dict[str, Any]:
        if self.kind == "choice":
            return {"kind": self.kind, "choices": list(self.choices)}
        return {"kind": self.kind, "low": self.low, "high": self.high}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Range:
        return cls(**{**value, "choices": tuple(value.get("choices", ()))})

    def __str__(self) -> str:
        if self.kind == "choice":
            return ", ".join(f"{c:g}" if isinstance(c, float) else str(c) for c in self.choices)
        return f"{self.low:g} to {self.high:g}"


def around(value: float, factor: float) -> Range:
    """From value / factor to value x factor, evenly in the logarithm."""
    return Range("log", float(f"{value / factor:.3g}"), float(f"{value * factor:.3g}"))


def whole(low: int, high: int) -> Range:
    return Range("whole", low, high)


def choice(*values: Any) -> Range:
    return Range("choice", choices=values)
