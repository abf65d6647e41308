"""From a spec to rows, splits, task, base and facts: what `check` shows and `run` works on. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from tailorbird.errors import SpecError
from tailorbird.plan import Facts, Lengths, MadeBefore, Reading, measure_lengths, measure_replay, reading
from tailorbird.running.inputs import made_before
from tailorbird.running.replaying import Replayed, read_replay
from tailorbird.running.room import Room, RowCheck, room_of
from tailorbird.spec import Spec
from tailorbird.types import BaseFacts, Machine, Message, Replay, Role, Row, Splits, Train

if TYPE_CHECKING:
    from tailorbird.bases.renderer import Renderer
    from tailorbird.data import Dataset, Learned, Source
    from tailorbird.tasks import Task

WRITTEN_CHARACTERS = 60  # answers longer than this, in the median, are written texts rather than short answers
RENDERED_ROWS = 3

Say = Callable[[str], None]


@dataclass(frozen=True)
class Material:
    """Everything that is known before anything is computed. `unsaid`, `trained`, `replay`, `made_before`, `met`: as
    in `Facts`."""

    spec: Spec
    base: BaseFacts
    renderer: Renderer
    room: Room
    dataset: Dataset
    given: dict[str, Dataset]
    task: Task
    splits: Splits
    split_facts: dict[str, Any]
    lengths: Lengths
    replayed: Replayed | None = None
    unsaid: Mapping[str, str] = field(default_factory=dict)
    trained: Lengths | None = None
    replay: Lengths | None = None
    made_before: Mapping[str, MadeBefore] = field(default_factory=dict)
    met: Mapping[str, int] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, int]:
        s = self.splits
        return {"train": len(s.train), "tuning": len(s.tuning), "validation": len(s.validation), "test": len(s.test)}

    @property
    def base_folder(self) -> Path:
        return Path(self.base.folder)

    @property
    def data_facts(self) -> dict[str, Any]:
        facts = self.dataset.facts.as_dict()
        facts |= {name: data.facts.as_dict() for name, data in self.given.items()}
        return facts | ({"replay": self.replayed.as_dict()} if self.replayed else {})

    def replay_for(self, share: float, train: int | None = None) -> Replay:
        """What a contestant meets beside Train, or `train` rows of it, as `share` of the rows of its training."""
        if self.replayed is None or not share:
            return Replay(())
        return self.replayed.part(len(self.splits.train) if train is None else train, share, self.spec.seed)

    def facts(self, *, torch: bool, probe: bool = True) -> Facts:
        """What the plan needs. With `torch` the device is looked at and the probe, if wanted, is run where it never
        was."""
        from tailorbird.running.machine import machine_for

        return self.facts_on(machine_for(self.spec, torch=torch, probe=probe))

    def facts_on(self, machine: Machine) -> Facts:
        return Facts(
            self.task,
            self.sizes,
            self.lengths,
            self.base,
            machine,
            self.unsaid,
            self.trained,
            self.replay,
            self.made_before,
            self.met,
        )

    def rendered(self, count: int = RENDERED_ROWS) -> list[list[tuple[str, bool]]]:
        """Some rows as the model meets them: (token text, supervised). Of a collection the first of each source."""
        first: dict[str | None, Row] = {}
        for row in self.splits.train:
            first.setdefault(row.source, row)
        shown = [*first.values()] if len(first) > 1 else self.splits.train.rows
        return [render(self.renderer, self.task, row) for row in shown[:count]]


def read_material(spec: Spec, say: Say = lambda text: None) -> Material:
    """Reads data and base. `say` gets a line before each thing that may take a moment."""
    from tailorbird import data
    from tailorbird.bases.catalog import resolve
    from tailorbird.bases.facts import base_facts
    from tailorbird.bases.renderer import Renderer

    how = reading(spec)
    folder = resolve(spec.base.name, root=spec.folder)
    say("looking at the base (its weights are hashed the first time)")
    base, renderer = base_facts(folder), Renderer.from_folder(folder)
    say(f"reading {', '.join(how.examples)}")
    sources = [data.Source.of(source) for source in how.sources]
    shared_out = any(source.share is not None for source in sources)
    room = room_of(spec, renderer, base)
    read = _read_all(spec, how, sources, room.check())
    served = room.check(read.task)
    if any(served(row) for dataset in (read.dataset, *read.given.values()) for row in dataset.rows):
        read = _read_all(spec, how, sources, served)  # what is asked takes room, too, and is known from the rows
    dataset, given, task, rows = read.dataset, read.given, read.task, read.rows
    say("splitting")
    learned, unsaid = learned_before(spec, folder)
    splits, facts = data.split(
        rows["all"],
        seed=how.seed,
        sizes={**how.sizes, **({"train": None} if shared_out else {})},  # all that is left is there to be shared out
        given_test=rows.get("test"),
        given_validation=rows.get("validation"),
        overlap=how.overlap,
        stratify=task.kind == "classify",
        learned=learned,
    )
    told = facts.as_dict()
    if shared_out:
        train, mixture = data.mix(splits.train, sources, total=how.sizes["train"], seed=how.seed)
        splits = replace(splits, train=Train(train))
        told |= {
            "sizes": {**told["sizes"], "train": len(train)},
            "mixture": {n: m.as_dict() for n, m in mixture.items()},
        }
    lengths = measure_lengths(renderer, task, list(dataset.rows))
    trained = measure_lengths(renderer, task, splits.train.rows) if shared_out else lengths
    replayed = replay = None
    if how.replay is not None:
        say(f"reading {how.replay['path']}")
        replayed = read_replay(spec, how, splits, room.check())
        replay = measure_replay(renderer, task, splits.train[0], trained.head, replayed.rows.rows)
        lengths = replace(lengths, longest=max(lengths.longest, replay.longest))
    return Material(
        spec, base, renderer, room, dataset, given, task, splits, told, lengths, replayed, unsaid, trained, replay,
        made_before(spec), met_before(spec, splits.train),
    )  # fmt: skip


def met_before(spec: Spec, train: Train) -> dict[str, int]:
    """Of contestants that start from one made before: how many Train rows that has learned from."""
    from tailorbird.artifacts.learned_from import read_learned_from
    from tailorbird.data.learned import input_hash
    from tailorbird.running.inputs import parent_folder

    found = {}
    for contestant in spec.contestants or ():
        parent = parent_folder(spec, contestant.label, contestant.after)
        if parent is not None and (learned := read_learned_from(parent)) is not None:
            found[contestant.label] = sum(input_hash(row) in learned.train for row in train)
    return found


def learned_before(spec: Spec, base: Path) -> tuple[Learned, dict[str, str]]:
    """What the customizations that the spec brings along have learned from; and of those that do not say (all of) it,
    and of contestants made after them: label -> "is" or "starts from"."""
    from tailorbird import data
    from tailorbird.artifacts.learned_from import read_learned_from
    from tailorbird.running.inputs import brought_path, parent_folder

    trained: dict[str, str] = {}
    tuned: dict[str, str] = {}
    unsaid: dict[str, str] = {}

    def take(folder: Path, who: str) -> bool:
        found = read_learned_from(folder)
        if found is not None:
            trained.update(dict.fromkeys(found.train, who))
            tuned.update(dict.fromkeys(found.tuning, who))
        return found is not None and found.complete

    take(base, f"the base {spec.base.name}")  # of one that is no customization it is not known, as everywhere
    for contestant in spec.contestants or ():
        parent = parent_folder(spec, contestant.label, contestant.after)
        if parent is not None and not take(parent, str(contestant.after)):
            unsaid[contestant.label] = "starts from"
        if contestant.adapter is not None:
            brought = brought_path(spec, contestant)
            if brought is not None and not take(brought, contestant.label):
                unsaid[contestant.label] = "is"
    for _ in spec.contestants or ():  # and those behind them
        unsaid |= {c.label: "starts from" for c in spec.contestants or () if c.after in unsaid}
    return data.Learned(trained, tuned), unsaid


def render(renderer: Renderer, task: Task, row: Row) -> list[tuple[str, bool]]:
    """One row as it is trained on: token texts and whether each is supervised."""
    from tailorbird.artifacts.parts import Prompt

    said = task.labels.get(row.label or "", row.answer) if task.labels else row.answer
    turns = Prompt(task.instruction).conversation((*row.prompt, Message(Role.ASSISTANT, said)))
    wanted = [s for m, s in zip(row.messages, row.supervised, strict=True) if m.role is not Role.SYSTEM]
    rendered = renderer.row(turns, [False] * (len(turns) - len(wanted)) + wanted)
    return list(zip(renderer.token_text(rendered.ids), rendered.supervised, strict=True))


def labelled(kind: str, rows: tuple[Row, ...]) -> list[Row]:
    """Rows of a classify task with their label: the label column, else the answer as it stands."""
    if kind != "classify":
        return list(rows)
    return [row if row.label is not None else replace(row, label=row.answer) for row in rows]


def _kind(rows: tuple[Row, ...]) -> str:
    """What is asked, by the data alone: labels, short answers, or texts."""
    if rows and all(row.label is not None for row in rows):
        return "classify"
    return "write" if rows and median(len(row.answer) for row in rows) > WRITTEN_CHARACTERS else "answer"


def _task(spec: Spec, kind: str, rows: list[Row]) -> Task:
    from tailorbird import tasks

    asked = spec.task
    described = bool(spec.data.sources) and all(source.instruction for source in spec.data.sources)
    labels = tasks.labels_in(rows, asked.labels) if kind == "classify" else asked.labels
    try:
        return tasks.build(
            kind,
            # what each source of a collection says itself needs no sentence for all of them before it
            instruction="" if described and asked.instruction is None else asked.instruction,
            labels=labels,
            max_new_tokens=asked.max_new_tokens,
            metric=asked.metric,
        )
    except SpecError as error:
        place = error.where or "task"
        line = spec.line(place.split("."))
        where = f"{spec.source}:{line}" if spec.source and line else None
        raise SpecError(f"{place}: {error.what}", where=where, remedy=error.remedy) from None


@dataclass(frozen=True)
class _Rows:
    """What was read, and the task that it is for. `rows`: of "all" and of each file that is given apart, labelled."""

    dataset: Dataset
    given: dict[str, Dataset]
    task: Task
    rows: dict[str, list[Row]]


def _read_all(spec: Spec, how: Reading, sources: Sequence[Source], check: RowCheck) -> _Rows:
    dataset = _read(spec, how, sources or how.examples, check)
    given = {
        name: _read(spec, how, [path], check)
        for name, path in (("test", how.test), ("validation", how.validation))
        if path is not None
    }
    kind = spec.task.kind or _kind(dataset.rows)
    rows = {"all": labelled(kind, dataset.rows), **{n: labelled(kind, d.rows) for n, d in given.items()}}
    return _Rows(dataset, given, _task(spec, kind, [row for part in rows.values() for row in part]), rows)


def _read(spec: Spec, how: Reading, paths: Sequence[str | Source], check: RowCheck) -> Dataset:
    from tailorbird import data
    from tailorbird.data.files import SHEET_SUFFIXES

    beside = paths in ([how.test], [how.validation])  # a file beside the examples may be of another format
    sheet = None if beside and not str(paths[0]).lower().endswith(SHEET_SUFFIXES) else how.sheet
    return data.read(
        paths,
        root=spec.folder,
        shape=how.shape,
        columns=dict(how.columns) or None,
        group=how.group,
        slices=how.slices,
        max_bad_share=how.max_bad_share,
        check_row=check,
        classify=spec.task.kind == "classify",
        sheet=sheet,
        supervise=how.supervise,
        labels=list(spec.task.labels) if spec.task.labels and spec.task.kind in (None, "classify") else None,
    )
