"""The only module that writes files: atomic writes, published folders, the run's lock, step keys, append-only logs.

What it promises on Linux: after `write_*`, `publish_folder` or `Step.finish` returned, the content is on the disk; a
process killed at any instant leaves the old content or the new one, never a mixture; what is left over is named
`.*.tmp` and swept by the next owner.

What is weaker elsewhere. macOS: `fsync` stops at the drive's own cache (F_FULLFSYNC is used where there is one).
Windows: a folder cannot be synced, so a power cut (not a kill) may undo the last rename; a rename onto a file that
another program holds open is tried again for a second, then fails. Network folders: locking is as good as the server's.

TAILORBIRD_FAULT (tests only): `kill@POINT:N`, `full@POINT:N` or `sleep@POINT:N` kills the process, reports a full disk,
or hangs, at the N-th pass of a point named by `fault(POINT)`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tailorbird.errors import ArtifactError, DataError, ResourceError

_passes: Counter[str] = Counter()
passed = 0  # points in all: as long as it grows, something moves


class DiskError(ResourceError):
    """The disk is full or may not be written: no part of a run can go on."""


def fault(point: str) -> None:
    """A place that work passes, which is counted. Tests may kill the process there, fill the disk, or hang; nothing of
    it without TAILORBIRD_FAULT."""
    global passed
    passed += 1
    asked = os.environ.get("TAILORBIRD_FAULT")
    if not asked:
        return
    action, _, where = asked.partition("@")
    name, _, count = where.partition(":")
    if name != point:
        return
    _passes[point] += 1
    if _passes[point] != int(count or 1):
        return
    if action == "sleep":
        threading.Event().wait()
    if action == "full":
        raise OSError(errno.ENOSPC, "No space left on device")
    if sys.platform == "win32":
        os._exit(137)
    os.kill(os.getpid(), signal.SIGKILL)


def disk_full(error: BaseException) -> bool:
    """Whether this error, or one it was raised from, says that the disk is full: libraries wrap it in their own."""
    while True:
        full = isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}
        if full or "No space left on device" in str(error):
            return True
        if error.__cause__ is None:
            return False
        error = error.__cause__


# --- reading --------------------------------------------------------------------------------------


def read_json(path: str | Path) -> Any:
    """The value in a JSON file of ours; a file that is torn or not JSON is an ArtifactError that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON; an integer too long, or nested too deep
        raise ArtifactError(
            f"is not readable JSON ({error})",
            where=str(path),
            remedy="the file was changed or damaged; delete it and run again",
        ) from error


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """All records of a JSONL file of ours."""
    rows: list[dict[str, Any]] = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                rows.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise ArtifactError(f"is not readable JSON ({error})", where=f"{path}:{number}") from error
    return rows


def sha256_file(path: str | Path) -> str:
    """`sha256:` and the hex digest of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return f"sha256:{digest.hexdigest()}"


def canonical(value: Any) -> str:
    """One text for one JSON value: sorted keys, no spaces, floats by repr; NaN and infinity are refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_json(value: Any) -> str:
    return hashlib.sha256(canonical(value).encode("utf-8", "surrogatepass")).hexdigest()


def key(*parts: Any) -> str:
    """20 hex digits that stand for all that determines a step."""
    return sha256_json(list(parts))[:20]


def home() -> Path:
    """Where bases, fingerprints and probes are kept between runs: TAILORBIRD_HOME, else the platform's cache folder."""
    if named := os.environ.get("TAILORBIRD_HOME"):
        return Path(named).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "tailorbird"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "tailorbird"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tailorbird"


# --- writing --------------------------------------------------------------------------------------


_CANNOT_WRITE = {
    errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP,
    errno.EIO, errno.EINVAL,
}  # fmt: skip


@contextmanager
def disk(path: str | Path) -> Iterator[None]:
    """Turns what a disk refuses (full, read-only, not ours) into a ResourceError that names the file."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            remedy = "free some space, then give the same command again: it goes on from the last finished step"
            raise DiskError("the disk is full", where=str(path), remedy=remedy) from error
        if error.errno in _CANNOT_WRITE:
            raise DiskError(
                f"cannot be written ({error.strerror})", where=str(path), remedy="choose a folder you may write to"
            ) from error
        raise


@contextmanager
def atomic(path: str | Path) -> Iterator[IO[bytes]]:
    """A binary file that appears at `path` complete, or not at all."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                yield file
                fault("write")
                file.flush()
                _sync(file.fileno())
            fault("rename")
            _replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(path.parent)


def write_bytes(path: str | Path, data: bytes) -> None:
    with atomic(path) as file:
        file.write(data)


def write_text(path: str | Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8", "surrogatepass"))


def write_json(path: str | Path, value: Any) -> None:
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def write_jsonl(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    with atomic(path) as file:
        for row in rows:
            file.write(canonical(row).encode("utf-8", "surrogatepass") + b"\n")


def publish_folder(temporary: str | Path, final: str | Path) -> None:
    """Syncs every file below `temporary`, then renames the folder to `final`.

    `final` may be absent or an unfinished leftover, which is moved away first. A kill between the two renames leaves no
    `final`: its step has no done.json then and is done again.
    """
    temporary, final = Path(temporary), Path(final)
    with disk(final):
        for folder, _, files in os.walk(temporary):
            for name in files:
                with open(Path(folder) / name, "rb+") as file:
                    _sync(file.fileno())
            sync_folder(folder)
        fault("publish")
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists():
            trash = final.with_name(f".{final.name}.{os.getpid()}.tmp")
            _replace(final, trash)
            fault("publish-between")
            _replace(temporary, final)
            shutil.rmtree(trash, ignore_errors=True)
        else:
            _replace(temporary, final)
        sync_folder(final.parent)


def discard_folder(folder: str | Path) -> None:
    """Removes a folder: it is renamed away first, so that a kill leaves it whole or not there."""
    folder = Path(folder)
    trash = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    with disk(folder):
        _replace(folder, trash)
        sync_folder(folder.parent)
        fault("discard")
        shutil.rmtree(trash, ignore_errors=True)


def sweep(folder: str | Path) -> None:
    """Removes what a killed process left half-written directly in `folder`. For the owner of the folder only."""
    for leftover in Path(folder).glob(".*.tmp"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            with suppress(OSError):
                leftover.unlink()


def sync_folder(folder: str | Path) -> None:
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network and overlay file systems do not sync folders
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(descriptor)


def _sync(descriptor: int) -> None:
    if sys.platform == "darwin":
        import fcntl

        with suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def _replace(source: Path, target: Path) -> None:
    for attempt in range(20):
        try:
            os.replace(source, target)
            return
        except PermissionError:  # Windows: a virus scanner or an open window holds the target for a moment
            if sys.platform != "win32" or attempt == 19:
                raise
            time.sleep(0.05)


class AppendLog:
    """JSON lines that are only ever added, fields in the order given. Opening cuts off a torn last line.

    `records` holds what was there when it was opened (`keep=False`: only their `count`). A damaged line before the last
    one is not repaired: DataError.
    """

    def __init__(self, path: str | Path, *, keep: bool = True) -> None:
        self.path, self.keep, self.count = Path(path), keep, 0
        self.records: list[dict[str, Any]] = []
        with disk(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "ab+")
        self._repair()

    def _repair(self) -> None:
        self._file.seek(0)
        good = 0
        for number, line in enumerate(self._file, start=1):
            try:
                record = json.loads(line) if line.endswith(b"\n") else None
            except (UnicodeDecodeError, json.JSONDecodeError):
                record = None
            if record is None:
                if self._file.read(1):
                    self._file.close()
                    raise DataError("a line in the middle is damaged", where=f"{self.path}:{number}")
                break
            self.count += 1
            if self.keep:
                self.records.append(record)
            good += len(line)
        self._file.truncate(good)
        self._file.seek(0, os.SEEK_END)

    def append(self, record: dict[str, Any]) -> None:
        with disk(self.path):
            fault("append")
            text = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            self._file.write(text.encode("utf-8", "surrogatepass") + b"\n")

    def sync(self) -> None:
        with disk(self.path):
            self._file.flush()
            _sync(self._file.fileno())

    def close(self) -> None:
        self.sync()
        self._file.close()

    def __enter__(self) -> AppendLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# --- steps ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """One unit of work: a folder named by the hash of all that determines it; finished when done.json is there."""

    name: str
    key: str
    folder: Path
    inputs: Any
    revision: int

    @property
    def done(self) -> bool:
        return (self.folder / "done.json").is_file()

    def begin(self) -> Path:
        """Makes the folder (or takes over what a killed run left in it) and writes down what the step is made from."""
        self.folder.mkdir(parents=True, exist_ok=True)
        sweep(self.folder)
        if not (self.folder / "inputs.json").exists():
            write_json(
                self.folder / "inputs.json", {"step": self.name, "revision": self.revision, "inputs": self.inputs}
            )
        return self.folder

    def finish(self, result: Any) -> Any:
        """Marks the step done. Everything else the step wrote must be on disk already."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with disk(self.folder):
            fault("finish")
        write_json(self.folder / "done.json", {"step": self.name, "revision": self.revision, "result": result})
        return result

    def result(self) -> Any:
        return read_json(self.folder / "done.json")["result"]


class Steps:
    """The steps of one run, below one folder."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def step(self, name: str, inputs: Any, revision: int = 1) -> Step:
        step_key = key(name, revision, inputs)
        return Step(name, step_key, self.folder / step_key, inputs, revision)


# --- one writer -----------------------------------------------------------------------------------


class RunLock:
    """At most one process writes into a run's folder, or another's: `what` and `remedy` are for the message.

    The lock belongs to the operating system (flock, or a locked byte on Windows) and goes with its process, so a killed
    run leaves none. Where the file system has no locks, the pid and its start time in the file decide: an entry whose
    process is gone, or whose pid now belongs to another process, is stale and taken over.
    """

    def __init__(
        self,
        folder: str | Path,
        what: str = "this run",
        remedy: str = "wait for it, stop it, or give this run another name (`name:` in the spec)",
    ) -> None:
        self.path, self.what, self.remedy = Path(folder) / ".lock", what, remedy
        self._file: IO[bytes] | None = None

    def __enter__(self) -> RunLock:
        with disk(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = open(self.path, "ab+")
        holder = self._holder(file)
        try:
            system_lock = _lock(file)
        except BlockingIOError:
            file.close()
            raise self._refusal(holder) from None
        if not system_lock and holder and holder.get("pid") != os.getpid() and _alive(holder):
            file.close()
            raise self._refusal(holder)
        file.truncate(0)
        file.write(canonical({"pid": os.getpid(), "started": process_start(os.getpid())}).encode())
        file.flush()
        self._file = file
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            with suppress(OSError):
                self._file.truncate(0)
            self._file.close()
            self._file = None

    def _refusal(self, holder: dict[str, Any] | None) -> ResourceError:
        who = f"locked by pid {holder['pid']}" if holder else "locked by another process"
        return ResourceError(
            f"{self.what} is {who}",
            where=str(self.path.parent),
            remedy=self.remedy,
        )

    @staticmethod
    def _holder(file: IO[bytes]) -> dict[str, Any] | None:
        file.seek(0)
        with suppress(ValueError, OSError):
            value = json.loads(file.read(4096))
            return value if isinstance(value, dict) and isinstance(value.get("pid"), int) else None
        return None


def _lock(file: IO[bytes]) -> bool:
    """True: held by this process now. False: this file system has no locks. BlockingIOError: somebody else holds it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(1 << 30)  # far behind the content, which stays readable for the other process's message
            try:
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            except OSError as error:
                raise BlockingIOError from error
        else:
            import fcntl

            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def process_start(pid: int) -> str | None:
    """When a process began, as text to compare; None when there is no such process."""
    if sys.platform == "linux":
        with suppress(OSError, IndexError):
            ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            return f"{boot}:{ticks}"
        return None
    import psutil

    try:
        return f"{psutil.Process(pid).create_time():.2f}"
    except psutil.Error:
        return None


def _alive(holder: dict[str, Any]) -> bool:
    return process_start(holder["pid"]) == holder.get("started") is not None
