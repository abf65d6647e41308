"""Sign-flip (permutation) test of paired differences, by group.

If A and B were the same, each group's difference could as well have had the other sign (Fisher 1935; Good 2005).
Exact for up to 2^14 sign patterns, else drawn; the drawn p is (1 + as extreme) / (1 + draws), never 0 (Phipson and
Smyth 2010).
"""

from __future__ import annotations

from collections.abc import Sequence

from tailorbird.measure.groups import group_sums
from tailorbird.measure.streams import stream

DRAWS = 10_000
_EXACT = 14
_CHUNK = 2_000_000


def sign_flip(
    differences: Sequence[float], groups: Sequence[str] | None = None, *, name: str = "sign_flip", draws: int = DRAWS
) -> float:
    """Two-sided p of the sum of `differences`. 1.0 when all are 0."""
    import numpy as np

    sums = np.asarray([s for s in group_sums(differences, groups)[0] if s != 0.0])
    if sums.size == 0:
        return 1.0
    seen = abs(float(sums.sum())) * (1 - 1e-9) - 1e-12  # the pattern seen counts itself, whatever the rounding
    if sums.size <= _EXACT:
        patterns = np.arange(2**sums.size)[:, None] >> np.arange(sums.size) & 1
        return float(np.mean(np.abs((1 - 2 * patterns) @ sums) >= seen))
    rng = stream(f"{name}:{sums.size}")
    extreme = 0
    chunk = max(1, _CHUNK // sums.size)
    for start in range(0, draws, chunk):
        signs = 1 - 2 * rng.integers(0, 2, size=(min(chunk, draws - start), sums.size))
        extreme += int(np.count_nonzero(np.abs(signs @ sums) >= seen))
    return (1 + extreme) / (1 + draws)
