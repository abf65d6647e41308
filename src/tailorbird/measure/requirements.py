"""Does a contestant meet what the spec requires? Judged on Validation figures and costs; "not measured" is not "met".

| key             | met when                                                                     |
|-----------------|------------------------------------------------------------------------------|
| min_score       | the lower bound of the Validation score reaches it                           |
| latency_ms      | p95 of one request alone is at most so many milliseconds                     |
| max_forgetting  | the upper bound of the change in bits per byte on general texts is at most so |
| max_deployed_mb | what must be deployed beyond the base is at most so many MB (10^6 bytes)     |

`margin` is no requirement: it is what the recommendation calls "as good".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tailorbird.types import Score


class Asked(Protocol):
    """The spec's `requirements`; None is not asked."""

    @property
    def min_score(self) -> float | None: ...
    @property
    def latency_ms(self) -> float | None: ...
    @property
    def max_forgetting(self) -> float | None: ...
    @property
    def max_deployed_mb(self) -> float | None: ...


@dataclass(frozen=True)
class Met:
    """`meets`: each key asked -> True, False, or None (not measured). `misses`: what is missed, and by how much."""

    meets: dict[str, bool | None]
    misses: str

    @property
    def all(self) -> bool:
        return all(met is True for met in self.meets.values())


def check(
    asked: Asked,
    *,
    score: Score | None,
    latency_ms: Mapping[str, float] | None = None,
    forgetting: Mapping[str, Any] | None = None,
    deployed_bytes: float | None = None,
) -> Met:
    """`latency_ms` and `forgetting` as they stand in comparison.json ("not_applicable": the weights are untouched)."""
    meets: dict[str, bool | None] = {}
    misses: list[str] = []

    def judge(key: str, wished: float | None, found: float | None, what: str, unit: str, *, at_least: bool) -> None:
        if wished is None:
            return
        if found is None:
            meets[key] = None
            misses.append(f"{key}: not measured")
            return
        meets[key] = found >= wished if at_least else found <= wished
        if not meets[key]:
            by, word = abs(found - wished), "short" if at_least else "over"
            misses.append(f"{key}: {what} {_number(found)}{unit}, asked {_number(wished)}{unit} ({_number(by)} {word})")

    judge("min_score", asked.min_score, score.low if score else None, "lower bound", "", at_least=True)
    judge("latency_ms", asked.latency_ms, (latency_ms or {}).get("p95"), "p95", " ms", at_least=False)
    judge("max_forgetting", asked.max_forgetting, _forgotten(forgetting), "up to", " bits/byte", at_least=False)
    megabytes = None if deployed_bytes is None else deployed_bytes / 1e6
    judge("max_deployed_mb", asked.max_deployed_mb, megabytes, "deployed", " MB", at_least=False)
    return Met(meets, "; ".join(misses))


def _forgotten(forgetting: Mapping[str, Any] | None) -> float | None:
    if not forgetting:
        return None
    if forgetting.get("state") == "not_applicable":
        return 0.0  # a message prompt changes no weights: the base is there as it was
    change = forgetting.get("bits_per_byte") or {}
    high = change.get("high")
    return None if high is None else float(high)


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
