"""Text from data made safe to show: no escape sequences in a terminal, no markup in Markdown, nothing when hidden."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from tailorbird.types import Row

HIDDEN = "[hidden: a row's text]"
MARKDOWN = set("\\`*_[]#!|<>~&@$")
ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
# A row's text shorter than this is matched only as a whole: "yes" inside a sentence betrays no row.
SHORTEST_QUOTE = 12
RUN = 5  # words
LONGEST_UNKNOWN = 120


def printable(text: Any) -> str:
    """One line without control or direction-changing characters: an escape sequence in a label stays text."""
    return "".join(
        "�" if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co") else c for c in " ".join(str(text).split())
    )


def markdown_cell(text: Any) -> str:
    """Text for a Markdown table cell or line; nothing in it opens a link, an image, HTML, a mention or a new cell."""
    return "".join(ENTITIES.get(c) or ("\\" + c if c in MARKDOWN else c) for c in printable(text))


def shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


class Veil:
    """Keeps row text out of free text (notes, settings, warnings) when the report must not show any."""

    def __init__(self, rows: Iterable[Row], *, active: bool) -> None:
        self.active = active
        self.texts: set[str] = set()
        self.runs: set[tuple[str, ...]] = set()
        if not active:
            return
        rows = list(rows)
        labels = {folded(row.label) for row in rows if row.label}
        for row in rows:
            for message in row.messages:
                text = folded(message.content)
                if text and text not in labels:
                    self.texts.add(text)
                    self.runs.update(runs(text))
        self.short = sorted(t for t in self.texts if SHORTEST_QUOTE <= len(t) and len(t.split()) < RUN)

    def __call__(self, value: Any) -> Any:
        """The same value with every string that repeats a row's text, or a run of its words, replaced."""
        if not self.active:
            return value
        if isinstance(value, str):
            return HIDDEN if self.betrays(value) else value
        if isinstance(value, Mapping):
            return {self(key): self(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self(item) for item in value]
        return value

    def betrays(self, value: str) -> bool:
        text = folded(value)
        return text in self.texts or not self.runs.isdisjoint(runs(text)) or any(quote in text for quote in self.short)


def folded(text: str) -> str:
    return " ".join("".join(c if c.isalnum() else " " for c in text.casefold()).split())


def runs(text: str) -> Iterable[tuple[str, ...]]:
    """All runs of `RUN` words: a quotation that was cut still shares one."""
    words = text.split()
    return [tuple(words[i : i + RUN]) for i in range(len(words) - RUN + 1)]
