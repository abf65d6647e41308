"""A comparison as a real run writes it: the demo's eight contestants on 12 bank intents, made by seeded dice.

The numbers are not measurements. They are shaped like the ones a run of the demo gives, so that tables, live view and
page are tried on what people will see. `bank()` builds a `Case`; the other functions bend it.
"""

from __future__ import annotations

import copy
import math
import random
from dataclasses import dataclass, field
from typing import Any

from tailorbird.reporting.page.input import ReportInput
from tailorbird.types import Message, Outcome, Place, Role, Row, SplitName

INTENTS = {
    "card_arrival": [
        "My card has not arrived yet",
        "When will my new card get here?",
        "Is there a way to track my card?",
    ],
    "lost_or_stolen_card": [
        "I lost my card at the station",
        "Somebody stole my wallet and the card",
        "How do I report a missing card?",
    ],
    "exchange_rate": [
        "What exchange rate do you use?",
        "Is your rate for dollars a good one?",
        "How is the exchange rate decided?",
    ],
    "cancel_transfer": [
        "Please cancel the transfer I just made",
        "I sent money to the wrong person",
        "Can a transfer be taken back?",
    ],
    "age_limit": ["How old must I be for an account?", "Can my daughter open an account?", "What is the minimum age?"],
    "declined_card_payment": [
        "My card was declined in a shop",
        "Why did my payment not go through?",
        "Card does not work at the till",
    ],
    "cash_withdrawal_charge": [
        "Why was I charged for cash?",
        "There is a fee on my withdrawal",
        "Do you charge at cash machines?",
    ],
    "passcode_forgotten": ["I forgot my passcode", "How do I reset the app's code?", "Cannot log in, code is gone"],
    "top_up_failed": ["My top-up failed", "The top up was refused, why?", "Topping up does not work today"],
    "verify_my_identity": [
        "How do I verify my identity?",
        "Which documents prove who I am?",
        "The identity check asks for a photo",
    ],
    "Refund_not_showing_up": [
        "My refund is not there",
        "The shop gave me a refund, I cannot see it",
        "Where is my money back?",
    ],
    "pin_blocked": ["My PIN is blocked", "Too many wrong tries of my PIN", "Unblock my PIN, please"],
}
TAILS = ["", " Thanks.", " I need help.", " It is urgent!", " Since Monday.", " I am abroad.", " Please advise."]
SKILL = {
    "sft": 0.965,
    "tfidf": 0.945,
    "lora": 0.93,
    "prompt_tuning": 0.82,
    "few_shot": 0.69,
    "today": 0.71,
    "zero_shot": 0.57,
    "majority": 0.083,
}
KINDS = {"majority": "reference", "tfidf": "reference", "today": "imported"}
SPEC = """base: smollm2-135m
data: banking.csv
task: {kind: classify}
contestants: [majority, tfidf, {label: today, answers: production.csv}, zero_shot, few_shot, prompt_tuning, lora, sft]
requirements: {margin: 0.03}
"""


@dataclass
class Case:
    """All that a report needs, still mutable: tests bend it and then call `report()`."""

    comparison: dict[str, Any]
    rows: dict[str, Row]
    outcomes: dict[str, dict[SplitName, list[Outcome]]]
    curves: dict[str, list[dict[str, Any]]]
    data_facts: dict[str, Any]
    split_facts: dict[str, Any]
    plan: dict[str, Any]
    suspects: list[dict[str, Any]] = field(default_factory=list)
    rendered: list[list[tuple[str, bool]]] = field(default_factory=list)
    spec_text: str = SPEC
    rows_shown: str = "sample"

    def report(self) -> ReportInput:
        return ReportInput(
            comparison=self.comparison,
            rows=self.rows,
            outcomes=self.outcomes,
            data_facts=self.data_facts,
            split_facts=self.split_facts,
            plan=self.plan,
            curves=self.curves,
            suspects=self.suspects,
            spec_text=self.spec_text,
            rows_shown=self.rows_shown,
            rendered=self.rendered,
        )

    def row(self, label: str) -> dict[str, Any]:
        return next(row for row in self.comparison["rows"] if row["label"] == label)


def wilson(share: float, n: int) -> tuple[float, float]:
    z = 1.96
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def make_rows(split: str, n: int, intents: dict[str, list[str]], dice: random.Random) -> list[Row]:
    rows = []
    for i in range(n):
        label = list(intents)[i % len(intents)]
        text = f"{dice.choice(intents[label])}{dice.choice(TAILS)}"
        messages = (
            Message(Role.SYSTEM, "You label customer messages of a bank with one topic."),
            Message(Role.USER, text),
            Message(Role.ASSISTANT, label),
        )
        rows.append(Row(f"{split[:1]}{i:05d}", messages, (False, False, True), Place("banking.csv", i + 2), label))
    return rows


def make_outcomes(
    rows: list[Row], skill: float, labels: list[str], hardness: dict[str, float], dice: random.Random
) -> list[Outcome]:
    found = []
    for row in rows:
        wanted = row.label or ""
        level = 0.8 * hardness[row.id] + 0.6 * dice.gauss(0, 1)  # standard normal: hard rows are hard for everyone
        right = 0.5 * (1 + math.erf(level / math.sqrt(2))) < skill
        slip = labels[(labels.index(wanted) + dice.choice([1, 1, 1, 5])) % len(labels)]
        given = labels[0] if skill < 0.1 else (wanted if right else slip)
        found.append(
            Outcome(row.id, float(given == wanted), wanted, given, confidence=round(0.4 + 0.6 * dice.random(), 3))
        )
    return found


def score_of(outcomes: list[Outcome]) -> dict[str, Any]:
    share = sum(o.score for o in outcomes) / len(outcomes)
    low, high = wilson(share, len(outcomes))
    other = {"macro_f1": max(0.0, share - 0.01), "ece": 0.04, "coverage_at_90": min(1.0, share)}
    return {"score": share, "low": low, "high": high, "n": len(outcomes), "other": other}


def paired(a: list[Outcome], b: list[Outcome]) -> dict[str, Any]:
    gaps = [x.score - y.score for x, y in zip(a, b, strict=True)]
    mean = sum(gaps) / len(gaps)
    sd = math.sqrt(sum((g - mean) ** 2 for g in gaps) / len(gaps))
    half = 1.96 * sd / math.sqrt(len(gaps))
    return {
        "difference": mean,
        "low": mean - half,
        "high": mean + half,
        "p": 1.0 if half == 0 else min(1.0, math.exp(-abs(mean) / half * 2)),
        "n": len(gaps),
        "sd": sd,
    }


def cost_of(label: str, kind: str) -> dict[str, Any]:
    local = kind == "technique"
    tokens = {"few_shot": 214.0, "prompt_tuning": 58.0}.get(label, 38.0)
    return {
        "train_seconds": {
            "tfidf": 0.6,
            "prompt_tuning": 66.0,
            "lora": 42.0,
            "sft": 61.0,
            "few_shot": 21.0,
            "zero_shot": 12.0,
        }.get(label),
        "train_tokens": {"prompt_tuning": 61000, "lora": 30000, "sft": 30000}.get(label),
        "peak_memory_mb": {"sft": 3720, "lora": 2140, "prompt_tuning": 1890}.get(label),
        "prompt_tokens": tokens if local else None,
        "flops_per_request": tokens * 2.12e8 if local else {"tfidf": 4.2e4}.get(label),
        "latency_ms": {"median": tokens * 1.05, "p95": tokens * 1.5}
        if local
        else ({"median": 0.8, "p95": 1.3} if label == "tfidf" else None),
        "trainable_parameters": {"lora": 4884480, "sft": 134515008, "prompt_tuning": 11520}.get(label, 0)
        if local
        else None,
        "deployed_bytes": {
            "lora": 19_560_000,
            "sft": 538_100_000,
            "prompt_tuning": 46_200,
            "few_shot": 1900,
            "zero_shot": 420,
        }.get(label)
        if local
        else None,
        "money": None,
    }


def forgetting_of(label: str) -> dict[str, Any]:
    change = {"sft": (0.061, 0.048, 0.073), "lora": (0.024, 0.016, 0.033), "prompt_tuning": (0.412, 0.371, 0.455)}.get(
        label
    )
    if change is None:
        return {"state": "not_applicable", "bits_per_byte": None, "drift_kl": None}
    return {
        "state": "measured",
        "bits_per_byte": {"change": change[0], "low": change[1], "high": change[2], "texts": 80, "left_out": 1},
        "drift_kl": {"value": 0.0312, "low": 0.021, "high": 0.045, "prompts": 60, "tokens": 2700},
    }


def curve(start: float, end: float, steps: int, dice: random.Random) -> list[dict[str, Any]]:
    points = []
    for step in range(1, steps + 1):
        level = end + (start - end) * math.exp(-4 * step / steps)
        tuning = round(level + 0.05, 4) if step % max(1, steps // 6) == 0 else None
        points.append(
            {
                "step": step,
                "loss": round(level * (0.85 + 0.3 * dice.random()), 4),
                "tuning_loss": tuning,
                "learning_rate": 2e-4 * (1 - step / steps),
            }
        )
    return points


def bank(n: int = 300, skill: dict[str, float] | None = None, intents: dict[str, list[str]] | None = None) -> Case:
    """The demo's comparison: verdict "use sft", confirmed on Test."""
    intents, skill, dice = intents or INTENTS, skill or SKILL, random.Random(7)
    labels = list(intents)
    rows = {split: make_rows(split, n, intents, dice) for split in ("validation", "test")}
    hardness = {row.id: dice.gauss(0, 1) for split in rows.values() for row in split}
    outcomes: dict[str, dict[SplitName, list[Outcome]]] = {
        label: {split: make_outcomes(rows[split], level, labels, hardness, dice) for split in ("validation", "test")}
        for label, level in skill.items()
    }
    best = max((x for x in skill if x not in KINDS), key=lambda x: sum(o.score for o in outcomes[x]["validation"]))
    comparison = {
        "schema": 1,
        "run": "bank-demo",
        "lineage": 1,
        "task": "classify",
        "metric": "accuracy",
        "requirements": {"margin": 0.03},
        "base": {
            "name": "smollm2-135m",
            "fingerprint": "sha256:6f1ed002ab5595859014ebf0951522d9",
            "parameters": 134515008,
        },
        "splits": {"train": 240, "tuning": 40, "validation": n, "test": n, "overlap": 0, "test_openings": 1},
        "smallest_detectable": {"validation": 0.034, "test": 0.036},
        "rows": [contestant_row(label, outcomes, best) for label in skill],
        "recommendation": {
            "verdict": "use",
            "label": best,
            "kept": None,
            "undecided": ["lora"],
            "rows_to_decide": 900,
            "on_test": "confirmed",
            "sealed_at": "2026-03-02T10:41:07Z",
            "reason": "use sft: the best of the techniques, 97.3 % right (94.8 to 98.6) on 300 Validation rows, "
            "better than tfidf by +3 points (+1.1 to +4.9) and than majority and today by more",
        },
        "verdicts": ["prompt_tuning: forgets clearly more than lora and sft"],
    }
    suspects = [
        {
            "row": row.id,
            "label": row.label,
            "suggested": labels[(labels.index(row.label or "") + 1) % len(labels)],
            "contestants": ["sft", "lora", "tfidf"],
        }
        for row in rows["validation"][:3]
    ]
    facts = {
        "files": [
            {
                "path": "banking.csv",
                "size": 61234,
                "sha256": "sha256:" + "ab" * 32,
                "rows": 884,
                "shape": "text_label",
                "encoding": "utf-8",
            }
        ],
        "rows": 884,
        "accepted": 881,
        "rejected": {"D16": 2, "D21": 1},
        "fixed": {"D09": 4},
        "duplicates": 5,
        "columns": {"text": "input", "category": "label"},
        "contradictions": [
            {
                "input": "My card was charged twice (same text, two labels)",
                "labels": ["pin_blocked", "top_up_failed"],
                "places": ["banking.csv:17", "banking.csv:402"],
            }
        ],
        "labels": {label: 74 - i for i, label in enumerate(labels)},
        "lengths": {"5%": 24, "50%": 48, "95%": 131, "max": 402},
        "warnings": ["4 rows held control characters that were removed"],
    }
    sees = [
        [
            ("<|im_start|>", False),
            ("system\nYou label customer messages of a bank with one topic.", False),
            ("<|im_end|>\n", False),
            ("user\n", False),
            (row.input_text, False),
            ("<|im_end|>\n", False),
            ("assistant\n", False),
            (row.answer.replace("_", " "), True),
            ("<|im_end|>", True),
        ]
        for row in rows["validation"][:3]
    ]
    plan = {
        "seed": 0,
        "device": "cpu",
        "dtype": "bfloat16",
        "threads": 2,
        "sizes": {"train": 240, "tuning": 40, "validation": n, "test": n},
        "machine": {
            "system": "Linux 6.8",
            "processor": "AMD EPYC 9B14",
            "threads": 2,
            "memory_bytes": 16_800_000_000,
            "device": "cpu",
            "device_name": "cpu",
            "device_memory_bytes": 0,
            "gflops": {"float32": 121.0, "bfloat16": 243.0},
            "versions": {"tailorbird": "0.1.0", "torch": "2.13.0", "transformers": "5.24.0", "python": "3.11.9"},
        },
    }
    curves = {
        "prompt_tuning": curve(5.1, 0.31, 90, dice),
        "lora": curve(3.9, 0.09, 45, dice),
        "sft": curve(3.8, 0.05, 45, dice),
    }
    return Case(
        comparison,
        {row.id: row for split in rows.values() for row in split},
        outcomes,
        curves,
        facts,
        {"sizes": comparison["splits"], "overlap": 0, "clusters": 12, "moved": 9, "dropped": 5},
        plan,
        suspects,
        sees,
    )


def contestant_row(label: str, outcomes: dict[str, dict[SplitName, list[Outcome]]], best: str) -> dict[str, Any]:
    kind, mine = KINDS.get(label, "technique"), outcomes[label]
    against = {
        name: {split: paired(mine[split], outcomes[name][split]) for split in ("validation", "test")}
        for name in {best, "zero_shot"}
        if name in outcomes
    }
    settings = {"learning_rate": 0.0002, "epochs": 3, "batch_rows": 16} if label in ("lora", "sft") else {}
    return {
        "label": label,
        "kind": kind,
        "technique": label if kind == "technique" else None,
        "base": "smollm2-135m" if kind == "technique" else None,
        "state": "done",
        "after_test": False,
        "seeds": [0],
        "interval_is_about": "this checkpoint, on rows like these",
        "meets": {},
        "misses": None,
        "validation": score_of(mine["validation"]),
        "test": score_of(mine["test"]),
        "versus_best": against[best] if label != best else {"validation": {}, "test": {}},
        "versus_base": against.get("zero_shot", {}),
        "slices": {
            "worst": {"name": "label=exchange_rate", "score": 0.6, "low": 0.41, "high": 0.77, "n": 25, "of": 12}
        },
        "forgetting": forgetting_of(label),
        "cost": cost_of(label, kind),
        "settings": {"asked": {"epochs": 3} if settings else {}, "effective": settings},
        "artifact": f"steps/3f9a/{label}" if kind == "technique" else None,
        "note": None,
    }


def with_failures(case: Case) -> Case:
    """`sft` ran out of memory, `prompt_tuning` does not apply; `lora` is used."""
    case = copy.deepcopy(case)
    for label, state, note in (
        ("sft", "failed", "needs 9.1 GB, 4.0 GB are free: lower limits or use lora"),
        ("prompt_tuning", "skipped", "an endpoint takes no soft prompts"),
    ):
        row = case.row(label)
        row.update(
            state=state,
            note=note,
            validation=None,
            test=None,
            versus_best={},
            versus_base={},
            slices={},
            cost={},
            artifact=None,
            forgetting={"state": "not_applicable"},
        )
        case.outcomes.pop(label)
        case.curves.pop(label, None)
    case.comparison["recommendation"].update(
        label="lora", undecided=[], rows_to_decide=None, reason="use lora: the best technique that finished"
    )
    return case


def with_verdict(case: Case, verdict: str) -> Case:
    """The same figures under another verdict."""
    case = copy.deepcopy(case)
    change: dict[str, dict[str, Any]] = {
        "keep": {
            "label": None,
            "kept": "tfidf",
            "reason": "keep it simple: tfidf is as good on this data within 3 points; lora differs by −1 point",
            "undecided": [],
            "rows_to_decide": None,
        },
        "undecided": {
            "label": "lora",
            "kept": None,
            "reason": "undecided: lora is the best of the techniques, but not shown to be better than tfidf",
            "undecided": ["tfidf"],
            "rows_to_decide": 1450,
            "on_test": "not confirmed",
        },
        "none": {
            "label": None,
            "kept": None,
            "reason": "no recommendation: no technique meets the requirements: sft misses latency_ms by 37 ms",
            "undecided": [],
            "rows_to_decide": None,
            "on_test": None,
        },
    }
    case.comparison["recommendation"].update(verdict=verdict, **change[verdict])
    if verdict == "none":
        case.comparison["requirements"]["latency_ms"] = 20
        for row in case.comparison["rows"]:
            row["meets"] = {"latency_ms": False} if row["kind"] == "technique" else {}
    return case


def write_task() -> Case:
    """A dialogue-to-note task: long texts, a score that is no share, no labels."""
    case, dice = bank(60, {"zero_shot": 0.2, "few_shot": 0.3, "lora": 0.42}), random.Random(3)
    case.comparison.update(task="write", metric="rouge_l")
    case.comparison["recommendation"].update(label="lora", reason="use lora: 0.11 above few_shot", undecided=[])
    for label, splits in case.outcomes.items():
        for split, outcomes in splits.items():
            splits[split] = [
                Outcome(
                    o.row,
                    min(1.0, max(0.0, dice.gauss(SKILL.get(label, 0.4) / 2, 0.1))),
                    "Patient reports mild headache since Tuesday, no fever.",
                    f"The patient has a headache ({label}). " * 4,
                )
                for o in outcomes
            ]
            case.row(label)[split] = {**score_of(splits[split]), "other": {"chrf": 0.31, "stop_rate": 0.97}}
    case.data_facts["labels"], case.suspects = {}, []
    return case
