"""`init`: looks at data and writes a commented spec. What it guessed stands in the file, to be read and corrected."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird import store
from tailorbird.data.sizes import CARVED, default_size
from tailorbird.errors import SpecError
from tailorbird.measure.detectable import rows_for_margin

if TYPE_CHECKING:
    from tailorbird.data import Dataset
    from tailorbird.tasks import Task

DEFAULT_BASE = "smollm2-135m"
MARGIN = 0.02  # what a spec has that says none
MOST_LABELS = 200
REPEATED = 5  # answers that repeat this often, on average, are labels


@dataclass(frozen=True)
class Proposal:
    """A spec's text and what it was made from."""

    text: str
    task: Task
    dataset: Dataset


def propose(paths: Sequence[str], *, base: str = DEFAULT_BASE, root: Path | None = None) -> Proposal:
    """A spec for these files; relative paths in it start at `root` (where it will lie)."""
    from tailorbird import data, tasks

    root = root or Path.cwd()
    dataset = data.read(paths, root=root, max_bad_share=1.0)
    if not dataset.rows:
        raise SpecError(
            "no row of it can be used", where=", ".join(paths), remedy="`tailorbird check FILE` says why, row by row"
        )
    kind = guess_kind(dataset)
    if kind == "classify" and any(row.label is None for row in dataset.rows):
        dataset = data.read(paths, root=root, max_bad_share=1.0, classify=True)
    labels = tasks.labels_in(dataset.rows) if kind == "classify" else {}
    if kind == "classify" and len(labels) < 2:
        raise SpecError(
            f"every row has the label {next(iter(labels), '')!r}",
            where=", ".join(paths),
            remedy="two labels at least are needed",
        )
    task = tasks.build(kind, labels=labels)
    return Proposal(_text(paths, base, task, dataset), task, dataset)


def guess_kind(dataset: Dataset) -> str:
    """classify when there is a label column, or few answers that repeat; write when answers are long; else answer."""
    from statistics import median

    rows = dataset.rows
    if all(row.label is not None for row in rows):
        return "classify"
    answers = {row.answer for row in rows}
    if 2 <= len(answers) <= MOST_LABELS and len(rows) >= REPEATED * len(answers):
        return "classify"
    return "write" if median(len(row.answer) for row in rows) > 60 else "answer"


def write_spec(proposal: Proposal, out: Path) -> None:
    if out.exists():
        raise SpecError(
            "is there already", where=str(out), remedy="give another -o, or remove it first; nothing is overwritten"
        )
    store.write_text(out, proposal.text)


def default_out(paths: Sequence[str]) -> Path:
    stem = re.sub(r"[^a-z0-9._-]+", "-", Path(paths[0]).stem.lower()).strip("-._") or "spec"
    return Path(f"{stem}.yaml")


def _text(paths: Sequence[str], base: str, task: Task, dataset: Dataset) -> str:
    facts = dataset.facts
    shown = _yaml(paths[0]) if len(paths) == 1 else "[" + ", ".join(map(_yaml, paths)) + "]"
    columns = ", ".join(f"{role} = {column}" for role, column in facts.columns.items())
    read = f"read as {facts.shape.replace('_', ' ')}" + (f" ({columns})" if columns else "")
    rejected = sum(facts.rejected.values())
    counted = f"{facts.accepted:,} rows" + (f", {rejected:,} cannot be used" if rejected else "")
    about_base = (
        "    # 135 M parameters, Apache-2.0; a folder or a Hub id goes here as well" if base == DEFAULT_BASE else ""
    )
    lines = [
        "# A spec of tailorbird: one task, several ways to customize a base model, measured alike.",
        f"# Made by `tailorbird init` from {counted}. Read the instruction, correct what was guessed wrong, then:",
        "#   tailorbird check THIS_FILE     data report and plan, in seconds",
        "#   tailorbird run THIS_FILE       does it; killed or stopped, the same command goes on",
        "",
        f"base: {_yaml(base)}{about_base}",
        "",
        "data:",
        f"  examples: {shown}    # {read}",
        "  # columns: {prompt: …, label: …}    # say which column is which, where it was understood wrongly",
        "  # test: test.csv                    # rows of your own to test on; else they are split off",
        "  # group: customer                   # a column whose equal values never straddle two splits",
        "  # replay: {path: talk.jsonl, share: 0.2}    # general talk beside the rows of a training",
        "  # retention: full                   # general texts that forgetting is measured on: full, fast, or a file",
        "",
        "task:",
        f"  kind: {task.kind}    # classify | answer | write",
        "  # The system message, the same for every contestant. Say who asks and what is wanted, in a sentence or two.",
        f"  instruction: {_yaml(task.instruction or '')}",
    ]
    if task.kind == "classify":
        lines.append("  labels:    # label in the data: the words that the model says for it")
        lines += [f"    {_yaml(label)}: {_yaml(words)}" for label, words in task.labels.items()]
    else:
        lines.append(f"  max_new_tokens: {task.max_new_tokens}    # longest answer")
    references = ["  - majority", "  - tfidf"] if task.kind == "classify" else []
    lines += [
        "",
        "contestants:",
        *references,
        "  - zero_shot",
        "  - few_shot",
        "  - prompt_tuning",
        "  - lora    # settings go like this: `- lora: {rank: 8}`",
        "  - sft",
        "  # What you have today: a CSV or JSONL file with an answer for each Validation and Test row (columns `id` or",
        "  # the text, and `answer`; `tailorbird check THIS_FILE --rows rows.jsonl` writes these rows), or a program",
        "  # that reads and writes JSON lines:",
        "  # - {label: today, answers: production.csv}",
        "  # - {label: rules, command: python classify.py}",
        "",
        "requirements:",
        f"  margin: {MARGIN:g}    # a cheaper contestant is as good when it is shown to be within this of the best",
        "  # also: min_score, latency_ms, max_forgetting, max_deployed_mb",
        "",
        "# limits: {minutes: 30, memory_gb: 12}    # what a run may use",
        *_split(facts.accepted),
        "seed: 0",
        "",
    ]
    return "\n".join(lines)


def _split(rows: int) -> list[str]:
    """What is taken when `split` is left out, and what it would need to tell contestants apart."""
    sizes = {name: default_size(name, rows) for name in reversed(CARVED)}
    line = f"# split: {{{', '.join(f'{n}: {size}' for n, size in sizes.items())}}}"
    needed = rows_for_margin(MARGIN) or 0
    more = f"# {needed} Validation rows are the least with which a cheaper one can be shown to be within the margin"
    return [f"{line}    # taken when left out; Train is the rest", *([more] if sizes["validation"] < needed else [])]


def _yaml(text: str) -> str:
    """A YAML scalar: plain where nothing in it could be misread, else quoted as JSON does."""
    plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9_./ ,-]*[A-Za-z0-9_.]", text) and ": " not in text and ", " not in text
    reserved = text.lower() in {"true", "false", "null", "yes", "no", "on", "off"}
    return text if plain and not reserved else json.dumps(text, ensure_ascii=False)
