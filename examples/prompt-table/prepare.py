"""Seven small tasks from public data -> data/TASK.csv beside the specs.

    TAILORBIRD_DATA=path/to/data python prepare.py

| task | rows | from |
|---|---|---|
| intents | 12 intents of bank customers | Banking77, PolyAI, CC BY 4.0 |
| abstracts | yes, no or maybe to a study's question | PubMedQA (PQA-L), MIT; the end of each abstract |
| sections | which section of a note a dialogue belongs to | MTS-Dialog, Ben Abacha et al. 2023, CC BY 4.0 |
| notes | a dialogue into the sentence of a note | the same, other dialogues |
| neutral | a rude sentence into a neutral one | ParaDetox, CC0; the sentences are offensive |
| grammar | is a sentence acceptable? | BLiMP, Warstadt et al. 2020; both of a pair in one split |
| sums | two numbers are added | generated here |
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import random
import sys
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).resolve().parent
INTENTS = (
    "card_arrival", "lost_or_stolen_card", "exchange_rate", "cancel_transfer", "age_limit", "declined_card_payment",
    "cash_withdrawal_charge", "passcode_forgotten", "top_up_failed", "verify_my_identity", "Refund_not_showing_up",
    "pin_blocked",
)  # fmt: skip
SECTIONS = {"GENHX": "illness", "FAM/SOCHX": "family", "PASTMEDICALHX": "past", "MEDICATIONS": "drugs"}
GRAMMAR = ("adjunct_island", "determiner_noun_agreement_with_adjective_1", "passive_1", "wh_questions_object_gap")
LONGEST = 600  # characters

Rows = Iterable[dict[str, str]]


def main() -> None:
    data = os.environ.get("TAILORBIRD_DATA")
    if not data:
        sys.exit("set TAILORBIRD_DATA to the folder of public data (docs/data.md)")
    root = Path(data)
    (HERE / "data").mkdir(exist_ok=True)
    made: dict[str, Rows] = {
        "intents": intents(root),
        "abstracts": abstracts(root),
        "sections": dialogues(root, notes=False),
        "notes": dialogues(root, notes=True),
        "neutral": neutral(root),
        "grammar": grammar(root),
        "sums": sums(),
    }
    for task, rows in made.items():
        print(f"data/{task}.csv: {write(HERE / 'data' / f'{task}.csv', rows)} rows")
    print("next: python make_table.py")


def write(path: Path, rows: Rows, most: int = 800) -> int:
    """At most `most` rows, drawn by the hash of their first column or, where there is one, of their group."""
    chosen = sorted(rows, key=lambda row: hashlib.sha256(row.get("pair", next(iter(row.values()))).encode()).digest())
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(chosen[0]))
        writer.writeheader()
        writer.writerows(chosen[:most])
    return len(chosen[:most])


def intents(root: Path) -> Rows:
    with (root / "finance-banking77" / "train.csv").open(encoding="utf-8", newline="") as file:
        yield from (
            {"text": r["text"], "label": r["category"]} for r in csv.DictReader(file) if r["category"] in INTENTS
        )


def abstracts(root: Path) -> Rows:
    items = json.loads((root / "health-pubmedqa" / "ori_pqal.json").read_text(encoding="utf-8"))
    for item in items.values():
        text = f"{item['CONTEXTS'][-1][-LONGEST:]}\n\n{item['QUESTION']}"
        yield {"text": text, "label": item["final_decision"]}


def dialogues(root: Path, *, notes: bool) -> Rows:
    """Every other dialogue is for the notes, so that the two tasks share none."""
    with (root / "health-mts-dialog" / "MTS-Dialog-TrainingSet.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            short = len(row["dialogue"]) <= LONGEST and len(row["section_text"]) <= LONGEST // 2
            if not short or (int(row["ID"]) % 2 == 0) is not notes:
                continue
            if notes:
                yield {"prompt": row["dialogue"].strip(), "completion": row["section_text"].strip()}
            elif row["section_header"] in SECTIONS:
                yield {"text": row["dialogue"].strip(), "label": SECTIONS[row["section_header"]]}


def neutral(root: Path) -> Rows:
    with (root / "style-paradetox" / "paradetox.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            if row["toxic"] and row["neutral1"]:
                yield {"prompt": row["toxic"].strip(), "completion": row["neutral1"].strip()}


def grammar(root: Path) -> Rows:
    for name in GRAMMAR:
        lines = (root / "retention-blimp" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        for pair in map(json.loads, lines):
            for field, label in (("sentence_good", "acceptable"), ("sentence_bad", "unacceptable")):
                yield {"text": pair[field], "label": label, "pair": f"{name}-{pair['pairID']}"}


def sums() -> Rows:
    rng = random.Random(0)
    for a, b in rng.sample([(a, b) for a in range(10, 60) for b in range(2, 40)], 700):
        yield {"prompt": f"{a} + {b}", "completion": str(a + b)}


if __name__ == "__main__":
    main()
