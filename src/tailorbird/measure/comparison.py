"""comparison.json: the ranked rows of a run, their differences, and what can be said of them. Pure data in, pure data
out.

Differences: `versus_best` against the technique that is best on Validation, `versus_base` against zero_shot
uncalibrated; the p of each family and split is Holm-adjusted (`p`), the plain one stands beside it (`p_unadjusted`).
A difference that does not exist (the best against itself, a split not opened yet, a failed row) is {}.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tailorbird.measure.compare import compare, right_or_wrong
from tailorbird.measure.detectable import median_detectable
from tailorbird.measure.holm import holm
from tailorbird.measure.reasons import difference as said_difference
from tailorbird.measure.recommend import Candidate, Recommendation, highest
from tailorbird.measure.seeds import sample_sd, seed_means
from tailorbird.measure.slices import slices, worst
from tailorbird.types import JSON, Difference, Kind, Measurement, Outcome, SplitName, State

SCHEMA = 1
BASE_TECHNIQUE = "zero_shot"
SOURCE = "source="  # how a slice of a collection's data set is named
SPLITS: tuple[SplitName, ...] = ("validation", "test")
NOT_STABLE = ("train_seconds", "tuning_seconds", "all_seconds", "peak_memory_mb", "latency_ms", "energy", "money")
ONE_SEED = "this checkpoint, on rows like these"
SEVERAL_SEEDS = "the technique, over its seeds and rows like these"
OUTSIDE = "these answers, on rows like these"


@dataclass(frozen=True)
class Record:
    """All that is known of one contestant. `uncalibrated`: the untouched base's measurements, on the zero_shot record
    only.

    `cost` and `forgetting` as they stand in comparison.json. `after_test`: made after Test was seen. `after`: what it
    started from. `exported_seed`: which of `seeds` the artifact is of. `tuning` and `curve`: the search for its
    settings and its answer curve, as they stand in comparison.json.
    """

    label: str
    kind: Kind
    technique: str | None = None
    base: str | None = None
    state: State = "done"
    note: str | None = None
    measurements: Mapping[str, Measurement] = field(default_factory=dict)
    uncalibrated: Mapping[str, Measurement] | None = None
    forgetting: JSON | None = None
    cost: JSON = field(default_factory=dict)
    settings: JSON = field(default_factory=lambda: {"asked": {}, "effective": {}})
    artifact: str | None = None
    seeds: tuple[int, ...] = ()
    exported_seed: int | None = None
    tuning: JSON | None = None
    curve: JSON | None = None
    meets: Mapping[str, bool | None] = field(default_factory=dict)
    misses: str = ""
    after_test: bool = False
    after: str | None = None
    exit_code: int = 1

    def outcomes(self, split: str) -> tuple[Outcome, ...]:
        return self.measurements[split].outcomes if self.done and split in self.measurements else ()

    @property
    def done(self) -> bool:
        return self.state == "done"


def candidates(records: Sequence[Record]) -> list[Candidate]:
    """What `recommend` looks at, in the order given (spec order)."""
    return [
        Candidate(
            label=r.label,
            kind=r.kind,
            state=r.state,
            outcomes=r.outcomes("validation"),
            flops_per_request=r.cost.get("flops_per_request"),
            deployed_bytes=r.cost.get("deployed_bytes"),
            meets=r.meets,
            misses=r.misses,
            note=r.note,
            exit_code=r.exit_code,
        )
        for r in records
    ]


def build(
    *,
    run: str,
    task: str,
    metric: str,
    base: JSON,
    splits: JSON,
    requirements: JSON,
    records: Sequence[Record],
    recommendation: Recommendation | Mapping[str, Any] | None = None,
    on_test: str | None = None,
    sealed_at: str | None = None,
    lineage: int = 1,
) -> JSON:
    """The dict of comparison.json; rows in spec order. `recommendation` None: not sealed yet."""
    best = best_on_validation(records)
    families = {"versus_best": _reference_of(best), "versus_base": _bare_base(records)}
    versus = {name: {split: _family(records, against, split) for split in SPLITS} for name, against in families.items()}
    rows = [_row(record, task, {name: {s: versus[name][s] for s in SPLITS} for name in versus}) for record in records]
    return {
        "schema": SCHEMA,
        "run": run,
        "lineage": lineage,
        "task": task,
        "metric": metric,
        "requirements": requirements,
        "base": base,
        "splits": splits,
        "smallest_detectable": {split: _detectable(records, best, split) for split in SPLITS},
        "rows": rows,
        "recommendation": _recommendation(recommendation, on_test, sealed_at),
        "verdicts": verdicts(records, task),
    }


def best_on_validation(records: Sequence[Record]) -> Record | None:
    """The technique with the highest Validation score; equal ones: the cheapest, then spec order."""
    measured = [c for c in candidates(records) if c.kind == "technique" and c.outcomes]
    if not measured:
        return None
    label = highest(measured).label
    return next(r for r in records if r.label == label)


def ranked(comparison: JSON) -> list[JSON]:
    """Its rows in display order: best Validation score first, equal ones in spec order; failed and skipped last."""

    def place(row: JSON) -> tuple[int, float]:
        score = (row.get("validation") or {}).get("score")
        return (0, -score) if row.get("state") == "done" and score is not None else (1, 0.0)

    return sorted(comparison["rows"], key=place)


def stable(comparison: JSON) -> JSON:
    """A copy without what differs between equal runs: times, memory, money, the moment of sealing."""
    kept = copy.deepcopy(comparison)
    for row in kept["rows"]:
        for name in NOT_STABLE:
            (row.get("cost") or {}).pop(name, None)
    (kept.get("recommendation") or {}).pop("sealed_at", None)
    return kept


def verdicts(records: Sequence[Record], task: str) -> list[str]:
    """Sentences on single contestants, on Test where it was opened, else on Validation; they say what was shown."""
    bare = _bare_base(records)
    said = []
    for record in records:
        split = next((s for s in reversed(SPLITS) if record.outcomes(s)), None)
        if split is None or record.kind == "reference":
            continue
        against = bare.get(split) if bare else None
        if record.kind == "technique" and record.technique != BASE_TECHNIQUE and against:
            d = compare(record.outcomes(split), against)
            if d.low <= 0 <= d.high:
                said.append(f"{record.label}: no measurable effect")
            elif d.high < 0:
                said.append(
                    f"{record.label}: worse than the untouched base by {said_difference(_mirrored(d), signed=False)}"
                )
        if task == "classify":
            said += _chance(record, split)
    return said


def _chance(record: Record, split: str) -> list[str]:
    """Set beside the share of the commonest label, which an answerer reaches that reads nothing."""
    expected = Counter(o.expected for o in record.outcomes(split))
    share = max(expected.values()) / sum(expected.values())
    score = record.measurements[split].score
    if score.high < share:
        return [f"{record.label}: worse than always giving the commonest label ({share:.2f})"]
    if score.low <= share:
        return [
            f"{record.label}: no better than chance as far as these {score.n} rows can show "
            f"(always giving the commonest label gets {share:.2f})"
        ]
    return []


def _mirrored(d: Difference) -> Difference:
    return replace(d, difference=-d.difference, low=-d.high, high=-d.low)


def _reference_of(record: Record | None) -> dict[str, tuple[Outcome, ...]]:
    return {split: record.outcomes(split) for split in SPLITS if record.outcomes(split)} if record else {}


def _bare_base(records: Sequence[Record]) -> dict[str, tuple[Outcome, ...]]:
    """Outcomes of zero_shot uncalibrated; as measured where the record has no other (tasks without calibration)."""
    record = next((r for r in records if r.technique == BASE_TECHNIQUE and r.done), None)
    if record is None:
        return {}
    bare = {split: m.outcomes for split, m in (record.uncalibrated or {}).items()}
    return _reference_of(record) | bare


def _family(records: Sequence[Record], against: Mapping[str, tuple[Outcome, ...]], split: str) -> dict[str, JSON]:
    """{label: the difference of that row} with p adjusted over all of them."""
    reference = against.get(split, ())
    found = {
        r.label: compare(r.outcomes(split), reference)
        for r in records
        if reference and r.outcomes(split) and r.outcomes(split) is not reference
    }
    adjusted = dict(zip(found, holm([d.p for d in found.values()]), strict=True))
    return {
        label: {"difference": d.difference, "low": d.low, "high": d.high, "p": adjusted[label], "p_unadjusted": d.p}
        for label, d in found.items()
    }


def _detectable(records: Sequence[Record], best: Record | None, split: str) -> float | None:
    """At the median discordance with the best technique, of graded scores at the median variance."""
    if best is None or not best.outcomes(split):
        return None
    rivals = [r for r in records if r is not best and r.outcomes(split)]
    graded = not all(right_or_wrong([o.score for o in r.outcomes(split)]) for r in (best, *rivals))
    return median_detectable((compare(r.outcomes(split), best.outcomes(split)) for r in rivals), graded=graded)


def _row(record: Record, task: str, versus: Mapping[str, Mapping[str, Mapping[str, JSON]]]) -> JSON:
    return {
        "label": record.label,
        "kind": record.kind,
        "technique": record.technique,
        "base": record.base,
        "state": record.state,
        "after": record.after,
        "after_test": record.after_test,
        "seeds": list(record.seeds),
        **_by_seed(record),
        "interval_is_about": _about(record),
        "meets": dict(record.meets),
        "misses": record.misses or None,
        **{split: _score(record, split) for split in SPLITS},
        **{name: {s: versus[name][s].get(record.label, {}) for s in SPLITS} for name in versus},
        "slices": _slices(record, task),
        "forgetting": record.forgetting or {"state": "not_applicable"},
        "cost": dict(record.cost),
        "settings": dict(record.settings),
        "tuning": record.tuning,
        "curve": record.curve,
        "artifact": record.artifact,
        "note": record.note,
    }


def _about(record: Record) -> str:
    if record.kind != "technique":
        return OUTSIDE
    if len(record.seeds) < 2:
        return ONE_SEED
    return SEVERAL_SEEDS + (f", all from one {record.after}" if record.after else "")


def _by_seed(record: Record) -> JSON:
    """The scores of each seed, which of them is exported, and the noise floor: their standard deviation."""
    if len(record.seeds) < 2 or not record.outcomes("validation"):
        return {"by_seed": [], "seed_sd": {}}
    scores = {s: seed_means([o.by_seed for o in record.outcomes(s)]) for s in SPLITS if record.outcomes(s)}
    lines = [
        {"seed": seed, "exported": seed == record.exported_seed, **{s: found[n] for s, found in scores.items()}}
        for n, seed in enumerate(record.seeds)
    ]
    return {"by_seed": lines, "seed_sd": {s: sample_sd(found) for s, found in scores.items()}}


def _score(record: Record, split: str) -> JSON | None:
    if not record.outcomes(split):
        return None
    s = record.measurements[split].score
    return {"score": s.score, "low": s.low, "high": s.high, "n": s.n, "other": dict(s.other)}


def _slices(record: Record, task: str) -> JSON:
    """The worst part on Test where it was opened, else on Validation; `of`: how many parts it is the worst of.
    `sources`: every data set of a collection by its name."""
    split = next((s for s in reversed(SPLITS) if record.outcomes(s)), None)
    if split is None:
        return {"worst": None}
    found = slices(record.outcomes(split), by_label=task == "classify")
    lowest = worst(found)
    worst_one = None if lowest is None else {**asdict(lowest), "split": split, "of": len(found)}
    sources = {s.name.removeprefix(SOURCE): asdict(s) | {"split": split} for s in found if s.name.startswith(SOURCE)}
    return {"worst": worst_one} | ({"sources": sources} if sources else {})


def _recommendation(
    recommendation: Recommendation | Mapping[str, Any] | None, on_test: str | None, sealed_at: str | None
) -> JSON | None:
    if recommendation is None:
        return None
    sealed = recommendation.as_dict() if isinstance(recommendation, Recommendation) else dict(recommendation)
    return sealed | {"on_test": on_test, "sealed_at": sealed_at if sealed_at is not None else sealed.get("sealed_at")}
