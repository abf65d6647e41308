"""PubMedQA (PQA-L) as published -> data/train.csv and data/test.csv beside the spec.

    TAILORBIRD_DATA=path/to/data python prepare.py

Needs health-pubmedqa/ori_pqal.json and test_ground_truth.json from <https://github.com/pubmedqa/pubmedqa> (MIT).
Test is the official half of 500 ids; the other 500 abstracts are for training and choosing. A row is the question and
the abstract without its conclusion; the label is the authors' decision: yes, no or maybe.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def row(identifier: str, item: dict[str, Any]) -> dict[str, str]:
    return {
        "id": identifier,
        "text": f"{item['QUESTION']}\n\n" + "\n".join(item["CONTEXTS"]),
        "label": item["final_decision"],
    }


def main() -> None:
    data = os.environ.get("TAILORBIRD_DATA")
    if not data:
        sys.exit("set TAILORBIRD_DATA to a folder that holds health-pubmedqa/")
    source = Path(data) / "health-pubmedqa"
    items = json.loads((source / "ori_pqal.json").read_text(encoding="utf-8"))
    test = json.loads((source / "test_ground_truth.json").read_text(encoding="utf-8"))
    (HERE / "data").mkdir(exist_ok=True)
    for name, chosen in (("test", [i for i in items if i in test]), ("train", [i for i in items if i not in test])):
        with (HERE / "data" / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["id", "text", "label"])
            writer.writeheader()
            writer.writerows(row(identifier, items[identifier]) for identifier in chosen)
        print(f"data/{name}.csv: {len(chosen)} rows")
    print("next: tailorbird check pubmedqa.yaml")


if __name__ == "__main__":
    main()
