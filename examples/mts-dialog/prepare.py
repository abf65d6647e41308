"""MTS-Dialog as published -> data/notes.csv beside the spec.

    TAILORBIRD_DATA=path/to/data python prepare.py

Needs health-mts-dialog/MTS-Dialog-TrainingSet.csv from <https://github.com/abachaa/MTS-Dialog> (CC BY 4.0; Asma Ben
Abacha, Wen-wai Yim, Yadan Fan, Thomas Lin, EACL 2023). A hundred rows of one section, the history of the present
illness, with dialogues of at most 1,200 characters, drawn by the hash of the dialogue.
"""

from __future__ import annotations

import csv
import hashlib
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROWS, LONGEST = 100, 1200


def main() -> None:
    data = os.environ.get("TAILORBIRD_DATA")
    if not data:
        sys.exit("set TAILORBIRD_DATA to a folder that holds health-mts-dialog/")
    source = Path(data) / "health-mts-dialog" / "MTS-Dialog-TrainingSet.csv"
    with source.open(encoding="utf-8", newline="") as file:
        rows = [
            {"id": row["ID"], "dialogue": row["dialogue"].strip(), "note": row["section_text"].strip()}
            for row in csv.DictReader(file)
            if row["section_header"] == "GENHX" and len(row["dialogue"]) <= LONGEST
        ]
    rows.sort(key=lambda row: hashlib.sha256(row["dialogue"].encode()).hexdigest())
    (HERE / "data").mkdir(exist_ok=True)
    with (HERE / "data" / "notes.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["id", "dialogue", "note"])
        writer.writeheader()
        writer.writerows(rows[:ROWS])
    print(f"data/notes.csv: {min(ROWS, len(rows))} rows; next: tailorbird check mts-dialog.yaml")


if __name__ == "__main__":
    main()
