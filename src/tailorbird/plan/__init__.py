"""Spec + facts -> a typed plan, a pure function. The plan is all that a run obeys: it never looks at the spec again.

Every field of the spec that is set must be claimed here; one that nothing claims stops the run before any compute.
"""

from tailorbird.plan.claims import Claims
from tailorbird.plan.document import Entrant, Plan, Reading
from tailorbird.plan.facts import Facts, Lengths, MadeBefore, measure_lengths, measure_replay
from tailorbird.plan.making import DEFAULT_CONTESTANTS, make_plan, reading, refuse_too_long, wrong_settings

__all__ = [
    "Plan", "Entrant", "Reading", "Facts", "Lengths", "MadeBefore", "measure_lengths", "measure_replay", "make_plan",
    "reading", "refuse_too_long", "Claims", "DEFAULT_CONTESTANTS", "wrong_settings",
]  # fmt: skip
