"""Rows made by hand for tests."""

from __future__ import annotations

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
