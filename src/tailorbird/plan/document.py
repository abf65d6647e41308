"""What was decided, as frozen data that is written to plan.json and read back equal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from tailorbird.types import JSON, BaseFacts, Kind, SplitName


@dataclass(frozen=True)
class Reading:
    """Where the rows are and how they are understood: all that `data` needs before anything else is known.

    `sources`: the data sets of a collection, as the spec's `ExampleSource` with a name; empty where there is none.
    `replay`: {"path", "share", "shape", "columns", "sheet"} or None.
    """

    examples: tuple[str, ...]
    test: str | None
    validation: str | None
    shape: str | None
    columns: Mapping[str, str]
    group: str | None
    slices: tuple[str, ...]
    max_bad_share: float
    overlap: Literal["refuse", "drop_from_train"]
    sizes: Mapping[SplitName, int | None]
    seed: int
    sheet: str | None = None
    supervise: Literal["all", "last"] = "all"
    sources: tuple[JSON, ...] = ()
    replay: JSON | None = None


@dataclass(frozen=True)
class Entrant:
    """One contestant as planned. Times in seconds and memory in bytes are estimates (see `estimate`).

    `source`: for imported ones {"answers" | "command" | "adapter": as written}. `after`: what it starts from, as
    written: a contestant's label, RUN:LABEL or a folder. `state` skipped: `note` says why. `replay`: the part of
    general conversations in the rows of its training. `tune`: {"trials" or "minutes", "over": {setting: range}}.
    `curve`: percents of the Train rows.
    """

    label: str
    kind: Kind
    technique: str | None = None
    source: Mapping[str, str] = field(default_factory=dict)
    timeout_seconds: float | None = None
    after: str | None = None
    asked: JSON = field(default_factory=dict)
    effective: JSON = field(default_factory=dict)
    state: Literal["planned", "skipped"] = "planned"
    note: str | None = None
    revision: int = 1
    trained: bool = False
    steps: int = 0
    checkpoint_steps: int = 1
    seconds: float = 0.0
    memory_bytes: int = 0
    replay: float = 0.0
    micro_batch_tokens: int = 0  # of its training; 0 = the plan's
    recompute: bool = False  # layers computed again in the backward pass, to fit the memory
    tune: JSON | None = None
    seeds: int = 1
    curve: tuple[int, ...] = ()


@dataclass(frozen=True)
class Plan:
    """All that a run obeys."""

    name: str
    base: JSON
    task: JSON
    reading: Reading
    retention: str
    splits: Mapping[str, int]
    entrants: tuple[Entrant, ...]
    requirements: Mapping[str, float]
    device: str
    dtype: str
    dtype_reason: str
    threads: int
    micro_batch_tokens: int
    memory_bytes: int
    gflops: Mapping[str, float]
    lengths: JSON
    seed: int
    report_rows: str
    minutes: float
    minutes_limit: float | None
    notes: tuple[str, ...] = ()
    device_name: str = ""  # of an accelerator

    def as_dict(self) -> JSON:
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Plan:
        known = {f.name for f in fields(cls)}
        given = {k: v for k, v in value.items() if k in known}
        reading = dict(given["reading"])
        listed = {name: tuple(reading[name]) for name in ("examples", "slices", "sources") if name in reading}
        given["reading"] = Reading(**{**reading, **listed})
        given["entrants"] = tuple(Entrant(**{**e, "curve": tuple(e.get("curve", ()))}) for e in given["entrants"])
        given["notes"] = tuple(given["notes"])
        return cls(**given)

    def entrant(self, label: str) -> Entrant:
        return next(e for e in self.entrants if e.label == label)

    @property
    def base_facts(self) -> BaseFacts:
        return BaseFacts(**self.base)

    @property
    def planned(self) -> tuple[Entrant, ...]:
        return tuple(e for e in self.entrants if e.state == "planned")
