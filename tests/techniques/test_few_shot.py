"""few_shot: which rows stand in the prompt, and under which instruction."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tailorbird import store
from tailorbird.artifacts.parts import Decode, Prompt
from tailorbird.customize import customize
from tailorbird.techniques.base import SearchContext
from tailorbird.techniques.few_shot import FewShot, FewShotSettings
from tailorbird.testing import make_tiny_base, tiny_rows
from tailorbird.types import Message, Role, Row, Train, Tuning

from .making import job


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("base"))


def told(row: Row, instruction: str) -> Row:
    messages = (Message(Role.SYSTEM, instruction), *row.messages)
    return replace(row, messages=messages, supervised=(False, *row.supervised))


def shown(rows: Sequence[Row]) -> Prompt:
    """The prompt that is built of these rows, two of each label."""
    context = SearchContext(
        instruction="Work.",
        decode=Decode("classify", {"red": "red", "green": "green"}),
        train=Train(rows),
        tuning=Tuning([]),
        rng=random.Random(0),
        fits=lambda prompt: True,
        judge=lambda parts: 0.0,
        content_free=lambda parts: {},
        target=lambda row: row.answer,
        note=lambda text: None,
    )
    return FewShot().search(context, FewShotSettings(examples=2, calibration="off")).prompt


def test_an_example_of_another_source_stands_under_its_own_instruction() -> None:
    rows = [told(row, "Name it." if n < 2 else "Say the colour.") for n, row in enumerate(tiny_rows(4))]
    request = (Message(Role.SYSTEM, "Name it."), Message(Role.USER, "q"))
    system, *turns = shown(rows).conversation(request)
    assert system == Message(Role.SYSTEM, "Work.\n\nName it.")
    own = {row.input_text: row.messages[0].content for row in rows}
    asked = [turn.content for turn in turns if turn.role is Role.USER]
    assert sorted(asked[:-1]) == sorted(f"{instruction}\n\n{text}" for text, instruction in own.items())
    assert asked[-1] == "q"


def test_an_instruction_that_all_rows_share_is_said_once() -> None:
    rows = [told(row, "Name it.") for row in tiny_rows(4)]
    text = [m.content for m in shown(rows).conversation((Message(Role.SYSTEM, "Name it."), Message(Role.USER, "q")))]
    assert "\n".join(text).count("Name it.") == 1


def test_a_row_that_stands_several_times_in_train_is_shown_once(base: Path, tmp_path: Path) -> None:
    one = job("few_shot", base, tmp_path / "work", examples=4)
    customize(replace(one, train=Train([*one.train[:2]] * 4), tuning=Tuning([])), tmp_path / "made")
    examples = store.read_json(tmp_path / "made" / "prompt.json")["examples"]
    assert len(examples) == len({str(example) for example in examples}) == 2
