"""Banking77 -> data/*.csv beside the specs: twelve easy intents, eleven confusable ones, all 77.

    TAILORBIRD_DATA=path/to/data python prepare.py

finance-banking77/train.csv (CC BY 4.0, PolyAI), whole: the specs say how many rows of it they take.
"""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
EASY = (
    "card_arrival lost_or_stolen_card exchange_rate cancel_transfer age_limit declined_card_payment "
    "cash_withdrawal_charge passcode_forgotten top_up_failed verify_my_identity Refund_not_showing_up pin_blocked"
).split()
CONFUSABLE = (
    "card_arrival card_delivery_estimate lost_or_stolen_card compromised_card declined_card_payment "
    "card_payment_wrong_exchange_rate pending_card_payment card_payment_not_recognised "
    "balance_not_updated_after_bank_transfer transfer_not_received_by_recipient pending_transfer"
).split()


def main() -> None:
    data = os.environ.get("TAILORBIRD_DATA")
    if not data:
        sys.exit("set TAILORBIRD_DATA to a folder that holds finance-banking77/")
    with (Path(data) / "finance-banking77" / "train.csv").open(encoding="utf-8", newline="") as file:
        rows = [{"text": row["text"], "label": row["category"]} for row in csv.DictReader(file)]
    (HERE / "data").mkdir(exist_ok=True)
    for name, intents in (("easy", EASY), ("confusable", CONFUSABLE), ("all77", None)):
        chosen = [row for row in rows if intents is None or row["label"] in intents]
        if intents is not None and (missing := set(intents) - {row["label"] for row in chosen}):
            sys.exit(f"train.csv has no rows of {', '.join(sorted(missing))}")
        with (HERE / "data" / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["text", "label"])
            writer.writeheader()
            writer.writerows(chosen)
        print(f"data/{name}.csv: {len(chosen)} rows")
    print("next: tailorbird run easy.yaml, tailorbird run confusable.yaml, tailorbird run all77.yaml")


if __name__ == "__main__":
    main()
