"""Text from data made safe to show: in a terminal (no escape sequences), in Markdown (no markup), and kept out when hidden."""

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
LONGEST_UNKNOWN = 120


def printable(text: Any) -> str:
    """One line without control or direction-changing characters: an escape sequence in a label stays text."""
    return "".join(
        "�" if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co") else c for c in " ".join(str(text).split())
    )


def markdown_cell(text: Any) -> str:
    """Text for a Markdown table cell or line; nothing in it can open a link, an image, HTML, a mention or a new cell."""
    return "".join(ENTITIES.get(c) or ("\\" + c if c in MARKDOWN else c) for c in printable(text))


def shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


class Veil:
    """Keeps row text out of free text (notes, settings, warnings) when the report must not show any."""

    def __init__(self, rows: Iterable[Row], *, active: bool) -> None:
        self.active = active
        texts = (
            {
                part
                for row in rows
                for message in row.messages
                for part in (message.content, " ".join(message.content.split()))
            }
            if active
            else set()
        )
        labels = {row.label for row in rows if row.label} if active else set()
        self.whole = texts - labels
        self.quotes = sorted((t for t in self.whole if len(t) >= SHORTEST_QUOTE), key=len, reverse=True)

    def __call__(self, value: Any) -> Any:
        """The same value with every string that repeats a row's text, or is long enough to, replaced."""
        if not self.active:
            return value
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, Mapping):
            return {self(key): self(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self(item) for item in value]
        return value

    def _text(self, value: str) -> str:
        if value in self.whole or " ".join(value.split()) in self.whole:
            return HIDDEN
        for quote in self.quotes:
            if quote in value:
                value = value.replace(quote, HIDDEN)
        return value
