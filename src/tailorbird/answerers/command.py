"""What the user has today, as a command: JSON lines in, JSON lines out, under a time limit.

In:  {"id", "text", "messages", "labels"} - one line a row; `labels` are the label ids of a classify task, else [].
Out: {"id", "label" or "answer", optional "score" or "confidence"} - one line a row, in any order.

The command is run without a shell, once for all rows asked for together, in a process group of its own that is ended
whole at the limit: a child it left behind does not live on. Every row must be answered exactly once; what is
missing, double or unknown is named. A label outside the candidates is an answer, and a wrong one.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from tailorbird.answerers.answers_file import name
from tailorbird.errors import DataError, SpecError
from tailorbird.types import Answer, Request, Stop

_STDERR_KEPT = 4_000  # characters of its end, shown in an error
_BYTES_A_ROW = 1_000_000  # output beyond so many bytes a row is a command that does not stop
_NAMED = 10
_WINDOWS = sys.platform == "win32"


class Command:
    """An outside program as an answerer. `folder`: where it runs (the spec's folder)."""

    def __init__(self, command: str, timeout_seconds: float, *, folder: str | Path | None = None) -> None:
        self.command, self.timeout_seconds, self.folder = command, timeout_seconds, folder
        try:
            self._arguments = shlex.split(command, posix=not _WINDOWS)
        except ValueError as error:
            raise SpecError(
                f"cannot be parted into words: {error}", where=command, remedy="close its quotes"
            ) from error
        if _WINDOWS:  # shlex keeps the quotes there, so that backslashes in paths survive
            self._arguments = [a[1:-1] if len(a) > 1 and a[0] == a[-1] == '"' else a for a in self._arguments]
        if not self._arguments:
            raise SpecError(
                "the command is empty", where="contestants", remedy='for example command: "python rules.py"'
            )

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        asked = list(requests)
        if not asked:
            return
        unique = {request.id: request for request in asked}
        lines = self._run([_line(request) for request in unique.values()])
        answers = self._read(lines, unique)
        for request in asked:
            yield answers[request.id]

    def _run(self, lines: Sequence[str]) -> list[bytes]:
        """The lines of its standard output; DataError when it fails, runs too long or writes without end."""
        try:
            process = _start(self._arguments, self.folder)
        except OSError as error:
            raise SpecError(
                f"cannot be started: {error.strerror or error}",
                where=self.command,
                remedy="check the program's name and path; it is run without a shell, in the spec's folder",
            ) from error
        conversation = _Conversation(process, lines, _BYTES_A_ROW * len(lines))
        try:
            ended = conversation.wait(self.timeout_seconds)
        finally:
            _end_group(process)
            conversation.close()
        said = conversation.error_text()
        if conversation.too_much:
            raise DataError(
                f"wrote more than {_BYTES_A_ROW // 1_000_000} MB a row for {len(lines)} rows and was ended{said}",
                where=self.command,
                remedy="one JSON line for each line read, nothing else, on standard output",
            )
        if not ended:
            raise DataError(
                f"ran past its limit of {self.timeout_seconds:g} s for {len(lines)} rows and was ended{said}",
                where=self.command,
                remedy="raise the contestant's timeout_seconds, or make it faster",
            )
        if process.returncode:
            raise DataError(
                f"ended with exit code {process.returncode}{said}",
                where=self.command,
                remedy="run it by hand on one line; it must end with 0 after the last line",
            )
        return bytes(conversation.output).splitlines()

    def _read(self, lines: Sequence[bytes], asked: Mapping[str, Request]) -> dict[str, Answer]:
        seen: Counter[str] = Counter()
        answers: dict[str, Answer] = {}
        for number, line in enumerate(lines, start=1):
            if line.strip():
                answer = self._parse(line, number)
                seen[answer.id] += 1
                answers[answer.id] = answer
        self._refuse("no answer for", [name(r) for id_, r in asked.items() if id_ not in seen], "every row needs one")
        double = [name(asked[id_]) for id_, count in seen.items() if count > 1 and id_ in asked]
        self._refuse("more than one answer for", double, "write one line for each row")
        self._refuse(
            "answers to rows that were not asked:", [i for i in seen if i not in asked], "copy `id` as it came"
        )
        return answers

    def _parse(self, line: bytes, number: int) -> Answer:
        where = f"{self.command}: output line {number}"
        try:
            value = json.loads(line.decode("utf-8-sig"))
        except ValueError as error:
            shown = line[:80].decode("utf-8", "replace")
            raise DataError(
                f"is not JSON ({error}): {shown}", where=where, remedy="one JSON object a line; messages go to stderr"
            ) from error
        if not isinstance(value, dict) or not isinstance(value.get("id"), str):
            raise DataError('has no "id"', where=where, remedy='write {"id": ..., "label": ...}')
        said = value["label"] if "label" in value else value.get("answer")
        if not isinstance(said, str):
            raise DataError(
                'has neither a "label" nor an "answer" that is text',
                where=where,
                remedy='write {"id": ..., "label": "..."}',
            )
        return Answer(
            id=value["id"],
            text=said,
            label=said if "label" in value else None,
            confidence=_confidence(value, where),
            stop=Stop.GIVEN,
        )

    def _refuse(self, what: str, names: Sequence[str], remedy: str) -> None:
        if names:
            more = f"\n    and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            listed = "\n".join(f"    {n}" for n in names[:_NAMED])
            raise DataError(f"{what} {len(names)} row(s):\n{listed}{more}", where=self.command, remedy=remedy)


def _line(request: Request) -> str:
    """ASCII only: a Python on Windows reads its input in the local encoding."""
    row = {
        "id": request.id,
        "text": request.input_text,
        "messages": [m.as_dict() for m in request.messages],
        "labels": list(request.candidates),
    }
    return json.dumps(row) + "\n"


def _confidence(value: Mapping[str, Any], where: str) -> float | None:
    """`confidence`, else `score`, when it is a share; a score on another scale is no confidence and is passed over."""
    for field in ("confidence", "score"):
        found = value.get(field)
        if found is None:
            continue
        if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
            raise DataError(
                f'"{field}" is {found!r}, not a number', where=where, remedy=f"leave {field} out if unknown"
            )
        if 0 <= found <= 1:
            return float(found)
        if field == "confidence":
            raise DataError(f'"confidence" {found} is not in 0 to 1', where=where, remedy="call it score, or scale it")
    return None


def _start(arguments: Sequence[str], folder: str | Path | None) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    if sys.platform == "win32":
        group = subprocess.CREATE_NEW_PROCESS_GROUP
        return subprocess.Popen(arguments, stdin=pipe, stdout=pipe, stderr=pipe, cwd=folder, creationflags=group)
    return subprocess.Popen(arguments, stdin=pipe, stdout=pipe, stderr=pipe, cwd=folder, start_new_session=True)


class _Conversation:
    """Writes its input and reads both outputs at once: a full pipe on one side must not stop the other."""

    def __init__(self, process: subprocess.Popen[bytes], lines: Sequence[str], most: int) -> None:
        self.process, self.output, self.too_much = process, bytearray(), False
        self._most, self._errors = most, bytearray()
        self._threads = [
            threading.Thread(target=self._write, args=(lines,), daemon=True),
            threading.Thread(target=self._read_output, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def wait(self, seconds: float) -> bool:
        """True when it ended by itself in time, with its output closed."""
        deadline = time.monotonic() + seconds
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        # A child that holds the output open can still write to it; it has until the limit, too.
        for thread in self._threads[1:]:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads[1:])

    def close(self) -> None:
        for thread in self._threads:
            thread.join(5)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:  # input it never read
                pass

    def error_text(self) -> str:
        text = self._errors.decode("utf-8", "replace").strip()[-_STDERR_KEPT:]
        return f"; it said:\n    {text.replace(chr(10), chr(10) + '    ')}" if text else ""

    def _write(self, lines: Sequence[str]) -> None:
        assert self.process.stdin is not None
        try:
            for line in lines:
                self.process.stdin.write(line.encode())
            self.process.stdin.close()
        except OSError:  # it ended before it read all: its exit code or the missing answers tell
            pass

    def _read_output(self) -> None:
        for block in _blocks(self.process.stdout):
            self.output += block
            if len(self.output) > self._most:
                self.too_much = True
                _end_group(self.process)
                return

    def _read_errors(self) -> None:
        for block in _blocks(self.process.stderr):
            self._errors = (self._errors + block)[-4 * _STDERR_KEPT :]


def _blocks(pipe: IO[bytes] | None) -> Iterator[bytes]:
    assert pipe is not None
    while block := os.read(pipe.fileno(), 65_536):
        yield block


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End the command and all it started. A POSIX group outlives its leader; on Windows the tree is walked."""
    if sys.platform == "win32":
        if process.poll() is None:
            subprocess.run(["taskkill", "/T", "/F", "/PID", str(process.pid)], capture_output=True, check=False)
    else:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # nobody is left in it
            pass
    process.wait()
