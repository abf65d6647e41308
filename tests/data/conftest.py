"""Rows made by hand, and files made of bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tailorbird.data import Dataset, read
from tailorbird.types import Message, Place, Role, Row

WORDS = "amber birch cedar delta ember frost grove heron inlet jetty knoll larch maple north ocean pearl".split()


def sentence(number: int) -> str:
    """A text of six words, not near to that of any other number."""
    digits = [(number // 16**i) % 16 for i in range(4)]
    return " ".join(WORDS[(d * 7 + 5 * i) % 16] + WORDS[(d + i) % 16] for i, d in enumerate(digits)) + f" no {number}"


def make_row(
    number: int, text: str | None = None, label: str = "a", group: str | None = None, answer: str | None = None
) -> Row:
    messages = (Message(Role.USER, text or sentence(number)), Message(Role.ASSISTANT, answer or label))
    return Row(
        id=f"{number:020x}",
        messages=messages,
        supervised=(False, True),
        place=Place("rows.csv", number + 2),
        label=label,
        group=group,
    )


@pytest.fixture
def row() -> Callable[..., Row]:
    return make_row


@pytest.fixture
def good_lines() -> Callable[[int], list[bytes]]:
    """JSON lines of good prompt/completion rows."""

    def lines(count: int) -> list[bytes]:
        return [json.dumps({"prompt": sentence(i), "completion": f"answer {i}"}).encode() for i in range(count)]

    return lines


@pytest.fixture
def read_bytes(tmp_path: Path) -> Callable[..., Dataset]:
    """Writes a file and reads it; everything may be bad unless said otherwise."""

    def read_it(name: str, content: bytes, **options: Any) -> Dataset:
        (tmp_path / name).write_bytes(content)
        return read([name], root=tmp_path, **{"max_bad_share": 1.0, **options})

    return read_it
