"""Numbers as people read them: percent for shares, units that fit the size, a true minus sign, "–" for the unknown.

Everything takes plain values of `comparison.json` and gives short text; nothing here knows tables, pages or colours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

UNKNOWN = "–"
SHARES = frozenset({"accuracy", "exact_match", "macro_f1", "token_f1", "stop_rate"})  # shown in percent


def is_number(value: Any) -> TypeGuard[float]:
    """Whether `value` can be drawn or compared: a finite number that is not a boolean."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def plain(value: float, digits: int) -> str:
    """Fixed digits with a true minus sign; never "-0.0"."""
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−")


def signed(value: float, digits: int) -> str:
    text = plain(value, digits)
    return text if text.startswith("−") or float(text) == 0 else f"+{text}"


def score(value: Any, metric: str) -> str:
    """`0.934` as "93.4 %" for shares, "0.934" for other metrics."""
    if not is_number(value):
        return UNKNOWN
    return f"{plain(100 * value, 1)} %" if metric in SHARES else plain(value, 3)


def interval(low: Any, high: Any, metric: str) -> str:
    """Both ends without a unit: it stands beside a score that has one."""
    if not (is_number(low) and is_number(high)):
        return UNKNOWN
    if metric in SHARES:
        return f"{plain(100 * low, 1)}–{plain(100 * high, 1)}"
    return f"{plain(low, 3)}–{plain(high, 3)}"


def difference(value: Any, metric: str) -> str:
    """A difference of two scores; percentage points (without the word) for shares."""
    if not is_number(value):
        return UNKNOWN
    return signed(100 * value, 1) if metric in SHARES else signed(value, 3)


def difference_interval(low: Any, high: Any, metric: str) -> str:
    return f"{difference(low, metric)} to {difference(high, metric)}"


def points(value: Any, metric: str) -> str:
    """The size of a difference with its unit: "3.0 points" for shares, "0.030" else."""
    if not is_number(value):
        return UNKNOWN
    if metric not in SHARES:
        return plain(value, 3)
    text = plain(100 * value, 1)
    return "1 point" if text == "1.0" else f"{text.removesuffix('.0')} points"


def probability(value: Any) -> str:
    if not is_number(value):
        return UNKNOWN
    return "< 0.001" if value < 0.001 else plain(value, 3)


def bits(value: Any) -> str:
    """A change in bits per byte; exactly zero is said without decimals, as it means "the same path, no change"."""
    if not is_number(value):
        return UNKNOWN
    return "0" if value == 0 else signed(value, 3)


def nats(value: Any) -> str:
    """A divergence in nats; exactly zero is said without decimals, as in `bits`."""
    if not is_number(value):
        return UNKNOWN
    return "0" if value == 0 else ("< 0.0001" if 0 < value < 0.0001 else plain(value, 4))


def scaled(value: Any, unit: str, steps: tuple[str, ...] = ("", "k", "M", "G", "T", "P"), base: float = 1000.0) -> str:
    """Three significant digits with an SI prefix: `19_500_000, "B"` as "19.5 MB"."""
    if not is_number(value):
        return UNKNOWN
    size, step = float(value), 0
    while abs(size) >= base - 0.5 and step < len(steps) - 1:
        size, step = size / base, step + 1
    digits = 0 if size == int(size) or abs(size) >= 100 else (1 if abs(size) >= 10 else 2)
    text = plain(size, digits)
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return f"{text} {steps[step]}{unit}".rstrip()


def size(value: Any) -> str:
    """Bytes in decimal units; nothing to deploy beyond the base is said as such."""
    return "0 B" if value == 0 else scaled(value, "B")


def flops(value: Any) -> str:
    return scaled(value, "FLOP")


def count(value: Any) -> str:
    """A whole number with commas between thousands: no line is broken there."""
    return f"{round(value):,}" if is_number(value) else UNKNOWN


def milliseconds(value: Any) -> str:
    if not is_number(value):
        return UNKNOWN
    if value >= 1000:
        return f"{plain(value / 1000, 1)} s"
    return f"{plain(value, 0 if value >= 10 else 1)} ms" if value >= 0.1 else "< 0.1 ms"


def seconds(value: Any) -> str:
    """ "0.4 s", "48 s", "1 min 35 s", "2 h 5 min"."""
    if not is_number(value):
        return UNKNOWN
    if value < 1:
        return f"{plain(value, 1)} s" if value >= 0.05 else "< 0.1 s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s".removesuffix(" 0 s")
    minutes = round(value / 60)
    return f"{minutes // 60} h {minutes % 60} min".removesuffix(" 0 min")


def clock(value: float) -> str:
    """ "3:07" or "1:02:09": for places where the width must not jump."""
    whole = max(0, round(value))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def setting(value: Any) -> str:
    """A setting as a person would type it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int):
        return count(value) if abs(value) >= 10_000 else str(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {setting(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(setting(item) for item in value) or "none"
    return str(value)


def ratio(a: Any, b: Any) -> str | None:
    """How many times `a` is larger than `b`, as words; None when it cannot be said or is not worth saying."""
    if not (is_number(a) and is_number(b)) or a <= 0 or b <= 0 or a < 1.2 * b:
        return None
    times = a / b
    return f"{plain(times, 1 if times < 10 else 0)} times"
