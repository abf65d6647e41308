"""What a report is made of: one frozen bundle, so that the page reads no file and asks no clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tailorbird.types import JSON, Outcome, Row, SplitName

RenderedRow = Sequence[tuple[str, bool]]  # token text, supervised


@dataclass(frozen=True)
class ReportInput:
    """`comparison` as in `comparison.json`; `rows` of Validation and Test by content id; `curves` by contestant label.

    With `rows_shown == "none"` no text of any row reaches the page, whatever else the bundle holds.
    """

    comparison: JSON
    rows: Mapping[str, Row] = field(default_factory=dict)
    outcomes: Mapping[str, Mapping[SplitName, Sequence[Outcome]]] = field(default_factory=dict)
    data_facts: JSON = field(default_factory=dict)
    split_facts: JSON = field(default_factory=dict)
    plan: JSON = field(default_factory=dict)
    curves: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    suspects: Sequence[Mapping[str, Any]] = ()
    spec_text: str = ""
    rows_shown: str = "sample"
    rendered: Sequence[RenderedRow] = ()
    folder: str | None = None
    spec_path: str | None = None
    machine: JSON = field(default_factory=dict)  # types.Machine as a dict; what is missing is taken from the plan
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def shows_rows(self) -> bool:
        """Anything but a clear "sample" hides the rows: a typo must not leak text."""
        return self.rows_shown == "sample"
