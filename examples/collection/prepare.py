"""Four public data sets and some general talk -> data/ beside the spec.

    TAILORBIRD_DATA=path/to/data python prepare.py

Needs, below that folder, as published:

- instruct-self-instruct-seed/seed_tasks.jsonl: <https://github.com/yizhongw/self-instruct>, Apache-2.0
- finance-banking77/train.csv: <https://github.com/PolyAI-LDN/task-specific-datasets>, CC BY 4.0
- health-pubmedqa/ori_pqal.json and test_ground_truth.json: <https://github.com/pubmedqa/pubmedqa>, MIT
- cot-gsm8k/train.jsonl: <https://github.com/openai/grade-school-math>, MIT
- instruct-gpteacher-roleplay/…json: <https://github.com/teknium1/GPTeacher>, MIT, written by a model

Each file keeps the shape it has by nature: instructions with an input (alpaca), a text with its label, a question over
a passage with its answer, a question with its answer, and conversations in ShareGPT's manner.
"""

from __future__ import annotations

import csv
import json
import os
import random
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TOPICS = (
    "card_arrival", "lost_or_stolen_card", "exchange_rate", "cancel_transfer", "age_limit", "declined_card_payment",
    "cash_withdrawal_charge", "passcode_forgotten", "top_up_failed", "verify_my_identity", "Refund_not_showing_up",
    "pin_blocked",
)  # fmt: skip
ROWS = {"banking": 240, "medicine": 120, "maths": 240, "talk": 300}
LONGEST = 600  # characters of an answer or a turn of talk


def write(name: str, rows: Iterable[dict[str, Any]]) -> None:
    kept = list(rows)
    with (HERE / "data" / name).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
    print(f"data/{name}: {len(kept)} rows")


def drawn(rows: list[Any], name: str) -> list[Any]:
    """A fixed random part, in the order of the file."""
    chosen = sorted(random.Random(name).sample(range(len(rows)), min(ROWS[name], len(rows))))
    return [rows[number] for number in chosen]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def tasks(source: Path) -> Iterable[dict[str, Any]]:
    for task in lines(source / "instruct-self-instruct-seed" / "seed_tasks.jsonl"):
        first = task["instances"][0]
        if len(first["input"]) + len(first["output"]) <= LONGEST:
            yield {"instruction": task["instruction"], "input": first["input"], "output": first["output"]}


def banking(source: Path) -> Iterable[dict[str, Any]]:
    with (source / "finance-banking77" / "train.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["category"] in TOPICS]
    for row in drawn(rows, "banking"):
        yield {"text": row["text"], "label": row["category"].replace("_", " ").lower()}


def medicine(source: Path) -> Iterable[dict[str, Any]]:
    """Of the half that is not the official test set: on that half forgetting is measured, too."""
    items = json.loads((source / "health-pubmedqa" / "ori_pqal.json").read_text(encoding="utf-8"))
    test = json.loads((source / "health-pubmedqa" / "test_ground_truth.json").read_text(encoding="utf-8"))
    for item in drawn([item for number, item in items.items() if number not in test], "medicine"):
        yield {"question": item["QUESTION"], "context": "\n".join(item["CONTEXTS"]), "answer": item["final_decision"]}


def maths(source: Path) -> Iterable[dict[str, Any]]:
    """The number alone: its derivation is another task."""
    for item in drawn(lines(source / "cot-gsm8k" / "train.jsonl"), "maths"):
        yield {"question": item["question"], "answer": item["answer"].rpartition("####")[2].strip()}


def talk(source: Path) -> Iterable[dict[str, Any]]:
    (path,) = (source / "instruct-gpteacher-roleplay").glob("*.json")
    items = [
        item
        for item in json.loads(path.read_text(encoding="utf-8"))
        if item["instruction"].strip() and 0 < len(item["response"].strip()) <= LONGEST
    ]
    for item in drawn(items, "talk"):
        asked = "\n\n".join(text for text in (item["instruction"], item["input"]) if text.strip())
        yield {"conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": item["response"]}]}


def main() -> None:
    named = os.environ.get("TAILORBIRD_DATA")
    if not named:
        sys.exit("set TAILORBIRD_DATA to a folder that holds the five data sets (see the head of this file)")
    (HERE / "data").mkdir(exist_ok=True)
    for part in (tasks, banking, medicine, maths, talk):
        write(f"{part.__name__}.jsonl", part(Path(named)))
    print("next: tailorbird check collection.yaml")


if __name__ == "__main__":
    main()
