"""The rows that both sides of bench_speed train on: token ids and which of them are supervised, made once.

Rendered with the base's own template by our renderer, so that nobody's data handling is part of the comparison. No row
is longer than `LONGEST` tokens; nothing is cut.
"""

from __future__ import annotations

import csv
import json
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from tailorbird.bases.renderer import Renderer
from tailorbird.tasks.labels import words
from tailorbird.types import Message, Role

LONGEST = 1024
FULL_LENGTH = 256  # tokens of a row of "full"
BANKING = (
    "card_arrival lost_or_stolen_card exchange_rate cancel_transfer age_limit declined_card_payment "
    "cash_withdrawal_charge passcode_forgotten top_up_failed verify_my_identity Refund_not_showing_up pin_blocked"
).split()
SHORT = ("banking77",)
NAMES = ("banking77", "pubmedqa", "mts-dialog", "self-instruct", "full")

TokenRow = tuple[list[int], list[bool]]  # ids, supervised


def token_rows(name: str, base: Path, count: int, seed: int) -> list[TokenRow]:
    """`count` rows of the data set in an order drawn from `seed`; fewer when it has fewer."""
    data = os.environ.get("TAILORBIRD_DATA")
    if not data:
        sys.exit("set TAILORBIRD_DATA to the folder of public data (finance-banking77/, health-pubmedqa/, …)")
    renderer = Renderer.from_folder(base)
    if name == "full":
        return _full(renderer, Path(data), count, seed)
    makers = {"banking77": _banking, "pubmedqa": _pubmedqa, "mts-dialog": _mts_dialog, "self-instruct": _self_instruct}
    conversations = list(makers[name](Path(data)))
    random.Random(seed).shuffle(conversations)
    made: list[TokenRow] = []
    for system, user, answer in conversations:
        turns = ([Message(Role.SYSTEM, system)] if system else []) + [
            Message(Role.USER, user), Message(Role.ASSISTANT, answer)
        ]  # fmt: skip
        rendered = renderer.row(turns, [False] * (len(turns) - 1) + [True])
        if len(rendered.ids) <= LONGEST:
            made.append((rendered.ids, rendered.supervised))
        if len(made) == count:
            break
    return made


def _banking(data: Path) -> Iterator[tuple[str, str, str]]:
    with (data / "finance-banking77" / "train.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["category"] in BANKING:
                yield "You label customer messages of a bank with one topic.", row["text"], words(row["category"])


def _pubmedqa(data: Path) -> Iterator[tuple[str, str, str]]:
    items = json.loads((data / "health-pubmedqa" / "ori_pqal.json").read_text(encoding="utf-8"))
    for item in items.values():
        asked = "\n".join(item["CONTEXTS"]) + "\n\n" + item["QUESTION"]
        yield "You answer a medical question from an abstract.", asked, item["LONG_ANSWER"]


def _mts_dialog(data: Path) -> Iterator[tuple[str, str, str]]:
    source = data / "health-mts-dialog" / "MTS-Dialog-TrainingSet.csv"
    with source.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["section_header"] == "GENHX":  # the long ones: the history of the present illness
                system = "You write the history of the present illness for a medical note from a dialogue."
                yield system, row["dialogue"].strip(), row["section_text"].strip()


def _self_instruct(data: Path) -> Iterator[tuple[str, str, str]]:
    source = data / "instruct-self-instruct-seed" / "seed_tasks.jsonl"
    for line in source.read_text(encoding="utf-8").splitlines():
        task = json.loads(line)
        example = task["instances"][0]
        yield "", f"{task['instruction']}\n\n{example['input']}".strip(), example["output"]


def _full(renderer: Renderer, data: Path, count: int, seed: int) -> list[TokenRow]:
    """Running text cut into rows of equal length, all of it supervised: no padding to save, no logits to leave out, no
    beginning in common."""
    items = json.loads((data / "health-pubmedqa" / "ori_pqal.json").read_text(encoding="utf-8"))
    texts = [" ".join(item["CONTEXTS"]) for item in items.values()]
    random.Random(seed).shuffle(texts)
    ids: list[int] = []
    for text in texts:
        if len(ids) >= count * FULL_LENGTH:
            break
        ids += renderer.plain(text + "\n")
    cut = [ids[i : i + FULL_LENGTH] for i in range(0, len(ids) - FULL_LENGTH + 1, FULL_LENGTH)]
    return [(row, [False] + [True] * (FULL_LENGTH - 1)) for row in cut[:count]]
