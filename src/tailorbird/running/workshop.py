"""What the steps of a run have in common: plan, rows, folder, events, the stop flag; and how an answerer is opened."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailorbird import store
from tailorbird.errors import Interrupted
from tailorbird.events import Events
from tailorbird.plan import Entrant, Plan
from tailorbird.running.folder import RunFolder
from tailorbird.running.inputs import Inputs
from tailorbird.running.material import Material
from tailorbird.types import Answerer, Measurement

if TYPE_CHECKING:
    from tailorbird.customize import Compute, Job
    from tailorbird.tasks import Task

Made = dict[str, Any]


@dataclass(frozen=True)
class Progress:
    """Of one stage: called, it tells the listeners and then asks the stop flag; `report` only tells."""

    shop: Workshop
    label: str | None
    stage: str

    def report(self, done: int, total: int, note: str = "") -> None:
        self.shop.events.emit("progress", label=self.label, stage=self.stage, done=done, total=total, note=note)

    def __call__(self, done: int, total: int, note: str = "") -> None:
        self.report(done, total, note)
        self.shop.check_stop()


@dataclass
class Work:
    """One contestant on its way: what was made of it, what was measured, or why not. `keys`: step name -> key.

    `parent`: the contestant of this run that it starts from.
    `found`: settings that the contestant chose by itself on Train and Tuning (the C of `tfidf`). Made with several
    seeds, `by_seed` has a Work for each, with its `seed` and what it is called while at work (`part`); `exported` says
    which one's files and answers are shown. `tuning`, `curve`: as they stand in comparison.json.
    """

    entrant: Entrant
    parent: Work | None = None
    state: str = "planned"
    note: str | None = None
    exit_code: int = 1
    made: Made = field(default_factory=dict)
    artifact: Path | None = None
    measurements: dict[str, Measurement] = field(default_factory=dict)
    uncalibrated: dict[str, Measurement] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    forgetting: dict[str, Any] | None = None
    found: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    seed: int | None = None
    part: str = ""
    by_seed: list[Work] = field(default_factory=list)
    exported: int = 0
    tuning: dict[str, Any] | None = None
    curve: dict[str, Any] | None = None

    @property
    def ones(self) -> list[Work]:
        """What is made and measured: one for each seed, or itself."""
        return self.by_seed or [self]

    @property
    def label(self) -> str:
        return self.entrant.label

    @property
    def alive(self) -> bool:
        return self.state in ("planned", "done")


@dataclass
class Workshop:
    """The surroundings of every step. `stop` is asked between rows and steps; `clock` is for durations only."""

    plan: Plan
    material: Material
    inputs: Inputs
    folder: RunFolder
    events: Events
    stop: Callable[[], bool]
    clock: Callable[[], float] = time.perf_counter
    references: dict[str, Answerer] = field(default_factory=dict)
    artifacts: dict[str, Path] = field(default_factory=dict)  # label -> customization, as they are made

    @property
    def task(self) -> Task:
        return self.material.task

    @property
    def steps(self) -> store.Steps:
        return self.folder.steps

    @property
    def compute(self) -> Compute:
        from tailorbird.customize import Compute

        plan = self.plan
        return Compute(
            plan.device, plan.dtype, plan.threads, plan.micro_batch_tokens, 1, memory_bytes=plan.memory_bytes
        )

    def compute_inputs(self) -> dict[str, Any]:
        """What of the machine decides figures to the last bit."""
        plan = self.plan
        return {
            "device": plan.device,
            **({"device_name": plan.device_name} if plan.device_name else {}),
            "dtype": plan.dtype,
            "threads": plan.threads,
            "micro_batch_tokens": plan.micro_batch_tokens,
            "base": self.inputs.base,
        }

    def row_ids(self, split: str) -> str:
        """One hash for the rows of a split in their order, their weights and what is judged by."""
        rows = getattr(self.material.splits, split)
        return store.sha256_json([[r.id, r.label, r.weight, r.group, dict(r.slices)] for r in rows])

    def check_stop(self) -> None:
        if self.stop():
            raise Interrupted("stopped", remedy="the same command goes on from here")

    @contextmanager
    def stage(self, label: str | None, stage: str, total: int = 0) -> Iterator[Progress]:
        """Announces a stage and its duration."""
        self.check_stop()
        self.events.emit("stage_started", label=label, stage=stage, total=total)
        begun = self.clock()
        yield Progress(self, label, stage)
        self.events.emit("stage_finished", label=label, stage=stage, seconds=self.clock() - begun)

    def job(
        self, entrant: Entrant, work: Path, report: Callable[[int, int, str], None], seed: int | None = None
    ) -> Job:
        """`report`: told of progress; the job asks the stop flag itself, where it can keep what it has."""
        from dataclasses import replace

        from tailorbird.customize import Job

        splits = self.material.splits
        return Job(
            label=entrant.label,
            technique=str(entrant.technique),
            settings=dict(entrant.effective),
            asked=dict(entrant.asked),
            base=self.material.base,
            task=self.task,
            train=splits.train,
            tuning=splits.tuning,
            seed=self.plan.seed if seed is None else seed,
            compute=replace(
                self.compute,
                checkpoint_steps=entrant.checkpoint_steps,
                micro_batch_tokens=entrant.micro_batch_tokens or self.plan.micro_batch_tokens,
                recompute=entrant.recompute,
            ),
            work=work,
            progress=report,
            stop=self.stop,
            parent=self.parent_folder(entrant),
            note=lambda text: self.events.emit("note", text=f"{entrant.label}: {text}"),
            replay=self.material.replay_for(entrant.replay),
        )

    def parent_folder(self, entrant: Entrant) -> Path | None:
        """The customization that a contestant starts from: one made in this run, or before it."""
        from tailorbird.running.inputs import parent_folder

        own = self.artifacts.get(entrant.after or "")
        return own or parent_folder(self.material.spec, entrant.label, entrant.after)

    @contextmanager
    def opened(self, work: Work) -> Iterator[Callable[[], Any]]:
        """Opens the contestant's answerer when it is first asked for, and closes it at the end."""
        held: list[Any] = []

        def get() -> Any:
            if not held:
                held.append(self.open(work))
            return held[0]

        try:
            yield get
        finally:
            for answerer in held:
                if hasattr(answerer, "close"):
                    answerer.close()
            if held:
                from tailorbird.engine.memory import let_go_of_models

                held.clear()
                let_go_of_models(self.material.base.parameters)

    def open(self, work: Work) -> Answerer:
        """What is measured: a customization from its folder, a reference, or what the user brings along."""
        entrant, material = work.entrant, self.material
        source = entrant.source
        if entrant.kind == "reference":
            return self._reference(str(entrant.technique))
        if "answers" in source:
            from tailorbird.answerers.answers_file import AnswersFile

            return AnswersFile(material.spec.path(source["answers"]))
        if "command" in source:
            from tailorbird.answerers.command import Command

            return Command(source["command"], float(entrant.timeout_seconds or 60), folder=material.spec.folder)
        return self._open_local(work)

    def _reference(self, name: str) -> Answerer:
        """Fitted once and kept: it is asked on Validation, for its latency and on Test."""
        from tailorbird.answerers.references import Majority, Tfidf

        if name not in self.references:
            splits, labels = self.material.splits, self.task.labels
            self.references[name] = (
                Majority(splits.train, labels) if name == "majority" else Tfidf(splits.train, labels, splits.tuning)
            )
        return self.references[name]

    def _open_local(self, work: Work) -> Answerer:
        from tailorbird.answerers import opening

        plan, base = self.plan, self.material.base_folder
        if "adapter" in work.entrant.source:
            from tailorbird.artifacts.parts import Prompt
            from tailorbird.customize import decode_of

            return opening.open_foreign(
                self.material.spec.path(work.entrant.source["adapter"]),
                base,
                prompt=Prompt(self.task.instruction or None),
                decode=decode_of(self.task),
                device=plan.device,
                dtype=plan.dtype,
                threads=plan.threads,
                batch_tokens=plan.micro_batch_tokens,
            )
        assert work.artifact is not None
        return opening.open_customization(
            work.artifact,
            base,
            device=plan.device,
            threads=plan.threads,
            batch_tokens=plan.micro_batch_tokens,
        )

    def open_base(self) -> Any:
        from tailorbird.answerers.opening import open_bare

        plan = self.plan
        return open_bare(
            self.material.base_folder,
            device=plan.device,
            dtype=plan.dtype,
            threads=plan.threads,
            batch_tokens=plan.micro_batch_tokens,
        )
