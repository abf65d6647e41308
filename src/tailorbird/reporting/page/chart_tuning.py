"""A search for settings in two small pictures: the value of each trial in its order, and what the value depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tailorbird.reporting.numbers import count, is_number, plain
from tailorbird.reporting.page.svg import CHARACTER, Markup, Picture, fitted, linear, ticks
from tailorbird.reporting.text import printable
from tailorbird.types import JSON

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 340.0, 190.0, 44.0, 328.0, 20.0, 158.0
BAR, BAR_LEFT = 22.0, 130.0

Placed = tuple[int, float, bool]  # number of the trial, its value, whether it came to its end


def placed(trials: Sequence[Mapping[str, Any]]) -> list[Placed]:
    """Trials that have a figure; one that was given up stands at its last look."""
    found: list[Placed] = []
    for trial in trials:
        number, value, looks = trial.get("number"), trial.get("value"), trial.get("looks") or []
        if not isinstance(number, int):
            continue
        if trial.get("state") == "done" and is_number(value):
            found.append((number, value, True))
        elif trial.get("state") == "pruned" and looks and is_number(looks[-1][-1]):
            found.append((number, looks[-1][-1], False))
    return found


def trials(label: str, number: int, tuning: JSON) -> Markup | None:
    """None when no trial has a figure."""
    found = placed(tuning.get("trials") or [])
    if not found:
        return None
    lower = tuning.get("lower_is_better") is not False
    what = "Tuning loss" if lower else "Tuning score"
    finished = [(n, v) for n, v, done in found if done]
    top = (min if lower else max)(finished, key=lambda p: p[1]) if finished else None
    told = f"{len(tuning['trials'])} trials."
    if top:
        told += f" Best {plain(top[1], 3)} in trial {top[0] + 1}."
    picture = Picture(WIDTH, HEIGHT, f"{what} of the trials of {label}", told, f"trials-{number}")
    noise = tuning.get("noise") or {}
    values = [v for _, v, _ in found]
    band = _band(noise)
    low, high = min([*values, *band]), max([*values, *band])
    air = 0.06 * (high - low or 1.0)
    last = max(n for n, _, _ in found) + 1
    x = linear(1, max(2, last), LEFT + 10, RIGHT - 10)
    y = linear(low - air, high + air, BOTTOM, TOP)
    if band:
        picture.add("rect", x=LEFT, y=y(band[1]), width=RIGHT - LEFT, height=y(band[0]) - y(band[1]), class_="band")
    for value in ticks(low - air, high + air, 4):
        picture.line(LEFT, y(value), RIGHT, y(value), "grid")
        picture.text(LEFT - 6, y(value) + 4, f"{value:g}", "tick", "end")
    for value in ticks(1, max(2, last), 6):
        if value == int(value):
            picture.text(x(value), BOTTOM + 16, count(value), "tick", "middle")
    picture.text((LEFT + RIGHT) / 2, HEIGHT - 2, "trial", "tick", "middle")
    if found[0][0] == 0 and found[0][2]:
        at = y(found[0][1])
        picture.line(LEFT, at, RIGHT, at, "guide")
        picture.text(RIGHT, at - 4, "defaults", "tick halo", "end")
    picture.path([(x(n + 1), y(v)) for n, v in best_so_far(finished, lower)], "curve tuning")
    for n, value, done in found:
        picture.mark(x(n + 1), y(value), "technique", "" if done else "test", 4)
    return picture.markup()


def best_so_far(finished: Sequence[tuple[int, float]], lower: bool) -> list[tuple[int, float]]:
    found: list[tuple[int, float]] = []
    for number, value in finished:
        better = (min if lower else max)(value, found[-1][1]) if found else value
        found.append((number, better))
    return found


def _band(noise: Mapping[str, Any]) -> tuple[float, float] | tuple[()]:
    """One standard deviation to both sides of the mean of the best settings' repeats."""
    values, sd = [v for v in noise.get("values") or [] if is_number(v)], noise.get("sd")
    if not values or not is_number(sd):
        return ()
    mean = sum(values) / len(values)
    return mean - sd, mean + sd


def importance(label: str, number: int, tuning: JSON) -> Markup | None:
    """None when too few trials were made to say."""
    shares = {printable(k): v for k, v in (tuning.get("importance") or {}).items() if is_number(v)}
    if not shares:
        return None
    told = "; ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items())
    picture = Picture(WIDTH, 12 + BAR * len(shares), f"What the value of {label} depends on", told, f"matters-{number}")
    width = linear(0.0, 1.0, 0.0, WIDTH - BAR_LEFT - 48)
    for place, (name, share) in enumerate(shares.items()):
        middle = 6 + BAR * (place + 0.5)
        picture.text(BAR_LEFT - 8, middle + 4, fitted(name, BAR_LEFT - CHARACTER), "", "end")
        picture.add(
            "rect", x=BAR_LEFT, y=middle - 6, width=max(1.0, width(share)), height=12.0, rx=2, class_="mark technique"
        )
        picture.text(BAR_LEFT + width(share) + 7, middle + 4, f"{100 * share:.0f} %", "value")
    return picture.markup()
