"""Wilson's score interval for a share.

Wilson 1927, "Probable inference, the law of succession, and statistical inference", JASA 22. Never leaves [0, 1],
and is not empty at 0 or n successes.
"""

from __future__ import annotations

import math

Z = 1.959963984540054  # standard normal quantile, two-sided 95 %


def wilson(successes: float, n: float, z: float = Z) -> tuple[float, float]:
    """(low, high) for `successes` of `n`; (0, 1) when nothing was seen. An effective n need not be whole."""
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}")
    if n == 0:
        return 0.0, 1.0
    share, weight = successes / n, z * z / n
    middle = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / n + weight / (4 * n))
    # At the ends the limit is 0 or 1 exactly; the square root misses it by a rounding error.
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    high = 1.0 if successes == n else min(1.0, middle + half)
    return low, high
