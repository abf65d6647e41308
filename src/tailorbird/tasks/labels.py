"""Labels of a classify task: the words a model says for a label id, and reading a label back out of text.

A label id is what stands in the data (`Refund_not_showing_up`); its words are what is scored, written and shown in a
prompt (`refund not showing up`). Two labels never share their words: an answer would then mean both.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping

from tailorbird.errors import SpecError

_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_SEPARATORS = re.compile(r"[\s_\-]+")


def words(label_id: str) -> str:
    """Default wording of a label id: separators become blanks, CamelCase is opened, lower case.

    An id of separators only ("_") stays as it is: its words must not be empty.
    """
    opened = _CAMEL.sub(" ", unicodedata.normalize("NFC", label_id))
    return _SEPARATORS.sub(" ", opened).strip().lower() or label_id


def label_words(label_ids: Iterable[str], given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Label id -> words, in the order of `label_ids`; `given` wording goes before the default.

    Labels whose default words clash ("A-1", "a_1") keep their ids as words; if that does not help, or given words
    clash, it is the user's to settle.
    """
    ids = list(dict.fromkeys(label_ids))
    given = dict(given or {})
    chosen = {label: given.get(label, words(label)) for label in ids}
    clashing = {label for label in ids if sum(fold(w) == fold(chosen[label]) for w in chosen.values()) > 1}
    for label in clashing - given.keys():
        chosen[label] = label
    _refuse_bad_words(chosen)
    return chosen


def _refuse_bad_words(chosen: Mapping[str, str]) -> None:
    seen: dict[str, str] = {}
    for label, said in chosen.items():
        if not said.strip():
            raise SpecError(
                f"label {label!r} has no words",
                where="task.labels",
                remedy="give each label the words the model should say for it",
            )
        other = seen.setdefault(said.strip(), label)
        if other != label:
            raise SpecError(
                f"labels {other!r} and {label!r} have the same words: {said.strip()!r}",
                where="task.labels",
                remedy="give each label its own words under task.labels",
            )


def fold(text: str) -> str:
    """The form in which an answer is compared with labels: NFKC, case, blanks and outer punctuation folded."""
    text = unicodedata.normalize("NFKC", text).casefold()
    return _SEPARATORS.sub(" ", text).strip(" .,;:!\"'`*()[]").strip()


class LabelReader:
    """Reads the label a text names: the id or the words, whole, whatever case and outer punctuation. Never a guess."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        exact: dict[str, str] = {}
        folded: dict[str, set[str]] = {}
        for label, said in labels.items():
            for form in (label, said):
                folded.setdefault(fold(form), set()).add(label)
            exact[label] = label
        for label, said in labels.items():
            exact.setdefault(said, label)  # an id goes before another label's words
        self._exact = exact
        self._folded = {form: next(iter(ids)) for form, ids in folded.items() if len(ids) == 1}

    def __call__(self, text: str) -> str | None:
        """The label id, or None when the text names none (or more than one)."""
        text = text.strip()
        return self._exact.get(text) or self._folded.get(fold(text))
