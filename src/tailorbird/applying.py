"""`apply`: a whole file through a customization. Streaming, in constant memory, each row once, also after a kill.

Answers go to a journal beside OUT (`.OUT.journal.jsonl`), one line a row, synced every window. When the last row is
answered the journal becomes OUT in one rename. A killed command, given again, goes on behind the last whole line. A
sidecar says what the journal belongs to: another input, customization or threshold is refused rather than mixed in.

Columns: the user's own, then `label`, `confidence`, `abstain` (classify) or `answer`, `stop`, and `problem` for a row
that could not be answered. A column of the user's with such a name becomes `input_NAME`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tailorbird import store
from tailorbird.artifacts.table import BASE
from tailorbird.errors import ArtifactError, DataError, Interrupted, SafetyError, SpecError
from tailorbird.running.writing import inert
from tailorbird.types import Answer, Answerer, Request

if TYPE_CHECKING:
    from tailorbird.data import InputRow
    from tailorbird.running.serving import Served

WINDOW = 64  # rows answered together; fixed, so that going on gives the same answers
SUFFIXES = (".csv", ".jsonl")
CLASSIFY = ("label", "confidence", "abstain", "problem")
WRITE = ("answer", "stop", "problem")
TASK = "task"  # the column that names a row's task of a prompt table
BOTH = (*CLASSIFY[:-1], *WRITE)


@dataclass(frozen=True)
class Ask:
    """What a row is asked: one of `labels`, else a text of at most `max_new_tokens`; of whom, where several answer.

    problem: why this row cannot be asked at all.
    """

    labels: tuple[str, ...] = ()
    max_new_tokens: int = 0
    owner: str = ""
    problem: str | None = None


Answers = Callable[[Sequence[tuple[str, Request]]], Iterable[Answer]]
"""One answer for each (owner, request), in their order."""


def alone(answerer: Answerer) -> Answers:
    """Where one answers all."""
    return lambda asked: answerer.answer([request for _, request in asked])


def by_task(
    served: Served,
    path: Path,
    max_new_tokens: int | None,
    named: Mapping[str, str] = MappingProxyType({}),
    threshold: float | None = None,
) -> Callable[[InputRow], Ask]:
    """What each row of a file is asked, by the task that its column `task` names; empty is the untouched base.

    DataError when the first row has no such column. `max_new_tokens`: for rows that are written, instead of what their
    tasks say; SpecError when there is none, or none with labels for the `threshold`.
    """
    from tailorbird.data import read_inputs

    first = next((row for row in read_inputs(path, named) if row.problem is None), None)
    if first is not None and TASK not in first.record:
        raise DataError(
            f"there is no column `{TASK}`; the columns are {', '.join(map(str, first.record))}",
            where=str(path),
            remedy=f"add it: which task of {served.table.path} a row is for; empty is the untouched base",
        )

    def ask(row: InputRow) -> Ask:
        task = str(row.record.get(TASK) or "").strip() or BASE
        try:
            labels = served.labels(task)
            return Ask(labels, 0 if labels else max_new_tokens or served.max_new_tokens(task), task)
        except (SpecError, ArtifactError, SafetyError) as error:  # no such task, or a damaged one: the others go on
            return Ask(problem=error.what)

    if max_new_tokens or threshold is not None:  # an option that no row reads is refused before any is answered
        asks = (ask(row) for row in read_inputs(path, named) if row.problem is None)
        labelled = {bool(one.labels) for one in asks if one.problem is None}
        if max_new_tokens and labelled == {True}:
            what = "--max-new-tokens has no effect here: the labels of all rows are scored, not written"
            raise SpecError(what, where=str(path), remedy="leave it out")
        if threshold is not None and labelled == {False}:
            what = "a threshold is for labels; the tasks of all rows write text"
            raise SpecError(what, where=str(path), remedy="leave --threshold out")
    return ask


@dataclass(frozen=True)
class Applied:
    """How it went: rows in all, of which unreadable or too long, of which abstained; `resumed`: were there already."""

    rows: int
    problems: int
    abstained: int
    resumed: int


def apply(
    open_answers: Callable[[], Answers],
    identity: str,
    path: Path,
    out: Path,
    *,
    ask: Callable[[InputRow], Ask],
    columns: Sequence[str],
    max_new_tokens: int,
    named: Mapping[str, str] = MappingProxyType({}),
    threshold: float | None = None,
    window: int = WINDOW,
    progress: Callable[[int], None] = lambda rows: None,
    stop: Callable[[], bool] = lambda: False,
) -> Applied:
    """Answers every row of `path` into `out`.

    identity: stands for what answers. ask: what a row is asked. columns: CLASSIFY, WRITE or BOTH, as rows are asked for
    labels, texts or either. named: which of the file's columns is the prompt, the id, …, where it is said. window: rows
    answered together; a multiple of it is where going on begins.
    """
    check_out(path, out, threshold, columns)
    header = {
        "input": store.sha256_file(path) if path.is_file() else str(path),
        "customization": identity,
        "threshold": threshold,
        "max_new_tokens": max_new_tokens,
        **({"named": dict(named)} if named else {}),
    }
    job = _Job(open_answers, ask, tuple(columns), dict(named), threshold, window, progress, stop)
    journal_path, header_path = out.with_name(f".{out.name}.journal.jsonl"), out.with_name(f".{out.name}.journal.json")
    with store.RunLock(out.parent / f".{out.name}.lock.d"):
        _check_header(header_path, journal_path, header, out)
        try:
            with store.AppendLog(journal_path, keep=False) as journal:
                done = journal.count
                _answer_rest(job, path, journal, done)
        except BaseException:
            if journal_path.is_file() and not journal_path.stat().st_size:  # nothing to go on from: nothing is left
                journal_path.unlink()
                header_path.unlink()
                _remove_lock(out)
            raise
        counts = _publish(journal_path, out)
        journal_path.unlink()
        header_path.unlink()
    _remove_lock(out)
    return Applied(**counts, resumed=done)


@dataclass(frozen=True)
class _Job:
    open_answers: Callable[[], Answers]
    ask: Callable[[InputRow], Ask]
    columns: tuple[str, ...]
    named: dict[str, str]
    threshold: float | None
    window: int
    progress: Callable[[int], None]
    stop: Callable[[], bool]


def check_out(path: Path, out: Path, threshold: float | None, columns: Sequence[str]) -> None:
    if out.suffix.lower() not in SUFFIXES:
        raise SpecError("the output's name must end in .csv or .jsonl", where=str(out))
    if out.exists():
        same = path.exists() and out.resolve() == path.resolve()
        what = "is the input itself" if same else "is there already"
        raise SpecError(what, where=str(out), remedy="give another -o, or remove it first; nothing is overwritten")
    if threshold is not None and "label" not in columns:
        raise SpecError("a threshold is for labels; this customization writes text", remedy="leave --threshold out")
    if threshold is not None and not 0 <= threshold <= 1:
        raise SpecError(f"a threshold is a confidence between 0 and 1, is {threshold}")


def _check_header(header_path: Path, journal: Path, header: dict[str, Any], out: Path) -> None:
    if header_path.is_file():
        before = store.read_json(header_path)
        changed = [name for name in header if before.get(name) != header[name]]
        if changed:
            raise SpecError(
                f"an unfinished output is there, made with another {', '.join(changed)}",
                where=str(out),
                remedy=f"finish it with the command it was begun with, or remove {journal} and {header_path}",
            )
    else:
        journal.unlink(missing_ok=True)
        store.write_json(header_path, header)


def _answer_rest(job: _Job, path: Path, journal: store.AppendLog, done: int) -> None:
    """Windows start at multiples of their size of the whole file, so that batches are those of the undisturbed run."""
    from tailorbird.data import read_inputs

    rows = iter(read_inputs(path, job.named))
    start = done - done % job.window
    if sum(1 for _ in islice(rows, start)) < start:
        raise DataError("has fewer rows than were answered already", where=str(path))
    answers: Answers | None = None
    count = start
    while window := list(islice(rows, job.window)):
        if job.stop():
            raise Interrupted(f"stopped after {count} rows", remedy="the same command goes on from here")
        answers = answers or job.open_answers()
        for number, record in enumerate(_answered(job, answers, window, count)):
            if count + number >= done:
                journal.append(record)
        journal.sync()
        store.fault("apply")
        count += len(window)
        job.progress(count)
    if count < done:
        raise DataError("has fewer rows than were answered already", where=str(path))


def _answered(job: _Job, answers: Answers, window: Sequence[InputRow], first: int) -> Iterator[dict[str, Any]]:
    """One record a row of the window, in order. A row too long for the base is a problem of that row alone."""
    asks = [Ask(problem=row.problem.reason) if row.problem else job.ask(row) for row in window]
    requests = {
        n: (ask.owner, Request(str(first + n), row.request_messages, ask.labels, ask.max_new_tokens, row.key))
        for n, (row, ask) in enumerate(zip(window, asks, strict=True))
        if ask.problem is None
    }
    found: dict[int, Answer | str] = {}
    try:
        found.update(zip(requests, answers(list(requests.values())), strict=True))
    except DataError:
        for n, request in requests.items():
            try:
                found[n] = next(iter(answers([request])))
            except DataError as error:
                found[n] = error.what
    for n, (row, ask) in enumerate(zip(window, asks, strict=True)):
        yield _record(row.record, found.get(n, ask.problem or "no answer"), ask, job)


def _record(own: Any, found: Answer | str, ask: Ask, job: _Job) -> dict[str, Any]:
    names = job.columns
    record = {(f"input_{name}" if name in names else name): value for name, value in dict(own).items()}
    record |= dict.fromkeys(names)
    if isinstance(found, str):
        return {**record, **({"abstain": True} if "abstain" in names else {}), "problem": found}
    if not ask.labels:
        return {**record, "answer": found.text, "stop": found.stop.value}
    sure = found.confidence
    abstain = job.threshold is not None and (sure is None or sure < job.threshold)
    return {
        **record,
        "label": None if abstain else found.label,
        "confidence": None if sure is None else round(sure, 6),
        "abstain": abstain,
    }


def _publish(journal: Path, out: Path) -> dict[str, int]:
    """The journal as OUT, written beside and renamed."""
    counts = {"rows": 0, "problems": 0, "abstained": 0}
    columns: dict[str, None] = {}
    for record in _lines(journal):
        columns.update(dict.fromkeys(record))
        counts["rows"] += 1
        counts["problems"] += bool(record.get("problem"))
        counts["abstained"] += bool(record.get("abstain")) and not record.get("problem")
    own = [c for c in columns if c not in CLASSIFY + WRITE]
    order = [*own, *(c for c in dict.fromkeys((*CLASSIFY, *WRITE)) if c in columns and c != "problem"), "problem"]
    with store.atomic(out) as file:
        if out.suffix.lower() == ".csv":
            file.write(_csv_line(order))
        for record in _lines(journal):
            if out.suffix.lower() == ".csv":
                file.write(_csv_line([_cell(record.get(c)) for c in order]))
            else:
                file.write(json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
    return counts


def _lines(journal: Path) -> Iterator[dict[str, Any]]:
    with open(journal, encoding="utf-8", errors="surrogatepass") as file:
        for line in file:
            yield json.loads(line)


def _csv_line(cells: Sequence[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _cell(value: Any) -> Any:
    """A value as a CSV cell; text that a spreadsheet would run as a formula gets a leading quote, numbers do not."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        return inert(json.dumps(value, ensure_ascii=False))
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return inert(value)
    return value


def _remove_lock(out: Path) -> None:
    import shutil

    shutil.rmtree(out.parent / f".{out.name}.lock.d", ignore_errors=True)
