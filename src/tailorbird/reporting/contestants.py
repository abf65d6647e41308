"""Reading `comparison.json` for people: what a contestant is, which are shown first, which is no better than chance.

The one place where table, verdict and page look things up, so that they cannot tell different stories.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from tailorbird.measure.comparison import ranked
from tailorbird.reporting import numbers
from tailorbird.reporting.numbers import is_number
from tailorbird.types import JSON, Outcome, SplitName

WHAT = {
    "zero_shot": "the base as it is, with the instruction alone",
    "few_shot": "the base with examples shown in the prompt",
    "system_prompt": "the base with a searched instruction",
    "prompt_tuning": "a few trained vectors before the prompt, base frozen",
    "p_tuning": "trained vectors from a small encoder, base frozen",
    "prefix_tuning": "trained keys and values in each layer, base frozen",
    "lora": "small trained matrices beside the weights, base frozen",
    "peft": "small trained weights by a method of the PEFT library, base frozen",
    "selective": "some of the base's own weights trained",
    "sft": "all weights of the base trained on the examples",
    "majority": "always the most frequent label",
    "tfidf": "word counts with logistic regression, no language model",
}
SHORT = {
    "zero_shot": "instruction alone",
    "few_shot": "examples in prompt",
    "prompt_tuning": "trained soft prompt",
    "p_tuning": "trained soft prompt",
    "prefix_tuning": "trained prefix",
    "lora": "small added weights",
    "peft": "small added weights",
    "selective": "some weights trained",
    "sft": "all weights trained",
    "majority": "most frequent label",
    "tfidf": "word counts, no LLM",
}
METRICS = {
    "accuracy": "accuracy",
    "exact_match": "exact match",
    "rouge_l": "ROUGE-L",
    "token_f1": "token F1",
    "macro_f1": "macro F1",
    "chrf": "chrF",
    "stop_rate": "ends by itself",
    "ece": "calibration error",
    "coverage_at_90": "coverage at 90 %",
}


def metric_name(metric: str) -> str:
    return METRICS.get(metric, metric.replace("_", " "))


def what(row: JSON) -> str:
    """One line on what stands behind a label."""
    name = row.get("technique") or row["label"]
    if row.get("kind") == "imported":
        return "what you have today, brought along"
    return WHAT.get(name, name.replace("_", " "))


def short(row: JSON) -> str:
    if row.get("kind") == "imported":
        return "yours, imported"
    name = row.get("technique") or row["label"]
    return SHORT.get(name, name.replace("_", " ") if name != row["label"] else row.get("kind", ""))


def done(row: JSON) -> bool:
    return row.get("state") == "done"


def measured(row: JSON, split: str) -> JSON | None:
    """The score of a split, or None where it was not measured."""
    found = row.get(split)
    return found if isinstance(found, dict) and is_number(found.get("score")) else None


def bare_base(comparison: JSON, split: str) -> str | None:
    """What `versus_base` is against, with its score: the base with the instruction alone, never calibrated. So it is
    not what zero_shot shows where calibration helped it."""
    metric, calibrated, score = comparison["metric"], False, None
    for row in comparison.get("rows", []):
        found, against = measured(row, split), (row.get("versus_base") or {}).get(split) or {}
        if found and is_number(against.get("difference")):
            score = found["score"] - against["difference"]
            calibrated |= row.get("technique") == "zero_shot" and against["difference"] != 0
    if score is None:
        return None
    return f"the base alone{', uncalibrated' if calibrated else ''}: {numbers.score(score, metric)}"


def by_label(comparison: JSON, label: str | None) -> JSON | None:
    return next((row for row in comparison.get("rows", []) if row["label"] == label), None)


def in_order(comparison: JSON) -> list[JSON]:
    """The order of every table and chart, as `measure` ranks them."""
    return ranked(comparison)


def pick(comparison: JSON) -> JSON | None:
    """The row that the verdict speaks of: recommended, kept, or the most plausible one."""
    recommendation = comparison.get("recommendation") or {}
    return by_label(comparison, recommendation.get("label") or recommendation.get("kept"))


def best_without(comparison: JSON) -> JSON | None:
    """The reference or imported contestant with the best Validation score."""
    rows = [r for r in comparison.get("rows", []) if r.get("kind") != "technique" and measured(r, "validation")]
    return max(rows, key=lambda row: float(row["validation"]["score"])) if rows else None


def best_technique(comparison: JSON) -> JSON | None:
    """The technique with the best Validation score. Of equal ones that which has no difference to itself."""
    rows = [r for r in in_order(comparison) if r.get("kind") == "technique" and done(r) and measured(r, "validation")]
    equal = [row for row in rows if row["validation"]["score"] == rows[0]["validation"]["score"]]
    own = (row for row in equal if not (row.get("versus_best") or {}).get("validation"))
    return next(own, equal[0] if equal else None)


def margin(comparison: JSON) -> float:
    value = (comparison.get("requirements") or {}).get("margin", 0.02)
    return float(value) if is_number(value) else 0.02


def chance(comparison: JSON, outcomes: Iterable[Outcome] = ()) -> float | None:
    """What always giving the most frequent label scores on Validation; None where the task has no labels.

    Taken from the `majority` row when there is one, else counted from the rows themselves.
    """
    if comparison.get("task") != "classify":
        return None
    for row in comparison.get("rows", []):
        found = measured(row, "validation")
        if row["label"] == "majority" and row.get("kind") == "reference" and found:
            return float(found["score"])
    expected = Counter(outcome.expected for outcome in outcomes)
    return max(expected.values()) / expected.total() if expected else None


def no_better_than_chance(comparison: JSON, outcomes: Iterable[Outcome] = ()) -> list[JSON]:
    """Done contestants whose Validation interval reaches down to the chance level (majority itself left out)."""
    level = chance(comparison, outcomes)
    if level is None:
        return []
    found = []
    for row in comparison.get("rows", []):
        score = measured(row, "validation")
        if score and done(row) and row["label"] != "majority" and is_number(score.get("low")) and score["low"] <= level:
            found.append(row)
    return found


def splits_for_reading(comparison: JSON) -> Sequence[SplitName]:
    """Validation first: reading Test rows before choosing again would use Test up."""
    return ("validation", "test") if comparison.get("splits", {}).get("validation") else ("test",)


def joined(labels: Sequence[Any]) -> str:
    """ "a", "a and b", "a, b and c"."""
    words = [str(label) for label in labels]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1] if words else ""
