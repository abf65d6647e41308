"""A spec from its file or from a mapping, with every problem of it in one error."""

from __future__ import annotations

import json
import re
import stat
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from tailorbird.errors import SafetyError, SpecError
from tailorbird.spec.fields import Spec
from tailorbird.spec.problems import Problem, did_you_mean, problems_error
from tailorbird.spec.short import expand, override
from tailorbird.spec.yaml import MAX_BYTES, Lines, parse, too_large

Check = Callable[[Mapping[str, Any]], Sequence[tuple[tuple[str, ...], str]]]
"""The expanded document -> what else is wrong with it, as (path, words); `plan.wrong_settings` is one."""


def load(path: str | Path, overrides: Sequence[str] = (), *, check: Check | None = None) -> Spec:
    """A spec from its file, with `key=value` overrides (dotted; contestants by label: `contestants.lora.rank=8`)."""
    path = Path(path)
    try:
        text = _content(path).decode("utf-8-sig")
    except FileNotFoundError:
        raise SpecError(
            "there is no such file", where=str(path), remedy="`tailorbird init DATA` writes a spec"
        ) from None
    except IsADirectoryError:
        raise SpecError("is a folder, not a spec", where=str(path), remedy="name the .yaml file in it") from None
    except UnicodeDecodeError as error:
        remedy = "save it as UTF-8"
        raise SpecError(f"is not UTF-8 (byte {error.start})", where=str(path), remedy=remedy) from None
    except (OSError, ValueError) as error:  # no permission, a file taken for a folder, a name no file can have
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise SpecError(f"cannot be read: {why}", where=str(path), remedy="name a file you may read") from None
    document, lines = parse(text, str(path))
    return build(document, lines, source=path, text=text, overrides=overrides, check=check)


def _content(path: Path) -> bytes:
    """A spec's bytes, at most one more than a spec may have; devices and pipes have no end and are not begun."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise SafetyError(
            "not a regular file but a device, pipe or socket", where=str(path), remedy="copy its content to a file"
        )
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise too_large(str(path))
    return content


def build(
    document: Mapping[str, Any],
    lines: Lines | None = None,
    *,
    source: Path | None = None,
    text: str = "",
    overrides: Sequence[str] = (),
    check: Check | None = None,
) -> Spec:
    """A spec from a plain mapping; every problem of it in one SpecError, with those that `check` finds."""
    where = str(source) if source else None
    full = expand(document)
    for assignment in overrides:
        full = override(full, assignment)
    located = _by_label(full, lines or {})
    problems = [Problem(".".join(p), what, _line(p, located)) for p, what in (check(full) if check else ())]
    try:
        spec = Spec.model_validate(full)
    except ValidationError as error:
        raise problems_error([*(_problem(e, full, located) for e in error.errors()), *problems], where) from None
    if problems:
        raise problems_error(problems, where)
    spec._source, spec._text, spec._lines = source, text, located
    for contestant in spec.contestants or ():
        prefix = f"contestants.{contestant.label}."
        contestant._lines = {p.removeprefix(prefix): n for p, n in located.items() if p.startswith(prefix)}
    return spec


def _by_label(full: Mapping[str, Any], lines: Lines) -> dict[str, int]:
    """Lines by dotted path, contestants by label, settings without the name of the mapping they stand in."""
    contestants = full.get("contestants")
    located: dict[str, int] = {}
    for position, line in lines.items():
        if not position:
            continue
        path = [str(p) for p in position]
        if position[0] == "contestants" and len(position) > 1 and isinstance(contestants, list):
            contestant = contestants[int(position[1])] if int(position[1]) < len(contestants) else None
            if isinstance(contestant, Mapping):
                path[1] = str(contestant.get("label", position[1]))
                if len(path) > 2 and path[2] in {"settings", contestant.get("technique")}:
                    path.pop(2)
        located.setdefault(".".join(path), line)
    return located


def _problem(error: Any, full: Mapping[str, Any], lines: Mapping[str, int]) -> Problem:
    """A pydantic error in our words."""
    path: list[str] = []
    value: Any = full
    for depth, step in enumerate(error["loc"], start=1):
        absent = error["type"] == "missing" and depth == len(error["loc"])
        if str(step).startswith("(") or (isinstance(value, Mapping) and step not in value and not absent):
            continue  # a branch of a union, a key marker: not part of the document
        value = _inside(value, step)
        name = str(step)
        if path[-1:] == ["contestants"] and isinstance(value, Mapping):
            name = str(value.get("label", step))
        path.append(name)
    return Problem(".".join(path), _words(error), _line(path, lines))


def _line(path: Sequence[str], lines: Mapping[str, int]) -> int | None:
    """The line of a field, or of the nearest field around it."""
    return next((lines[p] for n in range(len(path), 0, -1) if (p := ".".join(path[:n])) in lines), None)


def _inside(value: Any, step: str | int) -> Any:
    try:
        return value[step]
    except (KeyError, IndexError, TypeError):
        return None


def _words(error: Any) -> str:
    kind, context, given = error["type"], error.get("ctx", {}), error.get("input")
    shown = json.dumps(given, ensure_ascii=False, default=str)
    shown = shown if len(shown) <= 60 else shown[:57] + "…"
    match kind:
        case "extra_forbidden":
            known = list(_model_at(Spec, error["loc"][:-1]).model_fields)
            return f"no such field; {did_you_mean(str(error['loc'][-1]), known)}"
        case "missing":
            return "is needed"
        case "literal_error":
            known = re.findall(r"'([^']*)'", context["expected"]) or [context["expected"]]
            return f"{shown} is not one of {', '.join(known)}"
        case "value_error":
            return str(context["error"])
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            sign = {"greater_than": ">", "greater_than_equal": ">=", "less_than": "<", "less_than_equal": "<="}[kind]
            bound = next(iter(context.values()))
            return f"must be {sign} {bound:g}, is {shown}"
        case "finite_number":
            return f"must be a finite number, is {shown}"
        case _:
            return f"{error['msg'][:1].lower()}{error['msg'][1:]}, is {shown}"


def _model_at(model: type[BaseModel], position: Sequence[Any]) -> type[BaseModel]:
    for step in position:
        if isinstance(step, str) and step in model.model_fields:
            model = _inner_model(model.model_fields[step].annotation) or model
    return model


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if isinstance(annotation, types.GenericAlias) or typing.get_origin(annotation):
        return next((m for a in typing.get_args(annotation) if (m := _inner_model(a))), None)
    return None
