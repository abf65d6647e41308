"""Banking77's confusable intents and a part of PubMedQA -> data/*.csv beside the specs.

    TAILORBIRD_DATA=path/to/data python prepare.py

confusable.csv: all rows of eleven intents that are hard to tell apart (finance-banking77/train.csv, CC BY 4.0, PolyAI).
pubmedqa.csv, pubmedqa-test.csv: health-pubmedqa/ori_pqal.json (MIT). Of the 500 official Test ids the 250 whose id has
the smallest hash, of the other 500 abstracts all: three seeds on half of the Test rows, not one on all of them.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TEST_ROWS = 250
INTENTS = (
    "card_arrival card_delivery_estimate lost_or_stolen_card compromised_card declined_card_payment "
    "card_payment_wrong_exchange_rate pending_card_payment card_payment_not_recognised "
    "balance_not_updated_after_bank_transfer transfer_not_received_by_recipient pending_transfer"
).split()


def write(name: str, rows: list[dict[str, str]]) -> None:
    (HERE / "data").mkdir(exist_ok=True)
    with (HERE / "data" / name).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(f"data/{name}: {len(rows)} rows")


def confusable(data: Path) -> None:
    with (data / "finance-banking77" / "train.csv").open(encoding="utf-8", newline="") as file:
        rows = [
            {"text": row["text"], "label": row["category"]}
            for row in csv.DictReader(file)
            if row["category"] in INTENTS
        ]
    write("confusable.csv", rows)


def pubmedqa(data: Path) -> None:
    source = data / "health-pubmedqa"
    items: dict[str, Any] = json.loads((source / "ori_pqal.json").read_text(encoding="utf-8"))
    test = json.loads((source / "test_ground_truth.json").read_text(encoding="utf-8"))

    def row(identifier: str) -> dict[str, str]:
        item = items[identifier]
        text = f"{item['QUESTION']}\n\n" + "\n".join(item["CONTEXTS"])
        return {"id": identifier, "text": text, "label": item["final_decision"]}

    chosen = sorted(test, key=lambda identifier: hashlib.sha256(identifier.encode()).hexdigest())[:TEST_ROWS]
    write("pubmedqa.csv", [row(identifier) for identifier in items if identifier not in test])
    write("pubmedqa-test.csv", [row(identifier) for identifier in items if identifier in chosen])


def main() -> None:
    data = os.environ.get("TAILORBIRD_DATA")
    if not data:
        sys.exit("set TAILORBIRD_DATA to a folder that holds finance-banking77/ and health-pubmedqa/")
    confusable(Path(data))
    pubmedqa(Path(data))
    print("next: tailorbird run confusable.yaml, tailorbird run pubmedqa.yaml")


if __name__ == "__main__":
    main()
