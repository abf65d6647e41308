"""Bytes of a file, in constant memory: chunks with a proof that the file did not change, and lines with a byte cap."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tailorbird.data.files import SourceFile
from tailorbird.errors import DataError, SafetyError

CHUNK_BYTES = 1 << 18
MAX_LINE_BYTES = 4 << 20  # a row of about a million tokens; longer ones cannot be an example of anything
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    """A physical line without its end. `data` is None when it was longer than the cap; `ended`: a line end follows."""

    number: int
    offset: int
    size: int
    data: bytes | None
    ended: bool


def chunks(file: SourceFile, *, sha256: str | None = None) -> Iterator[bytes]:
    """The file's bytes. After the last one: DataError when size, time or (given one) hash are not what they were."""
    digest = hashlib.sha256()
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(file.path, flags)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror} (D01)", where=file.shown) from None
    with io.FileIO(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise SafetyError("not a regular file any more (D46)", where=file.shown, remedy="name a regular file")
        while chunk := _read(stream, file):
            digest.update(chunk)
            yield chunk
        now = os.fstat(descriptor)
    same = (now.st_size, now.st_mtime_ns) == (file.size, file.mtime_ns)
    if not same or (sha256 is not None and f"sha256:{digest.hexdigest()}" != sha256):
        raise DataError(
            "changed while it was read (D47)", where=file.shown, remedy="wait until it is written, then start again"
        )


def _read(stream: io.FileIO, file: SourceFile) -> bytes:
    try:
        return stream.read(CHUNK_BYTES) or b""
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror} (D01)", where=file.shown) from None


def lines(stream: Iterable[bytes], *, newline: bytes = b"\n", cap: int = MAX_LINE_BYTES) -> Iterator[Line]:
    """Lines of a stream of chunks; a line over `cap` bytes is skipped and reported without being held in memory."""
    held = bytearray()
    size = offset = 0  # of the current line: bytes seen, place of its first byte
    number = 1
    for chunk in stream:
        *ended, rest = chunk.split(newline)
        for piece in ended:
            size += len(piece)
            held += piece if size <= cap else b""
            yield _line(number, offset, size, held, cap, ended=True)
            offset += size + len(newline)
            number, size = number + 1, 0
            held.clear()
        size += len(rest)
        held += rest
        if size > cap:
            held.clear()
    if size:
        yield _line(number, offset, size, held, cap, ended=False)


def _line(number: int, offset: int, size: int, held: bytearray, cap: int, *, ended: bool) -> Line:
    data = bytes(held) if size <= cap else None
    if data is not None and data.endswith(b"\r"):
        data = data[:-1]
    return Line(number, offset, size, data, ended)
