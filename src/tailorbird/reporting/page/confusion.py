"""Which label is taken for which: a heat table for few labels, the most frequent confusions for many; recalls."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from tailorbird.reporting.contestants import pick
from tailorbird.reporting.page.answers import measured_labels, split_of
from tailorbird.reporting.page.input import ReportInput
from tailorbird.types import Outcome

MOST_HEAT_LABELS = 20
MOST_PAIRS = 15
OTHER = "(none of the labels)"


@dataclass(frozen=True)
class Heat:
    """`cells[i][j]`: rows of label i answered as label j, with a shade from 0 to 9."""

    contestant: str
    labels: list[str]
    cells: list[list[tuple[int, int]]]
    opened: bool


@dataclass(frozen=True)
class Pairs:
    contestant: str
    pairs: list[tuple[str, str, int, int]]  # expected, given, rows, rows of the expected label
    wrong: int
    opened: bool


@dataclass(frozen=True)
class Recall:
    """One label: rows, and for each contestant the share answered right with its shade."""

    label: str
    n: int
    shares: list[tuple[float, int]]


def labels_of(outcomes: Sequence[Outcome]) -> list[str]:
    return sorted({o.expected for o in outcomes}, key=str.casefold)


def tables(data: ReportInput) -> tuple[list[Heat], list[Pairs]]:
    """For each contestant one of the two; the verdict's own is open, the others are folded."""
    if data.comparison.get("task") != "classify":
        return [], []
    split, chosen = split_of(data), pick(data.comparison)
    heats, pairs = [], []
    named = measured_labels(data, split)
    first = chosen["label"] if chosen and chosen["label"] in named else (named[0] if named else None)
    for label in sorted(named, key=lambda name: name != first):
        outcomes = list(data.outcomes[label][split])
        labels = labels_of(outcomes)
        if len(labels) <= MOST_HEAT_LABELS:
            heats.append(heat(label, labels, outcomes, label == first))
        else:
            pairs.append(frequent(label, set(labels), outcomes, label == first))
    return heats, pairs


def counted(outcomes: Sequence[Outcome], labels: set[str]) -> Counter[tuple[str, str]]:
    """Answers that are no label at all are one class: their text is a model's, and may be long."""
    return Counter((o.expected, o.given if o.given in labels else OTHER) for o in outcomes)


def heat(contestant: str, labels: list[str], outcomes: Sequence[Outcome], opened: bool) -> Heat:
    found, totals = counted(outcomes, set(labels)), Counter(o.expected for o in outcomes)
    columns = labels + ([OTHER] if any(given == OTHER for _, given in found) else [])
    cells = [
        [(found[(row, column)], shade(found[(row, column)] / totals[row])) for column in columns] for row in labels
    ]
    return Heat(contestant, columns, cells, opened)


def frequent(contestant: str, labels: set[str], outcomes: Sequence[Outcome], opened: bool) -> Pairs:
    found, totals = counted(outcomes, labels), Counter(o.expected for o in outcomes)
    wrong = {pair: n for pair, n in found.items() if pair[0] != pair[1]}
    ordered = sorted(wrong.items(), key=lambda item: (-item[1], item[0]))[:MOST_PAIRS]
    return Pairs(contestant, [(e, g, n, totals[e]) for (e, g), n in ordered], sum(wrong.values()), opened)


def recalls(data: ReportInput) -> tuple[list[str], list[Recall]]:
    """(contestants, labels hardest first): the mean over contestants but `majority` decides what is hard."""
    if data.comparison.get("task") != "classify":
        return [], []
    split = split_of(data)
    named = [label for label in measured_labels(data, split) if label != "majority"]
    right: dict[str, dict[str, float]] = {label: defaultdict(float) for label in named}
    totals: Counter[str] = Counter()
    for index, label in enumerate(named):
        for o in data.outcomes[label][split]:
            right[label][o.expected] += o.score  # over seeds: the share of them that were right
            totals[o.expected] += index == 0
    lines = []
    for name, n in totals.items():
        shares = [right[label][name] / n for label in named]
        lines.append(Recall(name, n, [(share, shade(share)) for share in shares]))
    lines.sort(key=lambda line: (sum(share for share, _ in line.shares), line.label))
    return named, lines


def shade(share: float) -> int:
    """0 (nothing) to 9 (all); a single row of many is still seen."""
    return 0 if share <= 0 else max(1, min(9, round(9 * share)))
