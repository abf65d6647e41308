"""Lengths of rows as they are served and trained on, with a renderer of one token a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from tailorbird import tasks
from tailorbird.plan import Lengths, make_plan, measure_lengths, measure_replay
from tailorbird.types import Conversation, Message, Place, Role, Row

from .conftest import make_facts, make_spec


@dataclass(frozen=True)
class Words:
    """Of a whole conversation: one token a word, after one that begins all."""

    ids: list[str]
    supervised: list[bool]


class Renderer:
    def prompt(self, messages: Conversation) -> list[str]:
        return ["begin", *(word for message in messages for word in message.content.split())]

    def answer(self, text: str) -> list[str]:
        return [*text.split(), "end"]

    def row(self, messages: Conversation, supervised: Sequence[bool]) -> Words:
        ids, flags = ["begin"], [False]
        for message, learned in zip(messages, supervised, strict=True):
            ids += message.content.split()
            flags += [learned] * len(message.content.split())
        return Words(ids, flags)


def row(system: str, asked: str, said: str) -> Row:
    turns = [(Role.SYSTEM, system), (Role.USER, asked), (Role.ASSISTANT, said)]
    messages = tuple(Message(role, text) for role, text in turns if text)
    flags = tuple(message.role is Role.ASSISTANT for message in messages)
    return Row(id=asked, messages=messages, supervised=flags, place=Place("rows", 1))


WRITE = tasks.build("write", instruction="", max_new_tokens=8)


def measured(rows: Sequence[Row]) -> Lengths:
    return measure_lengths(Renderer(), WRITE, rows)  # type: ignore[arg-type]


def test_what_the_first_source_s_rows_begin_with_is_not_shared_by_all() -> None:
    """Two sources of 500 rows, each with an instruction of 80 words of its own: only the first token is common."""
    rows = [row(" ".join([name] * 80), f"question {n}", "yes") for name in ("first", "second") for n in range(500)]
    found = measured(rows)
    assert (found.head, found.prompt, found.answer, found.longest) == (1, 83, 2, 85)
    assert measured(rows[:500]).head == 82
    seconds = [
        make_plan(make_spec(contestants=["lora"]), make_facts("write", lengths=lengths)).entrant("lora").seconds
        for lengths in (found, replace(found, head=82))
    ]
    assert seconds[0] > 2 * seconds[1]


def test_replayed_rows_share_less_and_weigh_by_their_part() -> None:
    """Rows: 5 + 2 tokens, 4 of them shared; talk: 11 + 2, 1 of them shared with rows. Halves: 8 + 2, deviation 3."""
    rows = [row("say it now", f"question{n}", "yes") for n in range(4)]
    talk = [row("", f"well {n} " + "so " * 8, "oh no") for n in range(3)]
    own = measured(rows)
    assert own == Lengths(head=4, prompt=5, answer=2, longest=7)
    replay = measure_replay(Renderer(), WRITE, rows[0], own.head, talk)  # type: ignore[arg-type]
    assert replay == Lengths(head=1, prompt=11, answer=2, longest=13)
    assert own.beside(replay, 0.5) == Lengths(head=1, prompt=8, answer=2, longest=13, spread=3)
    facts = make_facts("write", lengths=own, replay=replay)
    met = facts.of_training(0.2)
    assert met.sizes["train"] == 300 and met.lengths.prompt == pytest.approx(0.8 * 5 + 0.2 * 11)
    assert facts.of_training(0).lengths == own


def test_a_training_is_estimated_on_the_rows_that_it_meets() -> None:
    """Where shares make long rows many, and where general talk is met, a training takes longer; answering does not."""
    own = Lengths(head=20, prompt=40, answer=4, longest=120)
    long = replace(own, prompt=200)
    facts = make_facts("write", lengths=own, trained=long, replay=replace(long, head=1))

    def seconds(**changes: Lengths | None) -> tuple[float, float]:
        spec = make_spec(
            contestants=["zero_shot", "lora", {"sft": {}, "label": "plain", "replay": 0}],
            data={"examples": "rows.csv", "replay": {"path": "talk.jsonl", "share": 0.5}},
        )
        plan = make_plan(spec, replace(facts, **changes))
        return plan.entrant("zero_shot").seconds, plan.entrant("lora").seconds

    assert seconds()[0] == seconds(trained=None, replay=None)[0]
    assert seconds()[1] > seconds(trained=None)[1] > seconds(trained=None, replay=None)[1]
