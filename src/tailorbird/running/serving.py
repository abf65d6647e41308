"""A prompt table that answers: its tasks, other customizations beside it, and the untouched base, in mixed batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird import store
from tailorbird.artifacts.manifest import read_manifest
from tailorbird.artifacts.table import BASE, PromptTable
from tailorbird.errors import SpecError
from tailorbird.running.opening import Chosen, base_folder, choose, in_table, unverified
from tailorbird.types import Answer, Conversation, Request

if TYPE_CHECKING:
    from tailorbird.answerers.local import LocalAnswerer
    from tailorbird.answerers.mixed import MixedAnswerer

BASE_TOKENS = 256  # longest answer of the untouched base, which has no task that says


@dataclass
class Served:
    """`beside`: customizations that are not in the table, by name. Each is opened, verified, when first asked. `base`:
    where the base of all of them lies now.

    A name keeps the version that it was opened with, whatever is added to the table meanwhile.
    """

    table: PromptTable
    beside: Mapping[str, Chosen]
    base: str | Path | None = None
    device_then: str | None = None  # of all, wherever each was made: rows of one batch lie on one device
    _found: dict[str, Chosen] = field(default_factory=dict)
    _members: dict[str, LocalAnswerer] = field(default_factory=dict)
    _mixed: MixedAnswerer | None = None

    @property
    def names(self) -> list[str]:
        return [*sorted(self.table.newest()), *self.beside]

    @property
    def identity(self) -> str:
        """Stands for all that can answer here."""
        tasks = {version.name: version.manifest.identity for version in self.table.versions()}
        others = {name: read_manifest(chosen.folder).identity for name, chosen in self.beside.items()}
        return "sha256:" + store.sha256_json([self.table.base.fingerprint, tasks, others])

    def chosen(self, name: str) -> Chosen:
        """SpecError when nobody here has that name."""
        if name not in self._found:
            found = self.beside[name] if name in self.beside else in_table(self.table, name)
            self._found[name] = replace(found, device_then=self.device_then or found.device_then)
        return self._found[name]

    @cached_property
    def _base_folder(self) -> Path:
        base = self.table.base
        return base_folder(self.table.path, (base.name, base.fingerprint), now=self.base)

    def labels(self, name: str) -> tuple[str, ...]:
        return () if name == BASE else self.chosen(name).labels

    def max_new_tokens(self, name: str) -> int:
        return BASE_TOKENS if name == BASE else self.chosen(name).max_new_tokens or BASE_TOKENS

    def answer(self, requests: Sequence[tuple[str, Request]]) -> Iterator[Answer]:
        """One answer for each (name, request), in their order."""
        if not requests:
            return iter(())
        return self._with({name for name, _ in requests}).answer(requests)

    def score(self, conversations: Sequence[tuple[str, Conversation]], answers: Sequence[str]) -> list[float]:
        """Sum of log-probabilities of each answer and its end, nats."""
        if not conversations:
            return []
        return self._with({name for name, _ in conversations}).score(conversations, answers)

    def close(self) -> None:
        for member in self._members.values():
            member.close()

    def _with(self, names: set[str]) -> MixedAnswerer:
        from tailorbird.answerers.mixed import MixedAnswerer

        if new := sorted(names - self._members.keys()):
            members = self._members | {name: self._open(name) for name in new}
            self._mixed = MixedAnswerer(members)  # which may refuse: those that are open stay as they are
            self._members = members
        assert self._mixed is not None
        return self._mixed

    def _open(self, name: str) -> LocalAnswerer:
        if name != BASE:
            return replace(self.chosen(name), base_now=self._base_folder).open()
        from tailorbird.answerers.opening import open_bare

        like = unverified(self.table, self.table.newest()[self.names[0]])
        like = replace(like, device_then=self.device_then or like.device_then)
        return open_bare(self._base_folder, device=like.device(), dtype=self.table.compute_dtype, threads=like.threads)


def serve(path: Path, beside: Mapping[str, str], base: str | Path | None = None) -> Served:
    """The table at `path`, with {name: RUN:LABEL} beside it. `base`: where the base of all of them lies now."""
    table = PromptTable.open(path)
    tasks, all_tasks = table.newest(), table.tasks()
    if not all_tasks:
        raise SpecError("the table is empty", where=str(path), remedy="tailorbird table add TABLE RUN:LABEL")
    if not tasks:
        raise next(iter(table.damaged().values()))
    if taken := next((name for name in beside if name in all_tasks or name == BASE), None):
        raise SpecError(f"{taken!r} is in the table already", where=str(path), remedy="give it another name")
    device = tasks[min(tasks)].manifest.environment["device"]
    return Served(table, {name: choose(run) for name, run in beside.items()}, base, device)
