"""The choice, made on Validation and sealed before Test is opened; and the opening, counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import SimpleNamespace

from tailorbird.measure.comparison import Record, candidates
from tailorbird.measure.recommend import Recommendation, recommend
from tailorbird.measure.requirements import check
from tailorbird.plan import Entrant
from tailorbird.running.workshop import Work, Workshop

SEAL = 1


@dataclass(frozen=True)
class Seal:
    key: str
    recommendation: Recommendation
    sealed_at: str

    @property
    def opens_test(self) -> bool:
        """Test stays closed when no technique finished: there is no choice that it could confirm."""
        return self.recommendation.exit_code in (0, 8)


def record(shop: Workshop, work: Work, *, after_test: bool = False) -> Record:
    """A contestant as `measure` and the report see it."""
    entrant, made = work.entrant, work.made
    cost = {
        "train_seconds": made.get("train_seconds"),
        "train_tokens": made.get("train_tokens"),
        "peak_memory_mb": made.get("peak_memory_mb"),
        **work.cost,
    }
    score = work.measurements["validation"].score if "validation" in work.measurements else None
    met = check(
        asked(shop),
        score=score,
        latency_ms=work.cost.get("latency_ms"),
        forgetting=work.forgetting,
        deployed_bytes=work.cost.get("deployed_bytes"),
    )
    technique = entrant.kind == "technique"
    done = work.state == "done"
    state = "failed" if work.state == "failed" else "done" if done else "skipped"
    return Record(
        label=entrant.label,
        kind=entrant.kind,
        technique=entrant.technique,
        base=shop.material.base.name if technique or "adapter" in entrant.source else None,
        state=state,  # type: ignore[arg-type]
        note=work.note or made_notes(work),
        measurements=work.measurements,
        uncalibrated=work.uncalibrated or None,
        forgetting=work.forgetting,
        cost=cost if done else {},
        settings={
            "asked": dict(entrant.asked),
            "effective": {**entrant.effective, **work.found, **_replay(entrant)},
        },
        artifact=work.artifact.relative_to(shop.folder.path).as_posix() if work.artifact and done else None,
        seeds=tuple(shop.plan.seed + n for n in range(entrant.seeds)) if technique else (),
        exported_seed=shop.plan.seed + work.exported if technique else None,
        tuning=work.tuning,
        curve=work.curve,
        meets=met.meets if technique and done else {},
        misses=met.misses if technique and done else "",
        after_test=after_test,
        after=entrant.after,
        exit_code=work.exit_code,
    )


def _replay(entrant: Entrant) -> dict[str, float]:
    """Its part of general talk beside its settings, where there is one or it was asked for."""
    return {"replay": entrant.replay} if entrant.replay or "replay" in entrant.asked else {}


def made_notes(work: Work) -> str | None:
    """What the making of it had to say (fallbacks, repairs), and the search for its settings."""
    searched = [work.tuning["said"]] if work.tuning else []
    return "; ".join([*searched, *(work.made.get("notes") or ())]) or None


def asked(shop: Workshop) -> SimpleNamespace:
    names = ("min_score", "latency_ms", "max_forgetting", "max_deployed_mb")
    return SimpleNamespace(**{name: shop.plan.requirements.get(name) for name in names})


def seal(shop: Workshop, works: Sequence[Work]) -> Seal:
    """The recommendation by sealed Validation figures; kept as a step, so that it is made once."""
    plan = shop.plan
    records = [record(shop, work) for work in works]
    inputs = {
        "first": shop.folder.state()["first"],
        "requirements": dict(plan.requirements),
        "contestants": [
            [w.label, w.state, w.keys.get("validation"), w.keys.get("latency"), w.keys.get("bits")] for w in works
        ],
        "test": shop.row_ids("test"),
    }
    step = shop.steps.step("seal", inputs, SEAL)
    if not step.done:
        step.begin()
        made = recommend(candidates(records), plan.requirements["margin"], plan.task["metric"])
        at = datetime.now(UTC).isoformat(timespec="seconds")
        step.finish({"recommendation": made.as_dict(), "sealed_at": at})
    result = step.result()
    made = Recommendation.from_dict(result["recommendation"])
    shop.events.emit("sealed", verdict=made.verdict, label=made.label or made.kept, reason=made.reason)
    return Seal(step.key, made, result["sealed_at"])


def keys(works: Sequence[Work]) -> dict[str, str]:
    return {w.label: w.keys["validation"] for w in works if "validation" in w.keys}


def test_rows(shop: Workshop) -> list[str]:
    return [row.id for row in shop.material.splits.test]


def open_test(shop: Workshop, works: Sequence[Work], sealed: Seal) -> None:
    shop.folder.open_test(sealed.key, keys(works), test_rows(shop))
