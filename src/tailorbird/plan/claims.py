"""Reading a spec so that it is known what was read: a field that is set and never taken is an error."""

from __future__ import annotations

from typing import Any

from tailorbird.spec import Problem, Spec


class Claims:
    """The only way `plan` reads a spec. `take` returns a field's value and remembers that somebody wanted it."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.taken: set[tuple[str, ...]] = set()
        self.reasons: dict[tuple[str, ...], str] = {}
        self.problems: list[Problem] = []

    def take(self, *path: str) -> Any:
        value: Any = self.spec
        for name in path:
            value = value[name] if isinstance(value, dict) else getattr(value, name)
        self.taken.add(path)
        return value

    def take_contestant(self, label: str, *names: str) -> None:
        for name in names:
            self.taken.add(("contestants", label, name))

    def has_no_effect(self, *path: str, because: str) -> None:
        """A field that was looked at and cannot matter here; only an error when it was set."""
        self.reasons[path] = because

    def problem(self, what: str, *path: str) -> None:
        self.problems.append(Problem(".".join(path), what, self.spec.line(path)))

    def finish(self) -> None:
        """Raises one SpecError with every problem, unclaimed fields among them."""
        for path in self.spec.given():
            if path not in self.taken:
                because = self.reasons.get(path)
                self.problem("has no effect here" + (f": {because}" if because else ""), *path)
        if self.problems:
            raise self.spec.error(self.problems)
