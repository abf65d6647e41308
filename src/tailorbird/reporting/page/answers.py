"""Rows side by side: what each contestant answered, rows where they disagree first, a capped sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tailorbird.reporting.contestants import done, in_order, pick, splits_for_reading
from tailorbird.reporting.page.input import ReportInput
from tailorbird.reporting.text import shortened
from tailorbird.types import JSON, Outcome, Role, Row, SplitName

MOST_DISAGREEING, MOST_AGREEING = 48, 16
INPUT_LIMIT, ANSWER_LIMIT = 700, 500
RIGHT = 0.999  # a score from here on is a right answer; below it scores of texts are shown as numbers


@dataclass(frozen=True)
class Said:
    """One answer and everyone who gave it."""

    text: str
    labels: list[str]
    score: float
    right: bool


@dataclass(frozen=True)
class Shown:
    """One row of the page. `css` holds the classes that the filter above the list works with."""

    place: str
    input: str
    earlier_turns: int
    expected: str
    said: list[Said]
    css: str
    spread: float


def split_of(data: ReportInput) -> SplitName:
    """The split whose rows may be read: Validation where there is one."""
    return next(
        (split for split in splits_for_reading(data.comparison) if any(split in s for s in data.outcomes.values())),
        "validation",
    )


def measured_labels(data: ReportInput, split: SplitName) -> list[str]:
    """Contestants with outcomes on this split, in the order of the table."""
    return [
        r["label"] for r in in_order(data.comparison) if done(r) and (data.outcomes.get(r["label"]) or {}).get(split)
    ]


def by_row(data: ReportInput, split: SplitName) -> dict[str, dict[str, Outcome]]:
    """{row id: {label: outcome}}, rows in the order of the first contestant."""
    table: dict[str, dict[str, Outcome]] = {}
    for label in measured_labels(data, split):
        for outcome in data.outcomes[label][split]:
            table.setdefault(outcome.row, {})[label] = outcome
    return table


def sample(data: ReportInput) -> tuple[list[Shown], int, int]:
    """(rows shown, rows where contestants disagree, rows in all) of the split that may be read."""
    if not data.shows_rows:
        return [], 0, 0
    split, chosen = split_of(data), pick(data.comparison)
    table, exported = by_row(data, split), exported_seeds(data.comparison)
    shown = [
        one_row(data.rows[row], answers, chosen["label"] if chosen else None, exported)
        for row, answers in table.items()
        if row in data.rows
    ]
    disagreeing = sorted((r for r in shown if r.spread > 0), key=lambda r: -r.spread)
    agreeing = sorted((r for r in shown if r.spread <= 0), key=lambda r: "f-all-wrong" not in r.css)
    return disagreeing[:MOST_DISAGREEING] + agreeing[:MOST_AGREEING], len(disagreeing), len(shown)


def exported_seeds(comparison: JSON) -> dict[str, int]:
    """{label: place of the seed whose answers are shown} of those that were made several times."""
    return {
        row["label"]: place
        for row in comparison["rows"]
        for place, one in enumerate(row.get("by_seed") or [])
        if one.get("exported")
    }


def one_row(row: Row, answers: dict[str, Outcome], chosen: str | None, exported: Mapping[str, int]) -> Shown:
    # The scores of the answers shown, each of which is one seed's: not the seeds' mean.
    own = {
        label: outcome.by_seed[exported[label]] if outcome.by_seed and label in exported else outcome.score
        for label, outcome in answers.items()
    }
    said: dict[str, list[str]] = {}
    for label, outcome in answers.items():
        said.setdefault(outcome.given, []).append(label)
    groups = [
        Said(shortened(text, ANSWER_LIMIT), labels, own[labels[0]], own[labels[0]] >= RIGHT)
        for text, labels in said.items()
    ]
    # `majority` says the same to every row: that it differs is no disagreement worth reading.
    scores = [score for label, score in own.items() if label != "majority"] or [0.0]
    expected = next(iter(answers.values())).expected
    css = ["f-all-wrong"] if max(scores) < 0.5 else []
    if chosen in own and own[chosen] < 0.5:
        css.append("f-pick-wrong")
    spread = disagreement(scores)
    css.append("f-disagree" if spread > 0 else "f-agree")
    place = f"{row.place}" + (f" · id {row.key}" if row.key else "")
    groups.sort(key=lambda g: -g.score)
    return Shown(
        place,
        shortened(row.input_text, INPUT_LIMIT),
        max(0, sum(message.role is not Role.SYSTEM for message in row.prompt) - 1),
        shortened(expected, ANSWER_LIMIT),
        groups,
        " ".join(css),
        spread,
    )


def disagreement(scores: Sequence[float]) -> float:
    """Variance of the row's scores: for right and wrong it is largest where half of the contestants are right."""
    mean = sum(scores) / len(scores)
    return sum((s - mean) ** 2 for s in scores) / len(scores)
