"""The run's folder: which one, what it was made from, how often Test was opened in it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tailorbird import store
from tailorbird.errors import ResourceError, SpecError
from tailorbird.running.inputs import Inputs, differences


@dataclass(frozen=True)
class RunFolder:
    """Paths below one run's folder and the small files that say where it stands."""

    path: Path

    @property
    def steps(self) -> store.Steps:
        return store.Steps(self.path / "steps")

    @property
    def comparison(self) -> Path:
        return self.path / "comparison.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    # what it was made from

    def inputs(self) -> Inputs | None:
        path = self.path / "inputs.json"
        return Inputs.from_dict(store.read_json(path)) if path.is_file() else None

    def begin(self, inputs: Inputs, spec_text: str) -> None:
        """Writes down what is being run. From here on the run counts as unfinished."""
        (self.path / "finished.json").unlink(missing_ok=True)
        store.write_text(self.path / "spec.yaml", spec_text)
        store.write_json(self.path / "inputs.json", inputs.as_dict())

    def leave(self) -> None:
        """Refused before it began: a folder with nothing in it but the lock does not stay."""
        if self.path.is_dir() and [p.name for p in self.path.iterdir()] == [".lock"]:
            with suppress(OSError):  # Windows: the lock is held open
                (self.path / ".lock").unlink()
                self.path.rmdir()
                self.path.parent.rmdir()

    def finish(self, inputs: Inputs, exit_codes: Mapping[str, int], exit_code: int) -> None:
        """Marks the run finished. With a contestant that failed for want of memory or the like it is not: the same
        command tries that one again."""
        if ResourceError.exit_code in exit_codes.values():
            return
        codes = {"exit_codes": dict(exit_codes), "exit_code": exit_code}
        store.write_json(self.path / "finished.json", {"inputs": store.key(inputs.as_dict()), **codes})

    def finished(self, inputs: Inputs) -> dict[str, Any] | None:
        """The end of a run made from exactly these inputs, else None."""
        path = self.path / "finished.json"
        if not (path.is_file() and self.comparison.is_file() and self.report.is_file()):
            return None
        value = store.read_json(path)
        return value if value.get("inputs") == store.key(inputs.as_dict()) else None

    # openings of Test

    def state(self) -> dict[str, Any]:
        """`first`: the lineage that this folder begins with; `openings`: of it and of the run it was forked from."""
        path = self.path / "lineage.json"
        return store.read_json(path) if path.is_file() else {"first": 1, "forked_from": None, "openings": []}

    def lineage(self, seal: str) -> int:
        """1 until settings changed after Test was opened; each such change, and each fork, begins the next."""
        state = self.state()
        for opening in state["openings"]:
            if opening["seal"] == seal:
                return int(opening["lineage"])
        return max([state["first"] - 1, *(o["lineage"] for o in state["openings"])]) + 1

    def open_test(self, seal: str, keys: Mapping[str, str], rows: Sequence[str]) -> None:
        """Counted before the first Test row is answered; the same sealed choice opens it once, however often killed."""
        state = self.state()
        if any(o["seal"] == seal for o in state["openings"]):
            return
        at = datetime.now(UTC).isoformat(timespec="seconds")
        opening = {"seal": seal, "lineage": self.lineage(seal), "keys": dict(keys), "at": at, "rows": list(rows)}
        store.write_json(self.path / "lineage.json", {**state, "openings": [*state["openings"], opening]})

    def after_test(self, seal: str, keys: Mapping[str, str], rows: Sequence[str]) -> dict[str, bool]:
        """Which contestants were made, or made anew, after rows of this Test had been seen under an earlier choice."""
        earlier = self._earlier(seal, rows)
        return {label: bool(earlier) and all(k != o["keys"].get(label) for o in earlier) for label, k in keys.items()}

    def openings(self, seal: str, rows: Sequence[str]) -> int:
        """How often rows of this Test have been opened, this sealed choice's own opening included."""
        return len(self._earlier(seal, rows)) + 1

    def _earlier(self, seal: str, rows: Sequence[str]) -> list[dict[str, Any]]:
        earlier: list[dict[str, Any]] = []
        for opening in self.state()["openings"]:
            if opening["seal"] == seal:
                break
            if not set(rows).isdisjoint(opening["rows"]):
                earlier.append(opening)
        return earlier


def choose(runs: Path, name: str, inputs: Inputs, *, fork: bool) -> RunFolder:
    """The folder to run in: `runs/name`, or the newest fork of it (`name-2`, …) whose inputs are these.

    ResourceError with a diff when data, base or versions are not those it was made from, unless `fork`.
    """
    folders = [RunFolder(p) for p in _forks(runs, name)]
    for folder in reversed(folders):
        before = folder.inputs()
        if before is None or not differences(before, inputs):
            return folder
    if not folders:
        return RunFolder(runs / name)
    newest = folders[-1]
    before = newest.inputs()
    assert before is not None
    changed = "".join(f"\n  {line}" for line in differences(before, inputs))
    if not fork:
        raise SpecError(
            f"was made from something else:{changed}",
            where=str(newest.path),
            remedy="put it back as it was, or give --fork: a new run beside this one, which stays as it is",
        )
    number = int(newest.path.name.rpartition("-")[2]) + 1 if len(folders) > 1 else 2
    fresh = RunFolder(runs / f"{name}-{number}")
    state = newest.state()
    first = max([state["first"], *(o["lineage"] for o in state["openings"])]) + 1
    forked = {"first": first, "forked_from": newest.path.name, "openings": state["openings"]}
    store.write_json(fresh.path / "lineage.json", forked)
    return fresh


def _forks(runs: Path, name: str) -> list[Path]:
    """The run's folder and its forks, oldest first."""
    found = []
    for path in runs.glob(f"{name}*") if runs.is_dir() else ():
        if path.name == name and path.is_dir():
            found.append((1, path))
        elif (match := re.fullmatch(re.escape(name) + r"-(\d+)", path.name)) and (path / "lineage.json").is_file():
            found.append((int(match[1]), path))
    return [path for _, path in sorted(found)]


def find(run: str | Path) -> tuple[RunFolder, str | None]:
    """RUN[:LABEL] as a user writes it: a folder, a name below ./runs, or either with `:LABEL`."""
    text = str(run)
    for path, label in _readings(text):
        if (path / "comparison.json").is_file() or (path / "inputs.json").is_file():
            return RunFolder(path), label
    runs = Path("runs")
    names = sorted(p.name for p in runs.iterdir() if (p / "inputs.json").is_file()) if runs.is_dir() else []
    known = f"runs here: {', '.join(names)}" if names else "there is no run in ./runs; `tailorbird run SPEC` makes one"
    raise ResourceError("there is no such run", where=text, remedy=known)


def _readings(text: str) -> list[tuple[Path, str | None]]:
    ways: list[tuple[Path, str | None]] = [(Path(text), None), (Path("runs") / text, None)]
    head, colon, label = text.rpartition(":")
    if colon and head:
        ways += [(Path(head), label), (Path("runs") / head, label)]
    return ways
