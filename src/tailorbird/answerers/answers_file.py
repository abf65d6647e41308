"""What the user has today, as a file with one answer a row. A missing row is named, never guessed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from tailorbird.data.answers import read_answers
from tailorbird.errors import DataError
from tailorbird.types import Answer, Request, Stop

_NAMED = 10


class AnswersFile:
    """Answers by the row's own id or its exact input text. `check` before a run says at once what is missing."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._answers = read_answers(self.path)
        self._money: list[float | None] = []

    def check(self, requests: Iterable[Request]) -> None:
        """DataError naming the rows (the first ten and how many) that have no answer."""
        asked = list(requests)
        missing = [request for request in asked if self._answers.lookup(request) is None]
        if missing:
            named = "\n".join(f"    {name(request)}" for request in missing[:_NAMED])
            more = f"\n    and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
            raise DataError(
                f"no answer for {len(missing)} of {len(asked)} rows:\n{named}{more}",
                where=str(self.path),
                remedy="`tailorbird check SPEC --rows FILE` writes the inputs that need an answer",
            )

    def strays(self, requests: Iterable[Request], given: Callable[[Answer], str]) -> Counter[str]:
        """Answers to these rows that name none of the row's candidates, with how often each occurs. `given`: which
        label an answer names (the task's)."""
        found: Counter[str] = Counter()
        for request in requests:
            answer = self._answers.lookup(request)
            if answer is not None and request.candidates and (said := given(answer)) not in request.candidates:
                found[said] += 1
        return found

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        asked = list(requests)
        self.check(asked)
        for request in asked:
            found = self._answers.lookup(request)
            if found is None:  # checked above; a file that changes between is not read again
                raise DataError("no answer", where=f"{self.path}: {name(request)}")
            self._money.append(self._answers.cost(request))
            yield replace(found, id=request.id, stop=Stop.GIVEN)

    def cost_facts(self) -> dict[str, float | None]:
        """`money`: the sum of the file's `cost` over the rows answered here, if every one of them has it."""
        known = [cost for cost in self._money if cost is not None]
        return {"money": math.fsum(known) if known and len(known) == len(self._money) else None}


def name(request: Request) -> str:
    """How a row is called to its owner: its own id, else the start of its input."""
    text = " ".join(request.input_text.split())
    short = text if len(text) <= 70 else text[:69] + "…"
    return f"id {request.key}: {short}" if request.key is not None else short
