"""`check`: the data report, three rendered rows with their supervised tokens coloured, and the plan. No torch.

`report` yields parts as they are ready, so that the first stands on the screen while the data is still being read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailorbird import store
from tailorbird.data.files import ROW_SUFFIXES
from tailorbird.errors import SpecError
from tailorbird.plan import Plan, make_plan, repeating
from tailorbird.running.material import Material
from tailorbird.spec import Spec

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

SHOWN_LABELS = 12
SHOWN_REJECTED = 5
NOT_LOOKED = (
    "the accelerator was not looked at: device, dtype, micro-batches and times may be others; `tailorbird run SPEC "
    "--dry-run` looks"
)


def is_data(path: Path) -> bool:
    return path.is_dir() or path.suffix.lower() in ROW_SUFFIXES


def data_report(material: Material) -> Iterator[RenderableType]:
    """What was read: files, rows, what was set aside and why, labels, lengths, splits."""
    from rich.text import Text

    facts = material.data_facts
    table = _pairs()
    for file in facts["files"]:
        columns = ", ".join(f"{role} = {column}" for role, column in file["columns"].items())
        table.add_row("file", f"{file['path']}: {file['rows']:,} rows, {file['shape'].replace('_', ' ')} ({columns})")
    rejected = sum(facts["rejected"].values())
    table.add_row(
        "rows", f"{facts['accepted']:,} taken, {facts['duplicates']:,} exact duplicates left out, {rejected:,} rejected"
    )
    for place in material.dataset.rejected[:SHOWN_REJECTED]:
        table.add_row("", f"{place.place}: {place.field or 'row'}: {place.reason} ({place.code})")
    if facts["contradiction_count"]:
        table.add_row("contradictions", f"{facts['contradiction_count']:,} inputs stand with different answers")
        for one in facts["contradictions"][:SHOWN_REJECTED]:
            table.add_row("", ", ".join(f"{k}: {v}" for k, v in one.items()))
    if facts["labels"]:
        table.add_row("labels", _labels(facts["labels"]))
    lengths = material.lengths
    table.add_row(
        "tokens",
        f"prompt {lengths.prompt:.0f} on average ({lengths.head} shared), answer {lengths.answer:.0f}, "
        f"longest row {lengths.longest:,}",
    )
    sizes = material.sizes
    table.add_row("splits", ", ".join(f"{name} {n:,}" for name, n in sizes.items()))
    table.add_row(
        "leaks", f"overlap {material.split_facts.get('overlap', 0)} (proven); near-duplicates and groups kept together"
    )
    for name, told in sources_told(material.split_facts):
        table.add_row("source", f"{name}: {told}")
    if material.replayed is not None:
        table.add_row("replay", replay_told(material))
    yield Text("Data", style="bold")
    yield table
    for warning in (*facts.get("warnings", ()), *material.split_facts.get("warnings", ()), *material.renderer.notes):
        yield Text(f"· {warning}", style="yellow")


def sources_told(split_facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each source of a collection: its rows in the splits, and how its part of Train comes about."""
    sources, mixture = split_facts.get("sources") or {}, split_facts.get("mixture") or {}
    for name in dict.fromkeys(name for counts in sources.values() for name in counts):
        own = {split: counts.get(name, 0) for split, counts in sources.items()}
        mixed = mixture.get(name)
        if mixed:
            own["train"] = mixed["rows"]
        told = ", ".join(f"{split} {count:,}" for split, count in own.items())
        yield name, told + (f"; {_part(mixed)}" if mixed else "")


def _part(mixed: Mapping[str, Any]) -> str:
    share = f"{100 * mixed['share']:.1f} % of Train"
    if mixed["rows"] < mixed["available"]:
        return f"{share}, a random part of {mixed['available']:,}"
    least, most = mixed["least_times"], mixed["most_times"]
    if most == 1:
        return f"{share}, all it has"
    return f"{share}, each of its {mixed['available']:,} rows {least} times" + (f" or {most}" if most > least else "")


def replay_told(material: Material) -> str:
    """Where the general conversations come from, how many a training meets, and what was left out."""
    replayed = material.replayed
    assert replayed is not None
    count = len(material.replay_for(replayed.share))
    told = (
        f"{replayed.path}: {count:,} general rows beside {material.sizes['train']:,} of Train "
        f"({100 * replayed.share:g} %), {len(replayed.rows):,} can be used"
    )
    if count > len(replayed.rows):
        told += f", so that they are met up to {-(-count // len(replayed.rows))} times"
    reasons = {
        "too_long": "are longer than the context",
        "held_out": "say what a held-out row says",
        "measured_on": "share words with what forgetting is measured on",
    }
    return told + "".join(f"; {n:,} left out: they {reasons[why]}" for why, n in replayed.left_out.items() if n)


def rendered_rows(material: Material) -> Iterator[RenderableType]:
    """Rows as the model meets them; what is learned from is marked by colour and, without colour, by ⟦ ⟧."""
    from rich.text import Text

    yield Text("\nThree rows as the model meets them", style="bold").append(
        "   what it learns to say is ⟦marked⟧", style="dim not bold"
    )
    for tokens in material.rendered():
        text = Text("  ")
        open_mark = False
        for token, supervised in tokens:
            if supervised != open_mark:
                text.append("⟦" if supervised else "⟧", style="dim")
                open_mark = supervised
            text.append(token, style="bold green" if supervised else "")
        if open_mark:
            text.append("⟧", style="dim")
        yield text


def plan_report(plan: Plan) -> Iterator[RenderableType]:
    """Everything that was decided, and what it is estimated to take."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = _pairs()
    base, task = plan.base, plan.task
    table.add_row(
        "base",
        f"{base['name']}, {base['parameters'] / 1e6:,.1f} M parameters, licence {base['licence'] or 'not stated'}",
    )
    table.add_row("task", f"{task['kind']}, measured by {task['metric']}; instruction: {task['instruction'] or 'none'}")
    table.add_row(
        "compute", f"{plan.device}, {plan.dtype} ({plan.dtype_reason}), {plan.threads} threads, seed {plan.seed}"
    )
    wishes = ", ".join(f"{name} {value:g}" for name, value in plan.requirements.items())
    table.add_row("requirements", wishes)
    yield Text("\nPlan", style="bold")
    yield table
    contestants = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="dim")
    for name in ("contestant", "what", "time", "memory", "settings"):
        contestants.add_column(name, justify="right" if name in ("time", "memory") else "left", overflow="fold")
    for e in plan.entrants:
        what = e.technique or " ".join(f"{k}: {v}" for k, v in e.source.items())
        what += f" after {e.after}" if e.after else ""
        if e.state == "skipped":
            contestants.add_row(e.label, what, "", "", f"skipped: {e.note}", style="dim")
            continue
        settings = ", ".join(f"{k} {v}" for k, v in e.effective.items() if v not in (None, [], ()))
        settings += f", replay {e.replay:g}" if e.replay else ""
        if 0 < e.micro_batch_tokens < plan.micro_batch_tokens:
            settings += f"; to fit the memory: micro-batches of {e.micro_batch_tokens:,} tokens"
        settings += "; to fit the memory: layers computed again in the backward pass" if e.recompute else ""
        settings = "; ".join(part for part in (settings, *repeating.told(e)) if part)
        memory = f"{e.memory_bytes / 1e9:.1f} GB" if e.memory_bytes else ""
        contestants.add_row(e.label, what, _time(e.seconds), memory, settings)
    yield contestants
    speeds = "" if plan.gflops else " (this machine's speed was not probed yet: taken as a common server's)"
    limit = f", limit {plan.minutes_limit:g}" if plan.minutes_limit else ""
    yield Text(f"About {_time(60 * plan.minutes)} in all{limit}{speeds}.")
    for note in plan.notes:
        yield Text(f"· {note}", style="yellow")


def plan_of(spec: Spec, material: Material, *, look: bool = False) -> Plan:
    """As a run would make it here. Without `look` torch is not asked for the device, and a note says so where the run
    may decide otherwise."""
    from tailorbird.running.machine import may_accelerate

    plan = make_plan(spec, material.facts(torch=look, probe=False))
    return plan if look or not may_accelerate(spec) else replace(plan, notes=(*plan.notes, NOT_LOOKED))


def check_imported(spec: Spec, plan: Plan, material: Material) -> dict[str, str]:
    """What a run would refuse at once: imported files and parents that are not there, rows that a file of answers
    lacks. Returns what is worth saying of those files, by contestant."""
    from tailorbird.running.inputs import brought_path, parent_folder
    from tailorbird.running.run import check_answers

    for contestant in spec.contestants or ():
        brought_path(spec, contestant)
        parent_folder(spec, contestant.label, contestant.after)
    return check_answers(plan, material)


def write_rows(material: Material, out: Path) -> int:
    """The Validation and Test inputs that a file of answers must have, without their labels: JSON lines."""
    from tailorbird.data import inputs_to_answer

    if out.suffix.lower() not in (".jsonl", ".ndjson"):
        raise SpecError("the name must end in .jsonl", where=str(out), remedy="the rows are written as JSON lines")
    if out.exists():
        raise SpecError("is there already", where=str(out), remedy="give another name; nothing is overwritten")
    rows = [*material.splits.validation, *material.splits.test]
    store.write_jsonl(out, inputs_to_answer(rows))
    return len(rows)


def _pairs() -> Table:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _labels(labels: dict[str, int]) -> str:
    shown = list(labels.items())[:SHOWN_LABELS]
    more = f", and {len(labels) - SHOWN_LABELS} more" if len(labels) > SHOWN_LABELS else ""
    return f"{len(labels)}: " + ", ".join(f"{label} {n:,}" for label, n in shown) + more


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 100 else f"{seconds:.0f} s"


def as_json(material: Material, plan: Plan) -> dict[str, Any]:
    """The same for programs."""
    return {"data": material.data_facts, "splits": material.split_facts, "plan": plan.as_dict()}
