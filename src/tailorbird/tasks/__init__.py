"""Tasks: what is asked of a row and how an answer is judged. No torch, no files."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from tailorbird.errors import SpecError
from tailorbird.tasks.answer import AnswerTask
from tailorbird.tasks.classify import Classify
from tailorbird.tasks.labels import label_words, words
from tailorbird.tasks.task import Task, TaskKind, label_of
from tailorbird.tasks.write import Write
from tailorbird.types import Row

KINDS: dict[str, type[Task]] = {"classify": Classify, "answer": AnswerTask, "write": Write}
_NEW_TOKENS = {"classify": 0, "answer": 64, "write": 256}
_LISTED_LABELS = 8  # up to so many labels the instruction names them; beyond, it would dwarf most rows


def build(
    kind: str,
    *,
    instruction: str | None = None,
    labels: Mapping[str, str] | None = None,
    max_new_tokens: int | None = None,
    metric: str | None = None,
) -> Task:
    """The task of a spec. `instruction`: None takes the kind's default, "" means none. SpecError names what does not
    fit.
    """
    if kind not in KINDS:
        raise SpecError(f"unknown kind {kind!r}{_nearest(kind, KINDS)}", where="task.kind", remedy=_choose(KINDS))
    made = KINDS[kind]
    if metric is not None and metric not in made.metric_names:
        raise SpecError(
            f"{metric!r} is not a main metric of {kind}{_nearest(metric, made.metric_names)}",
            where="task.metric",
            remedy=_choose(made.metric_names),
        )
    if kind == "classify":
        if not labels or len(labels) < 2:
            raise SpecError(
                f"classify needs at least two labels, there {'is one' if labels else 'are none'}",
                where="task.labels",
                remedy="name the label column under data.columns, or use kind: answer",
            )
        labels = label_words(labels, {label: said for label, said in labels.items() if said})
        if max_new_tokens is not None:
            raise SpecError(
                "max_new_tokens has no effect for classify: a label is scored, not written",
                where="task.max_new_tokens",
                remedy="leave it out",
            )
    elif labels:
        raise SpecError(f"labels have no effect for kind {kind}", where="task.labels", remedy="use kind: classify")
    if max_new_tokens is not None and max_new_tokens < 1:
        raise SpecError(f"{max_new_tokens} is not a number of tokens", where="task.max_new_tokens", remedy="1 or more")
    return made(
        instruction=(default_instruction(kind, labels) if instruction is None else instruction) or None,
        metric=metric or made.metric_names[0],
        labels=dict(labels or {}),
        max_new_tokens=_NEW_TOKENS[kind] if max_new_tokens is None else max_new_tokens,
    )


def default_instruction(kind: str, labels: Mapping[str, str] | None = None) -> str:
    """The instruction that `init` proposes: short, and the same for every contestant."""
    if kind == "classify":
        said = list((labels or {}).values())
        if 0 < len(said) <= _LISTED_LABELS:
            return f"Label the text with one of: {', '.join(said)}."
        return "You label texts with one topic."
    if kind == "answer":
        return "Answer the question. Give only the answer."
    return "Write the text that is asked for."


def labels_in(rows: Iterable[Row], given: Mapping[str, str] | None = None) -> dict[str, str]:
    """The labels of the rows and of `given`, sorted, each with its words: for `build` when the spec names none or
    some.
    """
    return label_words(sorted({label_of(row) for row in rows} | set(given or {})), given)


def _choose(names: Iterable[str]) -> str:
    return "choose one of: " + ", ".join(names)


def _nearest(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


__all__ = [
    "KINDS",
    "AnswerTask",
    "Classify",
    "Task",
    "TaskKind",
    "Write",
    "build",
    "default_instruction",
    "label_words",
    "labels_in",
    "words",
]
