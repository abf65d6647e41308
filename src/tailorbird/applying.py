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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tailorbird import store
from tailorbird.errors import DataError, Interrupted, SpecError
from tailorbird.running.writing import inert
from tailorbird.types import Answer, Answerer, Request

WINDOW = 64  # rows answered together; fixed, so that going on gives the same answers
SUFFIXES = (".csv", ".jsonl")
CLASSIFY = ("label", "confidence", "abstain", "problem")
WRITE = ("answer", "stop", "problem")


@dataclass(frozen=True)
class Applied:
    """How it went: rows in all, of which unreadable or too long, of which abstained; `resumed`: were there already."""

    rows: int
    problems: int
    abstained: int
    resumed: int


def apply(
    open_answerer: Callable[[], Answerer],
    identity: str,
    path: Path,
    out: Path,
    *,
    labels: Sequence[str],
    max_new_tokens: int,
    threshold: float | None = None,
    progress: Callable[[int], None] = lambda rows: None,
    stop: Callable[[], bool] = lambda: False,
) -> Applied:
    """Answers every row of `path` into `out`. `identity` stands for the customization."""
    check_out(path, out, threshold, labels)
    header = {
        "input": store.sha256_file(path) if path.is_file() else str(path),
        "customization": identity,
        "threshold": threshold,
        "max_new_tokens": max_new_tokens,
    }
    journal_path, header_path = out.with_name(f".{out.name}.journal.jsonl"), out.with_name(f".{out.name}.journal.json")
    with store.RunLock(out.parent / f".{out.name}.lock.d"):
        _check_header(header_path, journal_path, header, out)
        try:
            with store.AppendLog(journal_path, keep=False) as journal:
                done = journal.count
                _answer_rest(open_answerer, path, journal, done, labels, max_new_tokens, threshold, progress, stop)
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


def check_out(path: Path, out: Path, threshold: float | None, labels: Sequence[str]) -> None:
    if out.suffix.lower() not in SUFFIXES:
        raise SpecError("the output's name must end in .csv or .jsonl", where=str(out))
    if out.exists():
        same = path.exists() and out.resolve() == path.resolve()
        what = "is the input itself" if same else "is there already"
        raise SpecError(what, where=str(out), remedy="give another -o, or remove it first; nothing is overwritten")
    if threshold is not None and not labels:
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


def _answer_rest(
    open_answerer: Callable[[], Answerer],
    path: Path,
    journal: store.AppendLog,
    done: int,
    labels: Sequence[str],
    max_new_tokens: int,
    threshold: float | None,
    progress: Callable[[int], None],
    stop: Callable[[], bool],
) -> None:
    """Windows start at multiples of WINDOW of the whole file, so that batches are those of the undisturbed run."""
    from tailorbird.data import read_inputs

    rows = iter(read_inputs(path))
    start = done - done % WINDOW
    if sum(1 for _ in islice(rows, start)) < start:
        raise DataError("has fewer rows than were answered already", where=str(path))
    answerer: Answerer | None = None
    count = start
    while window := list(islice(rows, WINDOW)):
        if stop():
            raise Interrupted(f"stopped after {count} rows", remedy="the same command goes on from here")
        answerer = answerer or open_answerer()
        for number, record in enumerate(_answered(answerer, window, count, labels, max_new_tokens, threshold)):
            if count + number >= done:
                journal.append(record)
        journal.sync()
        store.fault("apply")
        count += len(window)
        progress(count)
    if count < done:
        raise DataError("has fewer rows than were answered already", where=str(path))


def _answered(
    answerer: Answerer,
    window: Sequence[Any],
    first: int,
    labels: Sequence[str],
    max_new_tokens: int,
    threshold: float | None,
) -> Iterator[dict[str, Any]]:
    """One record a row of the window, in order. A row too long for the base is a problem of that row alone."""
    requests = {
        n: Request(str(first + n), row.request_messages, tuple(labels), 0 if labels else max_new_tokens, row.key)
        for n, row in enumerate(window)
        if row.problem is None
    }
    answers: dict[int, Answer | str] = {}
    try:
        answers.update(zip(requests, answerer.answer(list(requests.values())), strict=True))
    except DataError:
        for n, request in requests.items():
            try:
                answers[n] = next(iter(answerer.answer([request])))
            except DataError as error:
                answers[n] = error.what
    for n, row in enumerate(window):
        found = answers.get(n, row.problem.reason if row.problem else "no answer")
        yield _record(row.record, found, labels, threshold)


def _record(own: Any, found: Answer | str, labels: Sequence[str], threshold: float | None) -> dict[str, Any]:
    names = CLASSIFY if labels else WRITE
    record = {(f"input_{name}" if name in names else name): value for name, value in dict(own).items()}
    if isinstance(found, str):
        return {**record, **dict.fromkeys(names), **({"abstain": True} if labels else {}), "problem": found}
    if not labels:
        return {**record, "answer": found.text, "stop": found.stop.value, "problem": None}
    sure = found.confidence
    abstain = threshold is not None and (sure is None or sure < threshold)
    label = None if abstain else found.label
    return {
        **record,
        "label": label,
        "confidence": None if sure is None else round(sure, 6),
        "abstain": abstain,
        "problem": None,
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
