"""The rules "in production today": an ordered keyword list as a support team keeps one. No dependency, no training.

Written by hand from the names of the topics, before any of its answers were counted, and not tuned afterwards: a
stand-in for what a team has, measured by the comparison like everything else. What no rule fits gets FALLBACK.

    python keyword_rules.py banking12.csv today.csv
"""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

# Tried from top to bottom, the first hit decides: specific topics stand before general ones.
RULES: list[tuple[str, str]] = [
    ("passcode_forgotten", r"pass ?code|pass ?word|forg[eo]t.*(code|log ?in)|log ?in code"),
    (
        "pin_blocked",
        r"\bpin\b.*(block|lock|wrong|too many|attempt)|(un)?(block|lock).*\bpin\b|blocked.*card|card.*blocked",
    ),
    ("lost_or_stolen_card", r"stole|stolen|thief|theft|robbed|lost|los[ei]ng|missing card|can'?t find my card"),
    ("age_limit", r"\bage\b|how old|years? old|child|\bkids?\b|\bson\b|daughter|teen|under 18|minor"),
    ("Refund_not_showing_up", r"refund|money back|returned (an|the|my) item"),
    ("cancel_transfer", r"(cancel|stop|reverse|undo|revert).*(transfer|payment|transaction)|wrong (account|person)"),
    ("exchange_rate", r"exchange|currenc|conversion rate|\brates?\b"),
    ("verify_my_identity", r"identi|verif|\bid\b|proof of|passport|documents?"),
    ("top_up_failed", r"top(ped|ping)?[ -]?up|add(ing)? money|deposit (fail|declin|reject)"),
    (
        "cash_withdrawal_charge",
        r"withdr[ae]w.*(fee|charg|cost)|(fee|charg|cost).*(withdr|\batm\b|cash)|\batm\b.*(fee|charg)",
    ),
    (
        "declined_card_payment",
        r"declin|reject|refus|payment.*(fail|not work|didn'?t (go|work))|card.*(not|isn'?t|doesn'?t) work",
    ),
    ("card_arrival", r"arriv|deliver|card.*(come|mail|post|sent|track)|(wait|when|where).*card|not (yet )?received"),
]
FALLBACK = "card_arrival"

_COMPILED = [(label, re.compile(pattern)) for label, pattern in RULES]


def classify(text: str) -> str:
    """The label of the first rule whose pattern occurs in the lower-cased text."""
    lowered = text.lower()
    return next((label for label, pattern in _COMPILED if pattern.search(lowered)), FALLBACK)


def main(source: Path, target: Path) -> None:
    with source.open(encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["text", "label"])
        writer.writerows((text, classify(text)) for text in texts)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python keyword_rules.py banking12.csv today.csv")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
