"""Which contestant to use: a deterministic rule over Validation outcomes, sealed before Test is opened.

    D(a,b) = (d, lo, hi): Validation difference a - b, paired 95 % interval (unadjusted); m = margin
    T = done techniques;  O = done imported and reference rows;  R = those of T that meet every requirement
    cheap(S) = among those within 10 % of the fewest FLOPs: least deployed bytes, then FLOPs, then spec order
    b = highest score in R (several equal: cheap of those)
    close = {b} + {c in R: lo D(c,b) > -m};  worse = {c: hi D(c,b) < -m};  open = the rest of R
    proven = {c in close: lo D(c,o) > 0 for every o in O}
    use        if proven: cheap(proven); undecided = those of open that are cheaper
    keep       else if some o in O has hi D(c,o) < m for every c in close: the highest such o
    undecided  else: cheap(close); undecided = cheaper open and each o it has not beaten
    none       if T or R is empty

It knows nothing of how answers came about, and of costs only two numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tailorbird.measure import reasons
from tailorbird.measure.compare import compare
from tailorbird.measure.detectable import POWER, rows_for_margin
from tailorbird.types import Difference, Kind, Outcome, State

Verdict = Literal["use", "keep", "undecided", "none"]
OnTest = Literal["confirmed", "not confirmed", "contradicted"]
ALL_SKIPPED, NONE_MEETS = 2, 8  # exit codes
_SIMILAR_FLOPS = 1.10
_TOO_MANY = 100  # rows_to_decide beyond so many times n is no advice


@dataclass(frozen=True)
class Candidate:
    """A contestant as the rule sees it. `deployed_bytes` are beyond the base; `misses` says what it misses, by how
    much.
    """

    label: str
    kind: Kind
    state: State
    outcomes: tuple[Outcome, ...] = ()
    flops_per_request: float | None = None
    deployed_bytes: float | None = None
    meets: Mapping[str, bool | None] = field(default_factory=dict)
    misses: str = ""
    note: str | None = None
    exit_code: int = 1  # of the failure, when state is "failed"

    @property
    def score(self) -> float:
        return sum(o.score for o in self.outcomes) / len(self.outcomes)


@dataclass(frozen=True)
class Claim:
    """What Validation showed and Test is asked about. close: lo D(a,b) > -m; beats: lo D(a,b) > 0; within: hi D(a,b) <
    m.
    """

    kind: Literal["close", "beats", "within"]
    a: str
    b: str

    def holds(self, d: Difference, margin: float) -> bool:
        return {"close": d.low > -margin, "beats": d.low > 0, "within": d.high < margin}[self.kind]

    def contradicted(self, d: Difference, margin: float) -> bool:
        return {"close": d.high < -margin, "beats": d.high < 0, "within": d.low > margin}[self.kind]


@dataclass(frozen=True)
class Recommendation:
    """`exit_code` is not 0 only for verdict none. `best`: b of the rule. `claims`: what `on_test` looks at again."""

    verdict: Verdict
    label: str | None
    kept: str | None
    reason: str
    undecided: tuple[str, ...] = ()
    rows_to_decide: int | None = None
    margin: float = 0.02
    best: str | None = None
    claims: tuple[Claim, ...] = ()
    caveat: str | None = None
    exit_code: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"undecided": list(self.undecided), "claims": [asdict(c) for c in self.claims]}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Recommendation:
        """From a sealed step; keys that are not its own (`on_test`, `sealed_at`) are passed over."""
        own = {key: value[key] for key in cls.__dataclass_fields__ if key in value}
        own["undecided"] = tuple(value.get("undecided") or ())
        own["claims"] = tuple(Claim(**claim) for claim in value.get("claims") or ())
        return cls(**own)


class Differences:
    """D(a, b), each pair computed once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Difference] = {}

    def __call__(self, a: Candidate, b: Candidate) -> Difference:
        key = (a.label, b.label)
        if key not in self._known:
            self._known[key] = compare(a.outcomes, b.outcomes)
        return self._known[key]


def recommend(candidates: Sequence[Candidate], margin: float = 0.02, metric: str = "accuracy") -> Recommendation:
    """The rule. `candidates` in spec order, which breaks the last ties; `metric` is only named in the reason."""
    techniques = [c for c in candidates if c.kind == "technique" and c.state == "done"]
    others = [c for c in candidates if c.kind != "technique" and c.state == "done"]
    if not techniques:
        tried = [c for c in candidates if c.kind == "technique"]
        failures = [c.exit_code for c in tried if c.state == "failed"]
        return Recommendation(
            "none", None, None, reasons.none_finished(tried), margin=margin, exit_code=(failures or [ALL_SKIPPED])[0]
        )
    fit = [c for c in techniques if all(met is True for met in c.meets.values())]
    if not fit:
        return Recommendation("none", None, None, reasons.none_meets(techniques), margin=margin, exit_code=NONE_MEETS)
    return _Decision(fit, techniques, others, margin, metric).made()


def on_test(recommendation: Recommendation, outcomes: Mapping[str, Sequence[Outcome]]) -> OnTest | None:
    """The claims again, on Test. None when there was nothing to compare (no verdict, or one contestant alone).

    confirmed: every claim holds there. contradicted: the opposite of one is shown there. Else not confirmed. The sealed
    verdict is not changed.
    """
    if recommendation.verdict == "none" or not recommendation.claims:
        return None
    margin = recommendation.margin
    seen = [(claim, compare(outcomes[claim.a], outcomes[claim.b])) for claim in recommendation.claims]
    if any(claim.contradicted(d, margin) for claim, d in seen):
        return "contradicted"
    return "confirmed" if all(claim.holds(d, margin) for claim, d in seen) else "not confirmed"


def cheap(candidates: Iterable[Candidate]) -> Candidate:
    """Of those within 10 % of the fewest FLOPs a request: least to deploy, then fewest FLOPs, then first given."""
    among = list(candidates)
    fewest = min(_flops(c) for c in among)
    similar = [c for c in among if _flops(c) <= _SIMILAR_FLOPS * fewest]
    return min(similar, key=lambda c: (_deployed(c), _flops(c)))  # min keeps the first of equals: spec order


def highest(candidates: Sequence[Candidate]) -> Candidate:
    """The highest score; of several equal, the cheapest."""
    top = max(c.score for c in candidates)
    return cheap(c for c in candidates if c.score == top)


def _flops(c: Candidate) -> float:
    return math.inf if c.flops_per_request is None else c.flops_per_request


def _deployed(c: Candidate) -> float:
    return math.inf if c.deployed_bytes is None else c.deployed_bytes


class _Decision:
    """The rule below the first two cases, with the words of design §8 as attributes."""

    def __init__(
        self, fit: list[Candidate], techniques: list[Candidate], others: list[Candidate], margin: float, metric: str
    ) -> None:
        self.fit, self.techniques, self.others, self.margin, self.metric = fit, techniques, others, margin, metric
        self.d = Differences()
        self.b = b = highest(fit)
        self.close = [c for c in fit if c is b or self.d(c, b).low > -margin]
        self.worse = [c for c in fit if c not in self.close and self.d(c, b).high < -margin]
        self.open = [c for c in fit if c not in self.close and c not in self.worse]
        self.n = len(b.outcomes)

    def made(self) -> Recommendation:
        proven = [c for c in self.close if all(self.d(c, o).low > 0 for o in self.others)]
        if proven:
            return self._use(cheap(proven))
        as_good = [o for o in self.others if all(self.d(c, o).high < self.margin for c in self.close)]
        if as_good:
            return self._keep(max(as_good, key=lambda o: (o.score, o.kind == "imported")))
        return self._undecided(cheap(self.close))

    def _use(self, label: Candidate) -> Recommendation:
        undecided = self._cheaper_open(label)
        claims = [*self._closeness(label), *(Claim("beats", label.label, o.label) for o in self.others)]
        return self._result("use", reasons.use(self, label), label, undecided, claims)

    def _keep(self, kept: Candidate) -> Recommendation:
        claims = [Claim("within", c.label, kept.label) for c in self.close]
        return Recommendation(
            "keep",
            None,
            kept.label,
            reasons.keep(self, kept),
            margin=self.margin,
            best=self.b.label,
            claims=tuple(claims),
            caveat=self._caveat(),
        )

    def _undecided(self, label: Candidate) -> Recommendation:
        beaten = [o for o in self.others if self.d(label, o).low > 0]
        unbeaten = [o for o in self.others if o not in beaten]
        undecided = [*self._cheaper_open(label), *unbeaten]
        claims = [*self._closeness(label), *(Claim("beats", label.label, o.label) for o in beaten)]
        rows = self._rows_to_decide(label, undecided)
        return self._result("undecided", reasons.undecided(self, label, unbeaten, rows), label, undecided, claims)

    def _result(
        self, verdict: Verdict, reason: str, label: Candidate, undecided: list[Candidate], claims: list[Claim]
    ) -> Recommendation:
        return Recommendation(
            verdict,
            label.label,
            None,
            reason,
            tuple(c.label for c in undecided),
            self._rows_to_decide(label, undecided),
            self.margin,
            self.b.label,
            tuple(claims),
            self._caveat(),
        )

    def _cheaper_open(self, label: Candidate) -> list[Candidate]:
        # `c` first among equals would be spec order; here equal cost is not "cheaper", so the label stands first.
        return [c for c in self.open if cheap([label, c]) is c]

    def _closeness(self, label: Candidate) -> list[Claim]:
        """That the label is as good as the best; of the best itself, as good as each that is close to it."""
        if label is not self.b:
            return [Claim("close", label.label, self.b.label)]
        rivals = [c for c in self.close if c is not label and self.d(label, c).low > -self.margin]
        return [Claim("close", label.label, c.label) for c in rivals]

    def _rows_to_decide(self, label: Candidate, undecided: list[Candidate]) -> int | None:
        """Further rows that would decide the hardest of the open questions at 80 % power; None if out of reach."""
        if not undecided:
            return None
        return most_rows(
            [
                further_rows(self.d(label, c), 0.0)
                if c.kind != "technique"
                else further_rows(self.d(c, self.b), self.margin)
                for c in undecided
            ]
        )

    def _caveat(self) -> str | None:
        needed = rows_for_margin(self.margin)
        if needed is None or self.n >= needed:
            return None
        return (
            f"With {self.n} Validation rows no cheaper contestant can be shown to be within "
            f"{reasons.points(self.margin)} of the best: that takes at least {needed}."
        )


def further_rows(difference: Difference, margin: float) -> int | None:
    """ceil(7.85 s^2 / (g^2 - 7.85 v)) - n with g = d + margin and v what the seeds add to the variance; None if that is
    over 100 n, or if no number of rows decides, because the seeds vary too much.

    Without one discordant row (s = 0) the formula says nothing; against the margin the rule for such pairs holds
    (`rows_for_margin`), and where no difference is asked for (margin 0) no number of rows decides.
    """
    n, gap = difference.n, difference.difference + margin
    if difference.sd == 0.0 and difference.difference == 0.0 and margin > 0:
        needed: float = rows_for_margin(margin) or math.inf
    else:
        left = gap**2 - POWER * difference.seeds
        needed = math.ceil(POWER * difference.sd**2 / left) if left > 0.0 else math.inf
    # An interval can stay open where the approximation thinks that n is enough already: then one row more, not fewer.
    further = max(1.0, needed - n)
    return None if further > _TOO_MANY * n else int(further)


def most_rows(further: Sequence[int | None]) -> int | None:
    """The most of several; None (out of reach) goes before any number."""
    known = [rows for rows in further if rows is not None]
    return max(known) if known and len(known) == len(further) else None
