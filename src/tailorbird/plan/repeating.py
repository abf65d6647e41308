"""What a contestant asks for beyond being made once: a search for its settings, several seeds, an answer curve."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from tailorbird.plan.chains import InPlace, is_outside, of_parent
from tailorbird.plan.claims import Claims
from tailorbird.plan.document import Entrant
from tailorbird.plan.estimate import Estimate
from tailorbird.plan.facts import Facts
from tailorbird.spec import Contestant, Tune, did_you_mean
from tailorbird.techniques.base import Technique
from tailorbird.techniques.ranges import Range

FIELDS = (("seeds",), ("curve",), *(("tune", name) for name in Tune.model_fields))
REPEATS = 2  # of the best settings, with other seeds: what the search's noise is measured by
LOG_FROM = 10.0  # a range as wide as this is searched evenly in the logarithm


def claim(claims: Claims, contestant: Contestant, technique: Technique | None) -> None:
    """Takes the fields for a technique; for all else, and where nothing could vary, says that they have no effect."""
    because = ""
    if technique is None:
        because = "only what is made here can be made again"
    elif not technique.varies:
        because = f"{technique.name} comes out the same whatever the seed and the Train rows"
    for field in FIELDS:
        path = ("contestants", contestant.label, *field)
        if because:
            claims.has_no_effect(*path, because=because)
        else:
            claims.taken.add(path)


def repeating(
    claims: Claims,
    contestant: Contestant,
    technique: Technique,
    facts: Facts,
    guess: Estimate,
    entrant: Entrant,
    before: InPlace | None = None,
) -> Entrant:
    """The entrant with its search, seeds and curve, and the time that they take. `before`: what it goes on with."""
    tune = _tune(claims, contestant, technique, facts, before)
    if contestant.curve and (met := _met_before(contestant, facts)):
        claims.problem(
            f"would not be one of labels: `{contestant.after}`, which {contestant.label} starts from, has learned from "
            f"{met} already, so each share would be all of them; give `curve` to one that starts from the base",
            *("contestants", contestant.label, "curve"),
        )
    found = replace(entrant, tune=tune, seeds=contestant.seeds, curve=tuple(contestant.curve or ()))
    return replace(found, seconds=entrant.seconds + more_seconds(found, guess))


def more_seconds(entrant: Entrant, guess: Estimate) -> float:
    """Beyond the time of being made and measured once."""
    seconds = (entrant.seeds - 1) * (guess.making + guess.validation + guess.test)
    if entrant.tune:
        # The best trial is the contestant; repeats that are among its seeds are counted there.
        repeats = max(0, REPEATS + 1 - entrant.seeds) * guess.making
        minutes, trials = entrant.tune["minutes"], entrant.tune["trials"]
        seconds += 60 * minutes if minutes else repeats + (trials - 1) * guess.making
    shares = [share / 100 for share in entrant.curve if share < 100]
    return seconds + sum(share * guess.making + guess.validation for share in shares)


def _met_before(contestant: Contestant, facts: Facts) -> str:
    """How many of the Train rows its parent has learned from; empty for none."""
    if contestant.after is None:
        return ""
    if not is_outside(contestant.after):
        return "all Train rows"
    count = facts.met.get(contestant.label, 0)
    return f"{count:,} of the {facts.sizes['train']:,} Train rows" if count else ""


def _tune(
    claims: Claims, contestant: Contestant, technique: Technique, facts: Facts, before: InPlace | None
) -> dict[str, Any] | None:
    asked = contestant.tune
    if asked is None or not technique.varies:
        return None
    path = ("contestants", contestant.label, "tune")
    if not facts.sizes["tuning"]:
        claims.problem("needs Tuning rows, and there are none: give split.tuning", *path)
    fixed = of_parent(technique, before)
    settings = {**fixed, **contestant.settings}
    space_of_all = technique.search_space(facts.base, facts.sizes["train"], settings)
    no_choice = fixed.keys() | (technique.begins if before is not None else frozenset())
    declared = {name: found for name, found in space_of_all.items() if name not in no_choice}
    if asked.over is None:
        space = {name: found for name, found in declared.items() if name not in contestant.settings}
        if not space:
            claims.problem(f"{technique.name} has no range left to search: name settings under `over`", *path)
    else:
        space = {}
        for name, values in asked.over.items():
            if name in no_choice:
                claims.problem(f"it is fixed by {contestant.after}, which this one goes on with", *path, "over", name)
                continue
            found = _range(name, values, declared, technique, settings, facts)
            if isinstance(found, Range):
                space[name] = found
            else:
                claims.problem(found, *path, "over", name)
    over = {name: found.as_dict() for name, found in space.items()}
    return {"trials": asked.trials, "minutes": asked.minutes, "over": over}


def _range(
    name: str,
    values: list[Any] | None,
    declared: Mapping[str, Range],
    technique: Technique,
    settings: Mapping[str, Any],
    facts: Facts,
) -> Range | str:
    """The range of one setting as the spec has it, every end of it allowed; or what is wrong with it."""
    fields = technique.Settings.model_fields
    if name not in fields:
        return f"no such setting of {technique.name}; {did_you_mean(name, list(fields))}"
    if values is None:
        if name not in declared:
            return f"{technique.name} has no range of its own for it: give [low, high]"
        return declared[name]
    found = _given(values, declared.get(name), _number(fields[name].annotation))
    if found is None:
        return f"needs [low, high] with low < high, or several choices, is {values}"
    for value in found.ends():
        try:
            technique.settings({**settings, name: value}, facts.base, facts.sizes["train"])
        except ValidationError as error:
            return f"{value!r}: {error.errors()[0]['msg'].lower()}"
    return found


def _given(values: list[Any], declared: Range | None, number: type | None) -> Range | None:
    """Two numbers for a number are its ends; all else are choices. None: it is neither."""
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if number is None or len(values) != 2 or len(numbers) != 2:
        return Range("choice", choices=tuple(values)) if len(values) > 1 else None
    low, high = numbers
    if not low < high or (number is int and any(v != int(v) for v in numbers)):
        return None
    if number is int:
        return Range("whole", int(low), int(high))
    log = declared.kind == "log" if declared and declared.kind != "choice" else high >= LOG_FROM * low > 0
    return Range("log" if log and low > 0 else "linear", float(low), float(high))


def _number(annotation: Any) -> type | None:
    """int or float when that is what the setting is (or None beside it)."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        inner = [a for a in typing.get_args(annotation) if a is not type(None)]
        return _number(inner[0]) if len(inner) == 1 else None
    return annotation if annotation in (int, float) else None


def told(entrant: Entrant) -> list[str]:
    """The same in words, for `check`."""
    said = []
    if tune := entrant.tune:
        budget = f"{tune['trials']} trials" if tune["trials"] else f"{tune['minutes']:g} minutes of trials"
        over = "; ".join(f"{name} {Range.from_dict(found)}" for name, found in tune["over"].items())
        said.append(f"tuned: {budget} over {over}")
    if entrant.seeds > 1:
        said.append(f"{entrant.seeds} seeds")
    if entrant.curve:
        said.append(f"answer curve at {', '.join(map(str, entrant.curve))} % of the Train rows")
    return said
