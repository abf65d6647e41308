"""The recommendation's reason: one sentence with its numbers, in words a manager reads. Claims no more than was shown.

A point is a hundredth of the scale: 0.85 to 0.88 are 3 points. Differences carry their 95 % interval in brackets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tailorbird.types import Difference

if TYPE_CHECKING:
    from tailorbird.measure.recommend import Candidate, _Decision

_SHARES = {"accuracy", "exact_match"}
_NAMES = {"token_f1": "token F1", "rouge_l": "ROUGE-L", "chrf": "chrF"}


def points(value: float, *, signed: bool = False) -> str:
    """0.03 -> "3 points", 0.0125 signed -> "+1.2 points"."""
    text = _point_number(value, signed=signed).removesuffix(".0")
    return f"{text} point{'' if text.lstrip('+−') == '1' else 's'}"


def _point_number(value: float, *, signed: bool = False) -> str:
    rounded = round(100 * value, 1)
    text = f"{abs(rounded):.1f}"
    if rounded < 0:
        return f"−{text}"
    return f"+{text}" if signed and rounded > 0 else text


def difference(d: Difference, *, signed: bool = True) -> str:
    """ "+1.2 points (−0.5 to +2.9)"; not signed, after a word that says the direction: "1.2 points (0.4 to 2.9)" """
    low, high = _point_number(d.low, signed=signed), _point_number(d.high, signed=signed)
    return f"{points(d.difference, signed=signed)} ({low} to {high})"


def scored(candidate: Candidate, metric: str) -> str:
    """ "91.3 % right (87.6 to 94.0) on 300 Validation rows" """
    from tailorbird.measure.compare import score

    s = score(candidate.outcomes)
    if metric in _SHARES:
        figure = f"{100 * s.score:.1f} % right ({100 * s.low:.1f} to {100 * s.high:.1f})"
    else:
        figure = f"{_NAMES.get(metric, metric)} {s.score:.3f} ({s.low:.3f} to {s.high:.3f})"
    return f"{figure} on {s.n} Validation rows"


def use(decision: _Decision, label: Candidate) -> str:
    clauses = [_standing(decision, label)]
    if decision.others:
        clauses.append(_better_than_others(decision, label))
    sentence = f"use {label.label}: {', '.join(clauses)}"
    passed_over = [c for c in decision.techniques if c not in decision.fit and c.score > label.score]
    if passed_over:
        sentence += f"; {_names(passed_over)} scored higher but {_does(passed_over)} not meet the requirements"
    return sentence


def keep(decision: _Decision, kept: Candidate) -> str:
    """Every close technique is shown to be less than the margin better; the one that comes nearest to it is quoted."""
    nearest = max(decision.close, key=lambda c: decision.d(c, kept).high)
    shown = difference(decision.d(nearest, kept))
    margin = points(decision.margin)
    if kept.kind == "imported":
        none = _none_of_the_close(decision)
        return (
            f"keep {kept.label}: {none} is better by {margin} or more; the nearest, {nearest.label}, differs by {shown}"
        )
    return (
        f"keep it simple: {kept.label} is as good on this data within {margin}; "
        f"the nearest technique, {nearest.label}, differs by {shown}"
    )


def _none_of_the_close(decision: _Decision) -> str:
    """Only for the close ones has it been shown; "no technique" is said when those are all, or the rest is worse."""
    if decision.open:
        return "none of the leading techniques"
    return (
        "no technique" if len(decision.fit) == len(decision.techniques) else "no technique that meets the requirements"
    )


def undecided(decision: _Decision, label: Candidate, unbeaten: Sequence[Candidate], rows: int | None) -> str:
    hardest = max(unbeaten, key=lambda o: -decision.d(label, o).low)
    sentence = (
        f"undecided: {label.label} is {_standing(decision, label)}, but not shown to be better than "
        f"{hardest.label}: {difference(decision.d(label, hardest))}"
    )
    others = [o for o in unbeaten if o is not hardest]
    if others:
        sentence += f", nor than {_names(others, 'or')}"
    if rows is None:
        return f"{sentence}; too close for any sensible number of further rows to decide"
    return f"{sentence}; about {_count(rows)} more Validation rows would decide"


def none_finished(tried: Sequence[Candidate]) -> str:
    if not tried:
        return "no recommendation: there is no technique among the contestants"
    told = "; ".join(f"{c.label} {c.state}{f' ({c.note})' if c.note else ''}" for c in tried)
    return f"no recommendation: no technique finished: {told}"


def none_meets(techniques: Sequence[Candidate]) -> str:
    told = "; ".join(f"{c.label} misses {c.misses or _missed_keys(c)}" for c in techniques)
    return f"no recommendation: no technique meets the requirements: {told}"


def _missed_keys(c: Candidate) -> str:
    return ", ".join(key for key, met in c.meets.items() if met is not True)


def _standing(decision: _Decision, label: Candidate) -> str:
    """How it stands among the techniques."""
    best = decision.b
    if label is best:
        rank = "the best of the techniques" if len(decision.fit) > 1 else "the only technique to choose from"
        if 1 == len(decision.fit) < len(decision.techniques):
            rank = "the only technique that meets the requirements"
        return f"{rank}, {scored(label, decision.metric)}"
    saved = _saved(label, best)
    compared = f"as good as {best.label} within {points(decision.margin)} [{difference(decision.d(label, best))}]"
    return f"{compared}, {saved}" if saved else compared


def _saved(label: Candidate, best: Candidate) -> str:
    """What the cheaper one saves: "28 times smaller", "needing 3.1 times less computing a request", or nothing said."""
    parts = []
    if label.deployed_bytes is not None and best.deployed_bytes:
        if label.deployed_bytes == 0:
            parts.append("nothing to deploy beyond the base")
        elif best.deployed_bytes >= 1.1 * label.deployed_bytes:
            parts.append(f"{_times(best.deployed_bytes / label.deployed_bytes)} smaller")
    if label.flops_per_request and best.flops_per_request and best.flops_per_request >= 1.1 * label.flops_per_request:
        parts.append(f"{_times(best.flops_per_request / label.flops_per_request)} less computing a request")
    return " and ".join(parts)


def _better_than_others(decision: _Decision, label: Candidate) -> str:
    """It has beaten every one of them; the one it has beaten least clearly is quoted."""
    nearest = min(decision.others, key=lambda o: decision.d(label, o).low)
    shown = f"better than {nearest.label} by {difference(decision.d(label, nearest), signed=False)}"
    rest = [o for o in decision.others if o is not nearest]
    return (
        f"{shown} and than {_names(rest)} by more"
        if rest and _by_more(decision, label, nearest, rest)
        else (f"{shown} and than {_names(rest)}" if rest else shown)
    )


def _by_more(decision: _Decision, label: Candidate, nearest: Candidate, rest: Sequence[Candidate]) -> bool:
    least = decision.d(label, nearest).difference
    return all(decision.d(label, o).difference > least for o in rest)


def _count(value: int) -> str:
    """With spaces between thousands, as the tables write it."""
    return f"{value:,}".replace(",", " ")


def _times(ratio: float) -> str:
    return f"{ratio:.0f} times" if ratio >= 10 else f"{ratio:.1f} times".replace(".0 times", " times")


def _names(candidates: Sequence[Candidate], word: str = "and") -> str:
    labels = [c.label for c in candidates]
    return labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} {word} {labels[-1]}"


def _does(candidates: Sequence[Candidate]) -> str:
    return "does" if len(candidates) == 1 else "do"
