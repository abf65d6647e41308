"""Paths to files: what the user named, resolved, and refused where following it would be unsafe.

A path may be a file, a folder (all data files below it) or a glob. A link is followed only to a target inside the
folder that the path names or inside `root` (the spec's folder). Only regular files are opened, without waiting (a
FIFO would hang).
"""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tailorbird.data.text import printable, suggest
from tailorbird.errors import DataError, SafetyError

TEXT_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
SHEET_SUFFIXES = (".xlsx", ".xls", ".ods")
ROW_SUFFIXES = (*TEXT_SUFFIXES, ".parquet", *SHEET_SUFFIXES)
READABLE = "JSONL, JSON, CSV, TSV, Parquet, Excel or ODS"
_URL = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]+:/")

# Formats that are recognized and refused by name: suffix -> (name, remedy).
OTHER_SUFFIXES = {
    ".xlsm": ("an Excel workbook with macros", "save it as .xlsx and name that file"),
    ".xlsb": ("a binary Excel workbook", "save it as .xlsx and name that file"),
    ".arrow": ("an Arrow file", "export its rows as JSONL and name that file"),
    ".feather": ("a Feather file", "export its rows as JSONL and name that file"),
    ".gz": ("a compressed file", "unpack it and name the unpacked file"),
    ".zip": ("a ZIP archive", "unpack it and name the file inside"),
    ".zst": ("a compressed file", "unpack it and name the unpacked file"),
    ".bz2": ("a compressed file", "unpack it and name the unpacked file"),
    ".xz": ("a compressed file", "unpack it and name the unpacked file"),
    ".pkl": ("a Python pickle", "pickles can run code and are never opened; export the rows as JSONL"),
    ".docx": ("a Word document", "rows are needed: one record for each example, as JSONL or CSV"),
    ".pdf": ("a PDF document", "rows are needed: one record for each example, as JSONL or CSV"),
}


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A regular file that may be read. `shown` is the path as the user wrote it (printable); `path` has no links
    left."""

    path: Path
    shown: str
    size: int
    mtime_ns: int
    inode: int

    @property
    def suffix(self) -> str:
        return self.path.suffix.casefold() if self.path.suffix else Path(self.shown).suffix.casefold()


@dataclass(frozen=True, slots=True)
class Found:
    files: tuple[SourceFile, ...]
    notes: tuple[str, ...]


def resolve(paths: Iterable[str | os.PathLike[str]], root: Path) -> Found:
    """The files that the paths name, each once, in the order named (folders and globs sorted by name)."""
    files: dict[Path, SourceFile] = {}
    notes: list[str] = []
    for given in (os.fspath(p) for p in paths):
        for source in _resolve_one(given, Path(root), notes):
            if source.path in files:
                notes.append(f"{source.shown} is named twice and was read once")
            files.setdefault(source.path, source)
    if not files:
        raise DataError("no data file is named", remedy="name at least one file, folder or glob under `data`")
    return Found(tuple(files.values()), tuple(notes))


def _resolve_one(given: str, root: Path, notes: list[str]) -> Iterator[SourceFile]:
    shown = printable(given)
    if _URL.match(given):
        raise SafetyError(
            "a URL is not followed (D46)", where=shown, remedy="download the file and name it by its path"
        )
    if not given or "\0" in given:
        raise DataError("not a path (D01)", where=repr(shown), remedy="name a file, a folder or a glob")
    named = Path(os.path.abspath(root / Path(given).expanduser()))
    try:
        if named.is_dir():
            yield from _folder(named, shown, root, notes)
        elif _exists(named):
            yield open_checked(named, shown, root)
        elif glob.has_magic(given):
            yield from _glob(named, shown, root, notes)
        else:
            raise _missing(named, shown)
    except OSError as error:  # too long a name, a loop of links, a folder that may not be listed
        raise DataError(f"cannot be read: {error.strerror or error} (D01)", where=shown) from None


def _exists(path: Path) -> bool:
    return os.path.lexists(path)


def _missing(named: Path, shown: str) -> DataError:
    remedy = "check the path; relative paths start at the spec's folder"
    if named.parent.is_dir():
        near = suggest(named.name, sorted(os.listdir(named.parent)))
        if near:
            remedy = f"did you mean {printable(near)!r}? It is in the same folder"
    else:
        remedy = f"its folder does not exist either; {remedy}"
    return DataError("no such file (D01)", where=shown, remedy=remedy)


def _folder(folder: Path, shown: str, root: Path, notes: list[str]) -> Iterator[SourceFile]:
    _check_inside(folder, shown, root, anchor=folder)
    count = 0
    for directory, names, files in os.walk(folder):
        names.sort()
        for name in names:
            inner = Path(directory, name)
            if inner.is_symlink():  # os.walk does not enter it; rows behind it must not be missing without a word
                _check_inside(inner, printable(str(inner)), root, anchor=folder)
                notes.append(f"{printable(str(inner))}: a linked folder was not entered")
        for name in sorted(files):
            path = Path(directory, name)
            label = printable(os.path.normpath(os.path.join(shown, os.path.relpath(path, folder))))
            if path.suffix.casefold() in ROW_SUFFIXES and not name.startswith((".", "~$")):  # "~$": a lock of Excel's
                count += 1
                yield open_checked(path, label, root, anchor=folder)
            elif path.suffix.casefold() in OTHER_SUFFIXES:
                notes.append(f"{label} was left out: {OTHER_SUFFIXES[path.suffix.casefold()][0]}")
    if not count:
        raise DataError(
            f"no {READABLE} file in this folder (D01)", where=shown, remedy="name the folder that holds the data"
        )


def _glob(named: Path, shown: str, root: Path, notes: list[str]) -> Iterator[SourceFile]:
    fixed = named
    while glob.has_magic(str(fixed)):
        fixed = fixed.parent
    matches = sorted(p for p in glob.glob(str(named), recursive=True) if not os.path.isdir(p))
    if not matches:
        raise DataError("no file matches this pattern (D01)", where=shown, remedy="check the folder and the pattern")
    start = len(str(Path(os.path.abspath(root)))) + 1
    for match in matches:
        below = match[start:] if Path(match).is_relative_to(os.path.abspath(root)) else match
        yield open_checked(Path(match), printable(below), root, anchor=fixed)


def _check_inside(path: Path, shown: str, root: Path, anchor: Path) -> Path:
    real = path.resolve(strict=True) if _exists(path) else path
    root = Path(os.path.abspath(root))
    # A path under root is held to root, however deep a link in it stands; elsewhere the user named the folder himself.
    allowed = [root.resolve()] if path.is_relative_to(root) else [anchor.resolve(), root.resolve()]
    if not any(real.is_relative_to(a) for a in allowed):
        raise SafetyError(
            "a link that leads out of its folder is not followed (D46)",
            where=shown,
            remedy="copy the file into the folder, or name its real path",
        )
    return real


def open_checked(path: Path, shown: str, root: Path, anchor: Path | None = None) -> SourceFile:
    """A regular, readable file inside its folder; SafetyError for links out of it, FIFOs and devices."""
    try:
        real = _check_inside(path, shown, root, anchor or path.parent)
        status = real.stat()
    except FileNotFoundError:
        raise DataError("a link whose target is missing (D01)", where=shown, remedy="mend or remove the link") from None
    except (OSError, RuntimeError) as error:
        raise DataError(f"cannot be read: {error} (D01)", where=shown) from None
    if stat.S_ISDIR(status.st_mode):
        raise DataError("is a folder, a file is needed (D01)", where=shown, remedy="name a file in it")
    if not stat.S_ISREG(status.st_mode):
        raise SafetyError(
            "not a regular file but a device, pipe or socket (D46)", where=shown, remedy="copy its content to a file"
        )
    if not os.access(real, os.R_OK):
        raise DataError(
            "may not be read: permission denied (D01)", where=shown, remedy="give yourself the right to read it"
        )
    return SourceFile(real, shown, status.st_size, status.st_mtime_ns, status.st_ino)
