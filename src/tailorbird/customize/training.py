"""Training a contestant: rows rendered as served and encoded, the loop run, the best point handed over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailorbird import store
from tailorbird.artifacts.parts import Prompt
from tailorbird.artifacts.training_state import TrainingState, fitting_moments
from tailorbird.customize.fitting import fit_memory, noted_end
from tailorbird.customize.handing_over import hand_over
from tailorbird.customize.job import Job, target
from tailorbird.customize.parent import Parent, read_parent, starting_model
from tailorbird.errors import DataError
from tailorbird.techniques.base import Trained, TrainingContext
from tailorbird.types import Message, Role, Row

if TYPE_CHECKING:
    from torch import Tensor

    from tailorbird.bases.renderer import Rendered, Renderer
    from tailorbird.engine.batches import Encoded, RowSource
    from tailorbird.engine.model import Model
    from tailorbird.engine.train import Best, Trainable
    from tailorbird.tasks import Task

NAMED_STILL = 3  # tensors without a gradient, named in a note


def encode(renderer: Renderer, task: Task, prompt: Prompt, row: Row, context: int) -> Encoded:
    """The row as it is trained on: rendered as served, only the wanted assistant turns supervised. `context`: what is
    left of it for a row."""
    turns = [*row.prompt, Message(Role.ASSISTANT, target(task, row))]
    supervised = [
        wanted for message, wanted in zip(row.messages, row.supervised, strict=True) if message.role is not Role.SYSTEM
    ]
    conversation = prompt.conversation(tuple(turns))
    marks = [False] * (len(conversation) - len(supervised)) + supervised
    return _encoded(renderer.row(conversation, marks), row, context)


def encode_replay(renderer: Renderer, row: Row, context: int) -> Encoded:
    """A general conversation as it stands, without the task's instruction: what is kept is the base's own talk."""
    return _encoded(renderer.row(row.messages, row.supervised), row, context)


def _encoded(rendered: Rendered, row: Row, context: int) -> Encoded:
    from tailorbird.engine.batches import Encoded

    if len(rendered.ids) > context:
        raise DataError(
            f"{len(rendered.ids)} tokens are more than the {context} that the base's context leaves a row",
            where=str(row.place),
            remedy="shorten the row, or leave it out; fewer virtual tokens leave more",
        )
    return Encoded(tuple(rendered.ids), tuple(rendered.supervised), row.weight)


def by_training(job: Job, technique: Trained, out: Path) -> dict[str, Any]:
    import torch

    from tailorbird.bases.renderer import Renderer
    from tailorbird.engine.batches import RowSource, stream
    from tailorbird.engine.checkpoints import Checkpoints
    from tailorbird.engine.finer import Finer, Start
    from tailorbird.engine.optimizer import Schedule
    from tailorbird.engine.scoring import top_logits
    from tailorbird.engine.train import train

    settings: Any = technique.Settings.model_validate(job.settings)
    base_folder, compute = Path(job.base.folder), job.compute
    renderer = Renderer.from_folder(base_folder)

    def begin(parent: Parent | None) -> tuple[Model, Trainable, Finer]:
        """The model with what is trained, as training begins, and its fp32 values as far as it holds only their
        rounding."""
        before = _before(parent)
        model, exact, weights = starting_model(job, technique, parent)
        generator = torch.Generator().manual_seed(stream(job.seed, "init", technique.name))
        context = TrainingContext(generator, renderer.plain, job.task_text, renderer.tokens.common, before.tensors)
        trainable = technique.trainable(model, settings, context)
        known = {name: exact.pop(name) for name in trainable.parameters if name in exact}
        trainable.masters = finer = Finer(weights, trainable.parameters, model.network.base_model_prefix, known)
        trainable.moments = moments(before, trainable)
        return model, trainable, finer

    def moments(before: TrainingState, trainable: Trainable) -> Mapping[str, Tensor]:
        return fitting_moments(before, trainable.parameters, f"{job.parent}/{technique.state_folder}")

    parent = read_parent(job, technique)
    epochs = _before(parent).epochs
    model, trainable, finer = begin(parent)
    # Values that a parent's parts were folded into lie in no file: they are computed again, by a second network.
    start = None if parent is not None and "weights" in technique.makes else Start(finer)

    def restart() -> Mapping[str, Tensor]:
        """The optimizer's state that training began with: what files hold, the parent's too, is read again."""
        again = read_parent(replace(job, notes=[], note=lambda text: None), technique)
        if start is None:
            return begin(again)[1].start()
        delta = (again.parts.delta if again is not None else None) or {}
        start.held |= {f"master/{name}": value for name, value in delta.items()}
        start.held |= moments(_before(again), trainable)
        return start

    if parent is not None:
        parent = replace(parent, state=None)  # the optimizer takes the moments over: of sft they are a gigabyte
    model.drop_out(settings.dropout)
    soft, pairs = model.virtual_tokens, model.pairs

    def source(rows: Sequence[Row], replay: Sequence[Row] = (), **training: Any) -> RowSource:
        room = job.base.context - soft - pairs
        encoded = [encode(renderer, job.task, job.prompt, row, room) for row in rows]
        encoded += [encode_replay(renderer, row, room) for row in replay]
        return RowSource(
            encoded,
            batch_rows=settings.batch_rows,
            micro_batch_tokens=compute.micro_batch_tokens,
            seed=job.seed,
            soft=soft,
            pairs=pairs,
            device=compute.device,
            **training,
        )

    rows = source(
        job.train,
        job.replay,
        dropout=settings.dropout > 0,
        label_smoothing=settings.label_smoothing,
        first_epoch=epochs,
    )
    tuning = source(job.tuning) if len(job.tuning) else None
    schedule = Schedule(
        settings.learning_rate, settings.epochs * rows.steps_per_epoch, settings.warmup_share, settings.schedule
    )
    _say_what_is_off(job, settings, rows)
    if model.doubted:
        job.say(
            f"{len(model.doubted)} of {len(model.kernels)} layers differ from ours and run as transformers has them"
        )
    recompute = fit_memory(job, model, trainable, technique.loss, rows, schedule.steps, settings.l2_to_start)
    with noted_end(job):
        best = train(
            model,
            trainable,
            technique.loss,
            rows,
            tuning,
            schedule=schedule,
            weight_decay=settings.weight_decay,
            clip=settings.clip,
            checkpoints=Checkpoints(job.work / "checkpoints", job.say),
            checkpoint_steps=compute.checkpoint_steps,
            progress=job.progress,
            stop=job.stop,
            judged=job.judged,
            l2_to_start=settings.l2_to_start,
            patience=settings.patience,
            keep_moments=getattr(settings, "keep_optimizer", False),  # not there where nothing can go on with it
            restart=restart,
        )
    store.write_jsonl(job.work / "log.jsonl", best.log)
    if best.skipped:
        job.say(f"{best.skipped} steps were skipped: loss or gradient not finite")
    if best.rolled_back:
        job.say(
            f"the loss exploded at step {best.rolled_back[0]}: back to step {best.rolled_back[1]} with a lower rate"
        )
    if best.steps < schedule.steps:
        job.say(f"ended early, after {best.steps} of {schedule.steps} steps; the best point is step {best.step}")
    parts = technique.parts(best.tensors, settings, job.prompt, job.decode)
    if parent is not None:
        parts = parts.over(parent.parts.without(technique.folds))
    with torch.no_grad():
        for name, parameter in trainable.parameters.items():
            parameter.copy_(best.tensors[name])
    model.soft_encoder = None  # from here on the table answers
    model.soft, model.kv = (None if each is None else each.to(model.device) for each in (parts.soft, parts.kv))
    kept = technique.kept(best.tensors)
    state = TrainingState(epochs + best.step // rows.steps_per_epoch, best.moments, kept)
    facts = {
        "steps": best.steps,
        "best_step": best.step,
        "tuning_loss": best.tuning_loss,
        "train_tokens": sum(len(row.ids) for row in rows.met(best.steps)),
        "supervised_tokens": sum(sum(row.supervised) for row in rows.met(best.steps)),
        "trainable_parameters": trainable.count,
        "updated_parameters": sum(best.updated.values()),
        "shared_head_tokens": rows.head,
        "skipped_steps": best.skipped,
        "micro_batch_tokens": rows.micro_batch_tokens,
        "recompute": recompute,
    }
    _check_moved(job, best)
    hand_over(job, technique, parts, renderer, facts, lambda ids: top_logits(model, ids), out, parent,
        state if kept or best.moments else None,
    )  # fmt: skip
    return facts


def _before(parent: Parent | None) -> TrainingState:
    """What the parent kept of its training; nothing where there is none to go on with."""
    return (parent.state if parent is not None else None) or TrainingState(0, {}, {})


def _say_what_is_off(job: Job, settings: Any, rows: RowSource) -> None:
    from tailorbird.engine.batches import shared_head

    if settings.dropout and (shared := shared_head(rows.rows)):
        job.say(f"with dropout each row has masks of its own: the {shared} tokens all begin with are computed for each")
    if settings.patience and not len(job.tuning):
        job.say("patience has no effect: there are no Tuning rows to look at")


def _check_moved(job: Job, best: Best) -> None:
    """A training that changed nothing is said, not sold; so is a tensor that the loss does not depend on. After one
    step it may yet: a low-rank layer's A has no gradient before its B has moved."""
    applied = sum(entry.get("loss") is not None for entry in best.log)
    if not applied:
        job.say("no step could be applied: nothing was learned")
    elif applied > 1 and (still := [name for name, count in best.updated.items() if not count]):
        named = ", ".join(still[:NAMED_STILL]) + (", …" if len(still) > NAMED_STILL else "")
        job.say(f"{len(still)} of {len(best.updated)} trained tensors never had a gradient: {named}")
