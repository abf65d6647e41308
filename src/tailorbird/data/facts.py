"""What is said about data that was read: counts, lengths, labels, contradictions. Facts hold figures and places, not
texts (but for the inputs of contradictions, which are cut short)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tailorbird.data.text import normalize, printable
from tailorbird.types import Row

SHOWN_CONTRADICTIONS = 50
LOPSIDED = 0.99


@dataclass(frozen=True, slots=True)
class FileFacts:
    path: str
    size: int
    sha256: str
    rows: int  # records in the file, good or bad
    shape: str
    encoding: str
    format: str
    columns: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        return {name: _plain(getattr(self, name)) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class DataFacts:
    """`rows` records were read: `accepted` + rejected (by code) + `duplicates` = `rows`.

    `fixed`: repairs by code. `special_tokens`: spellings of control tokens found in texts (encoded as plain text
    later). `characters`: quantiles of the number of characters of prompts and answers.
    """

    files: tuple[FileFacts, ...]
    rows: int
    accepted: int
    rejected: Mapping[str, int]
    fixed: Mapping[str, int]
    duplicates: int
    contradictions: tuple[Mapping[str, Any], ...]
    contradiction_count: int
    labels: Mapping[str, int]
    characters: Mapping[str, Mapping[str, int]]
    special_tokens: Mapping[str, int]
    groups: int
    columns: Mapping[str, str]
    shape: str
    warnings: tuple[str, ...] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        values = {name: _plain(getattr(self, name)) for name in self.__slots__}
        values["files"] = [f.as_dict() for f in self.files]
        return values


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def quantiles(lengths: Sequence[int]) -> dict[str, int]:
    """Least, median, 90th, 99th percentile and greatest, by nearest rank."""
    if not lengths:
        return {}
    ordered = sorted(lengths)

    def rank(share: float) -> int:
        return ordered[max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1)]

    return {"least": ordered[0], "median": rank(0.5), "p90": rank(0.9), "p99": rank(0.99), "greatest": ordered[-1]}


def characters(rows: Iterable[Row]) -> dict[str, dict[str, int]]:
    rows = list(rows)
    prompts = quantiles([sum(len(m.content) for m in row.prompt) for row in rows])
    return {"prompt": prompts, "answer": quantiles([len(row.answer) for row in rows])}


def label_counts(rows: Iterable[Row]) -> dict[str, int]:
    """How many rows each label has, most first, equal ones by name."""
    counts = Counter(row.label for row in rows if row.label is not None)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def source_counts(rows: Iterable[Row]) -> dict[str, int]:
    """How many rows each source of a collection has, by name; empty where there is no collection."""
    return dict(sorted(Counter(row.source for row in rows if row.source is not None).items()))


def contradictions(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Inputs that stand with several labels (or answers): {input, labels, places}. Which of them is right is not
    guessed."""
    by_prompt: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_prompt["\0".join(f"{m.role}:{normalize(m.content)}" for m in row.prompt)].append(row)
    found = []
    for same in by_prompt.values():
        labels = {_said(row): None for row in same}
        if len(labels) > 1:
            found.append(
                {
                    "input": _short(same[0].input_text),
                    "labels": [_short(label) for label in labels],
                    "places": [str(row.place) for row in same],
                }
            )
    return found


def _said(row: Row) -> str:
    return row.label if row.label is not None else normalize(row.answer)


def _short(text: str, limit: int = 120) -> str:
    text = printable(" ".join(text.split()))
    return text if len(text) <= limit else text[: limit - 3] + "..."


def label_warnings(rows: Sequence[Row]) -> list[str]:
    """What is odd about the labels: nearly all the same, spellings that differ in case only, labels with a single
    row."""
    from tailorbird.data.rows import similar_labels

    counts = label_counts(rows)
    total = sum(counts.values())
    warnings = []
    if len(counts) == 1:
        warnings.append(f"every row has the label {next(iter(counts))!r}: nothing can be learned from one class (D36)")
    elif counts and next(iter(counts.values())) >= LOPSIDED * total:
        label, count = next(iter(counts.items()))
        warnings.append(
            f"{100 * count / total:.1f} % of the rows have the label {label!r} (D36): look at recall by label"
        )
    for first, second in similar_labels(counts)[:5]:
        warnings.append(f"the labels {first!r} and {second!r} differ only in case or separators (D35): are they one?")
    single = [label for label, count in counts.items() if count == 1]
    if single and len(counts) > 1:
        named = ", ".join(map(repr, single[:5])) + (" ..." if len(single) > 5 else "")
        warnings.append(
            f"{len(single)} of {len(counts)} labels have a single row, which cannot be both trained and tested: {named}"
        )
    return warnings
