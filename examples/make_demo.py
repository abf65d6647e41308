"""Makes the demo's two tables again from Banking77 as published (env TAILORBIRD_DATA), byte for byte.

    TAILORBIRD_DATA=path/to/data python examples/make_demo.py [FOLDER]

Twelve intents that are easy to tell apart, a thousand of their rows: drawn by the hash of the text, so that the draw
depends on no random generator, and kept in published order.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import os
import sys
from pathlib import Path

DEMO = Path(__file__).resolve().parent.parent / "src" / "tailorbird" / "examples" / "demo"
INTENTS = {
    "card_arrival", "lost_or_stolen_card", "exchange_rate", "cancel_transfer", "age_limit", "declined_card_payment",
    "cash_withdrawal_charge", "passcode_forgotten", "top_up_failed", "verify_my_identity", "Refund_not_showing_up",
    "pin_blocked",
}  # fmt: skip
ROWS = 1000


def draw(source: Path) -> list[dict[str, str]]:
    with source.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["category"] in INTENTS]
    chosen = sorted(rows, key=lambda row: hashlib.sha256(row["text"].encode()).hexdigest())[:ROWS]
    kept = {row["text"] for row in chosen}
    return [row for row in rows if row["text"] in kept]


def make(source: Path, folder: Path) -> None:
    """Writes banking12.csv and today.csv into `folder`."""
    table = folder / "banking12.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["text", "category"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(draw(source))
    spec = importlib.util.spec_from_file_location("keyword_rules", DEMO / "keyword_rules.py")
    assert spec and spec.loader
    rules = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rules)
    rules.main(table, folder / "today.csv")


if __name__ == "__main__":
    data = os.environ.get("TAILORBIRD_DATA")
    if not data:
        sys.exit("set TAILORBIRD_DATA to a folder that holds finance-banking77/train.csv")
    make(Path(data) / "finance-banking77" / "train.csv", Path(sys.argv[1]) if len(sys.argv) > 1 else DEMO)
