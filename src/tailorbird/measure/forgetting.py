"""Forgetting: how many more bits a customized base needs for general texts than the bare base does.

Bits per byte of UTF-8: the change is sum(bits customized - bits bare) / sum(bytes), with a bootstrap over texts. The
texts are built in (`full`, or `fast` for a subset) or the user's. Texts that share a run of eight normalized words
with this run's training are left out and counted: on them one would measure learning, not forgetting. Both sides code
the same text, and the bytes are those of the text that was coded: what does not fit every contestant is cut beforehand.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from tailorbird.data.text import shingles
from tailorbird.errors import DataError
from tailorbird.measure.bootstrap import bootstrap

LEAST_TEXTS = 20
MOST_CHARACTERS = 4000  # of a user's text; the rest of a longer one is not read: one book must not outweigh all else
_WORDS = 8


@dataclass(frozen=True)
class Retention:
    """`texts` and their `kinds` side by side; `left_out`: how many were dropped because training shares a shingle with
    them; `shortened`: of how many only the start is kept.
    """

    texts: tuple[str, ...]
    left_out: int
    kinds: tuple[str, ...]
    name: str
    shortened: int = 0


def load_retention(source: str | Path, train_texts: Iterable[str] = (), start: Callable[[str], str] = str) -> Retention:
    """`source`: "full", "fast", or a file: .jsonl with `text` (and perhaps `kind`), else plain text in paragraphs.
    `start`: a text, or as much of its start as there is room for.

    Paragraphs of a plain file are parted by blank lines; in a file without any, each line is a text.
    """
    built_in = source in ("full", "fast")
    pairs = _built_in(fast=source == "fast") if built_in else _read(Path(source))
    trained: set[str] = set()
    for text in train_texts:
        trained |= shingles(text, _WORDS)
    kept = [(kind, text) for kind, text in pairs if trained.isdisjoint(shingles(text, _WORDS))]
    left_out = len(pairs) - len(kept)
    if len(kept) < LEAST_TEXTS:
        why = f"; {left_out} of {len(pairs)} share eight words in a row with the training rows" if left_out else ""
        raise DataError(
            f"{len(kept)} texts to measure forgetting on, at least {LEAST_TEXTS} are needed{why}",
            where=f"data.retention: {source}",
            remedy="give a file with more general texts, or `full` for the built-in ones",
        )
    texts = tuple(start(text) for _, text in kept)
    return Retention(
        texts=texts,
        left_out=left_out,
        kinds=tuple(kind for kind, _ in kept),
        name=str(source) if built_in else Path(source).name,
        shortened=sum(len(text) < len(whole) for text, (_, whole) in zip(texts, kept, strict=True)),
    )


def change(
    base_bits: Sequence[float],
    custom_bits: Sequence[float],
    texts: Sequence[str],
    *,
    left_out: int = 0,
    shortened: int = 0,
    kinds: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Bits per byte; a change above 0 is forgetting.

    {"change", "low", "high", "texts", "left_out", "shortened", "base", "kinds"}.
    `base`: bits per byte of the bare base, to see the change beside; `kinds`: change of each kind of text. Equal
    bits for every text are the same function: exactly 0 with an interval of 0.
    """
    if not texts or not len(base_bits) == len(custom_bits) == len(texts):
        raise ValueError(f"{len(base_bits)} and {len(custom_bits)} figures for {len(texts)} texts")
    sizes = [len(text.encode()) for text in texts]
    differences = [c - b for b, c in zip(base_bits, custom_bits, strict=True)]
    if any(differences):
        # The share that one text can add has no bound of its own; those that were seen stand in for it.
        rates = [d / s for d, s in zip(differences, sizes, strict=True)]
        bounds = min(0.0, *rates), max(0.0, *rates)
        low, high = bootstrap(differences, bounds=bounds, weights=sizes, name="forgetting")
    else:
        low = high = 0.0
    total = sum(sizes)
    return {
        "change": sum(differences) / total,
        "low": low,
        "high": high,
        "texts": len(texts),
        "left_out": left_out,
        "shortened": shortened,
        "base": sum(base_bits) / total,
        "kinds": _by_kind(differences, sizes, kinds) if kinds is not None else {},
    }


def _by_kind(differences: Sequence[float], sizes: Sequence[int], kinds: Sequence[str]) -> dict[str, float]:
    bits: dict[str, float] = {}
    octets: dict[str, int] = {}
    for kind, difference, size in zip(kinds, differences, sizes, strict=True):
        bits[kind] = bits.get(kind, 0.0) + difference
        octets[kind] = octets.get(kind, 0) + size
    return {kind: bits[kind] / octets[kind] for kind in sorted(bits)}


def _built_in(*, fast: bool) -> list[tuple[str, str]]:
    """Every text of the package's `retention/*.jsonl`, files by name; `fast` takes the lines marked so."""
    folder = resources.files("tailorbird.measure").joinpath("retention")
    pairs = []
    for file in sorted((f for f in folder.iterdir() if f.name.endswith(".jsonl")), key=lambda f: f.name):
        for line in file.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            if entry.get("fast") or not fast:
                pairs.append((str(entry["kind"]), str(entry["text"])))
    return pairs


def _read(path: Path) -> list[tuple[str, str]]:
    try:
        content = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror}",
            where=str(path),
            remedy="data.retention is full, fast or a file of texts",
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8 at byte {error.start}", where=str(path), remedy="save it as UTF-8") from error
    pairs = _jsonl(path, content) if path.suffix.lower() in (".jsonl", ".ndjson") else _paragraphs(content)
    return [(kind, _start(text)) for kind, text in pairs if text.strip()]


def _jsonl(path: Path, content: str) -> list[tuple[str, str]]:
    pairs = []
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise DataError(
                f"is not JSON: {error}", where=f"{path}:{number}", remedy="one JSON object a line"
            ) from error
        if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
            raise DataError('has no "text"', where=f"{path}:{number}", remedy='each line: {"text": "..."}')
        pairs.append((str(entry.get("kind") or "texts"), entry["text"]))
    return pairs


def _paragraphs(content: str) -> list[tuple[str, str]]:
    lines = content.splitlines()
    if all(line.strip() for line in lines):
        return [("texts", line) for line in lines]
    blocks, block = [], list[str]()
    for line in [*lines, ""]:
        if line.strip():
            block.append(line)
        elif block:
            blocks.append(("texts", "\n".join(block)))
            block = []
    return blocks


def _start(text: str) -> str:
    """The text up to the last blank before the limit."""
    if len(text) <= MOST_CHARACTERS:
        return text
    head = text[:MOST_CHARACTERS]
    cut = max(head.rfind(" "), head.rfind("\n"))
    return head[: cut if cut > 0 else MOST_CHARACTERS]
