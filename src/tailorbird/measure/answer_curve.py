"""Score against the number of training rows, and what it says: would more labels help?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from tailorbird.measure.compare import compare
from tailorbird.types import JSON, Measurement

MoreLabels = Literal["yes", "not shown", "no"]


@dataclass(frozen=True)
class Point:
    """`share` percent of the Train rows, `rows` of them, and how the contestant that learned from them did."""

    share: int
    rows: int
    measurement: Measurement


def answer_curve(points: Sequence[Point], margin: float) -> JSON:
    """The points, the paired difference of the last two, and the verdict.

    yes: the interval lies above 0, the curve still rises. no: it lies below `margin`, so that what these rows added is
    shown to be less than what counts. Else not shown. A verdict about rows like these added to these, not about more
    of another kind.

    The last point may be of several seeds, the others are of one: the one before it is then taken to vary as the last
    does. `seeds`: of how many the last point is; of one, the interval knows of rows alone.
    """
    if len(points) < 2:
        raise ValueError("a curve needs two points")
    before, last = points[-2], points[-1]
    d = compare(last.measurement.outcomes, before.measurement.outcomes, alike=True)
    verdict: MoreLabels = "yes" if d.low > 0 else "no" if d.high < margin else "not shown"
    return {
        "points": [
            {"share": p.share, "rows": p.rows, **{k: v for k, v in asdict(p.measurement.score).items() if k != "other"}}
            for p in points
        ],
        "last_step": {
            "from": before.share, "to": last.share, "from_rows": before.rows, "to_rows": last.rows,
            "seeds": max(1, len(last.measurement.outcomes[0].by_seed)),
            "difference": d.difference, "low": d.low, "high": d.high, "p": d.p,
        },
        "more_labels": verdict,
    }  # fmt: skip
