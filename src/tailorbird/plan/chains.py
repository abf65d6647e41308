"""What starts from what (`after:`): circles, labels that are none, parents that a technique can do nothing with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tailorbird.plan.document import Entrant
from tailorbird.plan.facts import MadeBefore
from tailorbird.spec import REFERENCES, Contestant, did_you_mean
from tailorbird.techniques.base import Technique


@dataclass(frozen=True)
class Link:
    """One contestant of a chain; `technique` None for an imported one."""

    label: str
    technique: str | None
    after: str | None


def is_outside(after: str) -> bool:
    """RUN:LABEL or a path; a label has neither sign."""
    return any(sign in after for sign in "/\\:")


def problems(given: Iterable[Link]) -> list[tuple[str, str]]:
    """(label, what is wrong with its `after`), in the order given."""
    links = list(given)
    by_label = {link.label: link for link in links}
    found = []
    for link in links:
        if link.after is not None and (what := _problem(link, by_label)):
            found.append((link.label, what))
    return found


def optimizer_problems(entrants: Iterable[Entrant]) -> list[tuple[str, str]]:
    """(label, what is wrong) where a contestant would go on with an optimizer of other tensors than it trains."""
    given = list(entrants)
    by_label = {entrant.label: entrant for entrant in given}
    found = []
    for entrant in given:
        parent = by_label.get(entrant.after or "")
        if parent is None or entrant.technique != parent.technique or not parent.effective.get("keep_optimizer"):
            continue
        technique = _shelf(entrant.technique)
        if technique is not None and (other := other_tensors(technique, parent.effective, entrant.effective)):
            found.append((entrant.label, ": ".join(other)))
    return found


def other_tensors(technique: Technique, before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, str] | None:
    """(what, remedy) where these settings choose other tensors than those that an optimizer was kept for."""
    then, asked = technique.chooses(before), technique.chooses(now)
    if then == asked:
        return None
    return (
        f"goes on with an optimizer that was kept for {_told(then)}, and {_told(asked)} is asked for",
        f"set {' and '.join(then)} as they were, or make the parent without keep_optimizer",
    )


@dataclass(frozen=True)
class InPlace:
    """The part that a technique makes, found in place: what it is gone on with. `settings`: of the one that has it.
    `searched`: those among them that are known only when a search has chosen them."""

    settings: Mapping[str, Any]
    searched: frozenset[str] = frozenset()


def in_place(
    technique: Technique, child: Entrant | Contestant, planned: Mapping[str, Entrant], before: Mapping[str, MadeBefore]
) -> InPlace | None:
    """What `child`, made by `technique`, goes on with; None where it makes its part anew, or where that is not known
    before the parent is opened. `planned`: contestants by label, those behind which it is made among them."""
    found: Mapping[str, Any] | None = None
    searched: set[str] = set()
    while child.after is not None:
        if is_outside(child.after):
            parent = before.get(child.label)
            kinds = technique.makes & parent.parts.keys() if parent else ()
            if parent and kinds and found is None and _takes_up(technique, parent.technique):
                found = {name: value for kind in kinds for name, value in parent.parts[kind].items()}
            break
        if child.after not in planned:
            break
        child = planned[child.after]
        maker = _shelf(child.technique)
        if maker is None or maker.folds & technique.makes:
            break
        if maker.makes & technique.makes and _takes_up(technique, maker.name):
            found = child.effective if found is None else found
            searched |= (child.tune or {"over": {}})["over"].keys()
    return None if found is None else InPlace(found, frozenset(searched))


def _takes_up(technique: Technique, maker: str) -> bool:
    return technique.goes_on and (not technique.makes & technique.own_only or technique.name == maker)


def of_parent(technique: Technique, before: InPlace | None) -> dict[str, Any]:
    """The settings that a parent has fixed."""
    return {} if before is None else {name: before.settings[name] for name in technique.shape(before.settings)}


def other_shapes(
    technique: Technique, before: InPlace, asked: Mapping[str, Any], effective: Mapping[str, Any]
) -> dict[str, str]:
    """Setting -> what is wrong with it, where another shape is asked for than that of the part that is gone on with."""
    has, own = technique.shape(before.settings), technique.shape(effective)
    found = {
        name: f"{own[name]!r} is asked for, and what it goes on with has {has[name]!r}: leave it out"
        for name in has
        if has[name] != own[name]
    }
    searched = "is what the search of the one that it goes on with finds: leave it out"
    return {**found, **dict.fromkeys(before.searched & asked.keys() & has.keys(), searched)}


Item = TypeVar("Item")


def parents_first(given: Sequence[Item], named: Callable[[Item], tuple[str, str | None]]) -> list[Item]:
    """In their order, but each behind the one that it starts from. `named`: an item's label and `after`."""
    by_label = {named(item)[0]: item for item in given}
    ordered: dict[str, Item] = {}
    begun: set[str] = set()

    def add(item: Item) -> None:
        label, after = named(item)
        if label in begun:
            return
        begun.add(label)
        if after in by_label:
            add(by_label[after])
        ordered[label] = item

    for item in given:
        add(item)
    return list(ordered.values())


def _told(chosen: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in chosen.items() if value is not None)


def _problem(link: Link, by_label: Mapping[str, Link]) -> str | None:
    assert link.after is not None
    if link.technique is None or link.technique in REFERENCES:
        return "only a technique can start from another customization"
    if is_outside(link.after):
        return None
    if link.after not in by_label:
        others = [label for label in by_label if label != link.label]
        near = did_you_mean(link.after, others)
        return f"no contestant is called `{link.after}` (a folder is written with a `/`); {near}"
    if way := _circle(link, by_label):
        return f"goes in a circle: {' after '.join(way)}"
    parent = by_label[link.after]
    if parent.technique is None or parent.technique in REFERENCES:
        return f"`{parent.label}` is not made here: there is nothing to start from"
    return _unfitting(link, parent, by_label)


def _circle(link: Link, by_label: Mapping[str, Link]) -> list[str]:
    """The labels from `link` back to itself; empty when its chain ends, or runs into a circle that it is no part of."""
    way, at = [link.label], link
    while at.after is not None and at.after in by_label:
        at = by_label[at.after]
        way.append(at.label)
        if at.label == link.label:
            return way
        if way.count(at.label) > 1:
            return []
    return []


def _unfitting(link: Link, parent: Link, by_label: Mapping[str, Link]) -> str | None:
    kinds = _kinds(parent, by_label, set())
    technique = _shelf(link.technique)
    if kinds is None or technique is None:
        return None  # a technique of the user's, or a parent made elsewhere: looked at when it is opened
    if not kinds:
        return f"`{parent.label}` is a prompt, and its weights are the base's: leave `after` out"
    if (refused := kinds - technique.takes) <= technique.makes and refused:
        return f"{link.technique} cannot go on with {', '.join(sorted(refused))}, which `{parent.label}` consists of"
    if refused:
        return f"{link.technique} has no use for {', '.join(sorted(refused))}, which `{parent.label}` consists of"
    if link.technique != parent.technique and (own := kinds & technique.own_only):
        return f"{link.technique} goes on with {', '.join(sorted(own))} only where {link.technique} made it"
    return None


def _kinds(link: Link, by_label: Mapping[str, Link], seen: set[str]) -> frozenset[str] | None:
    """The kinds of parts that a contestant will have; None where that is not known beforehand."""
    technique = _shelf(link.technique)
    if technique is None or link.label in seen:
        return None
    if link.after is None:
        return frozenset(technique.makes)
    below = _kinds(by_label[link.after], by_label, {*seen, link.label}) if link.after in by_label else None
    if below is None:
        return None
    kinds = (below - technique.folds) | technique.makes
    return kinds - {"delta"} if "weights" in kinds else kinds


def _shelf(name: str | None) -> Technique | None:
    from tailorbird import techniques

    return techniques.get(name) if name is not None and name in techniques.NAMES else None
