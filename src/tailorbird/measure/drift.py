"""Drift: how far a customized base has moved from the bare one where it was not asked to.

Mean KL(base || customized) per token, nats, along the bare base's own greedy answers to general prompts. The direction
is that of a model held to its reference (Ouyang et al. 2022, eq. 2, has the customized one's samples; here the base's
answers are given, so that every contestant is measured on the same tokens). The interval resamples prompts: the
tokens of one answer are not independent. 0 is said for the same function only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from tailorbird.measure.bootstrap import bootstrap

ANSWER_TOKENS = 48
FAST_OF_A_KIND = 2  # prompts: 20 of 60, where `data.retention` is `fast`


@dataclass(frozen=True)
class DriftPrompt:
    """One user turn of general talk; `kind`: facts, writing, code, …"""

    id: str
    kind: str
    text: str


def drift_prompts(*, fast: bool = False) -> tuple[DriftPrompt, ...]:
    """The built-in prompts, written for this project; `fast` takes the first two of each kind."""
    file = resources.files("tailorbird.measure").joinpath("drift_prompts.jsonl")
    prompts = tuple(DriftPrompt(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines())
    if not fast:
        return prompts
    of_kind: dict[str, list[DriftPrompt]] = {}
    for prompt in prompts:
        of_kind.setdefault(prompt.kind, []).append(prompt)
    return tuple(prompt for kind in of_kind.values() for prompt in kind[:FAST_OF_A_KIND])


def drift(sums: Sequence[float], positions: Sequence[int], *, left_out: int = 0) -> dict[str, Any]:
    """{"value", "low", "high", "prompts", "tokens", "left_out"}. `sums`: of KL over the `positions` of each answer,
    nats; `left_out`: prompts that some contestant has no room for.
    """
    if not sums or len(sums) != len(positions):
        raise ValueError(f"{len(sums)} sums for {len(positions)} answers")
    tokens = sum(positions)
    if any(sums):
        rates = [value / count for value, count in zip(sums, positions, strict=True)]
        bounds = min(0.0, *rates), max(0.0, *rates)  # a KL has no upper bound: what was seen stands in for it
        low, high = bootstrap(sums, bounds=bounds, weights=positions, name="drift")
    else:
        low = high = 0.0
    span = {"value": sum(sums) / tokens, "low": low, "high": high}
    return {**span, "prompts": len(sums), "tokens": tokens, "left_out": left_out}
