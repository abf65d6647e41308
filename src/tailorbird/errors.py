"""One small family of errors: what went wrong, where, and what to do about it. The class decides the exit code.

0 use, keep or undecided · 1 a defect of ours · 2 input or spec · 3 numeric failure · 4 artifact · 5 interrupted, can be
continued · 6 resources · 7 refused for safety · 8 no contestant met the requirements (a verdict, so no class)
"""

from __future__ import annotations


class TailorbirdError(Exception):
    """A failure a user can act on. Printed without a traceback unless `--debug` is given."""

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        super().__init__(what)
        self.what, self.where, self.remedy = what, where, remedy

    def __str__(self) -> str:
        parts = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.remedy:
            parts.append(f"  → {self.remedy}")
        return "\n".join(parts)


class SpecError(TailorbirdError):
    """The spec asks for something it cannot have."""

    exit_code = 2


class DataError(TailorbirdError):
    """The data cannot be used as it is."""

    exit_code = 2


class NumericError(TailorbirdError):
    """A loss, gradient or score stopped being finite."""

    exit_code = 3


class ArtifactError(TailorbirdError):
    """A customization on disk is not what its manifest says, or does not fit this base."""

    exit_code = 4


class Interrupted(TailorbirdError):
    """Stopped on request; the same command goes on."""

    exit_code = 5


class ResourceError(TailorbirdError):
    """Memory, disk, a lock, or a base that is absent or cannot be reached."""

    exit_code = 6


class SafetyError(TailorbirdError):
    """Refused: following this input could harm the user's machine or data."""

    exit_code = 7
