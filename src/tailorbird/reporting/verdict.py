"""The verdict in plain sentences, once: terminal, Markdown and page all say these words.

Nothing is decided here; `measure.recommend` decided it on Validation, and it was sealed.
"""

from __future__ import annotations

from tailorbird.reporting import numbers
from tailorbird.reporting.contestants import (
    best_technique,
    best_without,
    by_label,
    done,
    in_order,
    joined,
    margin,
    measured,
    pick,
    what,
)
from tailorbird.reporting.doubts import how_sure
from tailorbird.reporting.price import costs, forgetting
from tailorbird.reporting.text import printable
from tailorbird.types import JSON


def headline(comparison: JSON) -> str:
    """The verdict in one short sentence."""
    recommendation = comparison.get("recommendation") or {}
    label, kept = recommendation.get("label"), recommendation.get("kept")
    match recommendation.get("verdict"):
        case "use":
            return f"Use {printable(label)}."
        case "keep":
            row = by_label(comparison, kept) or {}
            return (
                f"Keep {printable(kept)}." if row.get("kind") == "imported" else f"Keep it simple: {printable(kept)}."
            )
        case "undecided":
            return f"Undecided; {_so_far(comparison, label)}." if label else "Undecided."
        case "none":
            return "No recommendation."
    return "Not finished yet."


def _so_far(comparison: JSON, label: str) -> str:
    """The technique that is not shown to be worth it, beside what scores higher without one."""
    best, own = best_without(comparison), measured(by_label(comparison, label) or {}, "validation")
    if best is not None and own is not None and best["validation"]["score"] > own["score"]:
        return f"{printable(label)} is the best technique, {printable(best['label'])} scores higher"
    return f"{printable(label)} looks best so far"


def why(comparison: JSON) -> list[str]:
    recommendation = comparison.get("recommendation") or {}
    reason = printable(recommendation.get("reason") or "").strip()
    lines = [capital(sentence(reason), comparison)] if reason else []
    if row := pick(comparison):
        lines.append(f"{printable(row['label'])}: {what(row)}.")
    said = [sentence(text) for text in comparison.get("verdicts", [])]
    return [*lines, *beside_what_you_have(comparison), *standing(comparison), *missed(comparison), *said]


def lead(comparison: JSON) -> str:
    """The reason without the verdict's words at its start, for places that say the verdict above it."""
    recommendation = comparison.get("recommendation") or {}
    reason = printable(recommendation.get("reason") or "").strip()
    starts = ["undecided: ", "keep it simple: ", "no recommendation: "]
    starts += [f"{word} {printable(recommendation.get(key))}: " for word, key in (("use", "label"), ("keep", "kept"))]
    for start in starts:
        if reason.lower().startswith(start.lower()):
            reason = reason[len(start) :]
            break
    return capital(sentence(reason), comparison) if reason else ""


def capital(text: str, comparison: JSON) -> str:
    """A capital at the start, except where the sentence starts with a contestant's label."""
    starts_with_label = any(text.startswith(str(row["label"])) for row in comparison.get("rows", []))
    return text if starts_with_label else text[0].upper() + text[1:]


def sentence(text: str) -> str:
    text = printable(text).strip()
    return text if text.endswith((".", "!", "?")) else text + "."


def beside_what_you_have(comparison: JSON) -> list[str]:
    """The best technique against what is imported, on both splits; and a reference that it is not shown to beat."""
    best, metric, lines = best_technique(comparison), comparison.get("metric", ""), []
    if best is None:
        return []
    top, unit = printable(best["label"]), " points" if metric in numbers.SHARES else ""
    for row in in_order(comparison):
        found = {s: ((row.get("versus_best") or {}).get(s) or {}) for s in ("validation", "test")}
        if not done(row) or not numbers.is_number(found["validation"].get("high")):
            continue
        label = printable(row["label"])
        if row.get("kind") == "imported":
            told = [
                f"{numbers.difference(-d['difference'], metric)}{unit} on {split.capitalize()} "
                f"({numbers.difference_interval(-d['high'], -d['low'], metric)})"
                for split, d in found.items()
                if all(numbers.is_number(d.get(k)) for k in ("difference", "low", "high"))
            ]
            lines.append(f"Against {label}, which is yours, {top} has {', '.join(told)}.")
        elif row.get("kind") == "reference" and found["validation"]["high"] >= 0:
            lines.append(
                f"{label} is {what(row)}, and {top} is not shown to be better{_times_faster(row, best)}: so far "
                "nothing says that a language model is worth its cost here."
            )
    return lines


def _times_faster(row: JSON, best: JSON) -> str:
    mine, theirs = ((each.get("cost") or {}).get("latency_ms") or {} for each in (row, best))
    faster = numbers.ratio(theirs.get("median"), mine.get("median"))
    return f" than it, which answers {faster} faster" if faster else " than it"


def standing(comparison: JSON) -> list[str]:
    """Where the others stand to the best technique on Validation, by the verdict's rule: as good, worse, or open."""
    best, allowed = best_technique(comparison), margin(comparison)
    if best is None:
        return []
    close, worse, unclear, beaten = [], [], [], []
    for row in in_order(comparison):
        found = (row.get("versus_best") or {}).get("validation") or {}
        if (
            row["label"] == best["label"]
            or not done(row)
            or not all(numbers.is_number(found.get(k)) for k in ("low", "high"))
        ):
            continue
        if row.get("kind") != "technique":
            if found["high"] < 0:
                beaten.append(row)
        elif found["low"] > -allowed:
            close.append(row)
        elif found["high"] < -allowed:
            worse.append(row)
        else:
            unclear.append(row)
    top = printable(best["label"])
    told = [
        (beaten, f"On Validation {top} is shown to be better than"),
        (close, f"Shown to be as good as {top} within the margin:"),
        (unclear, f"Neither shown to be as good as {top} nor to be worse:"),
        (worse, f"Worse than {top} by more than the margin:"),
    ]
    return [f"{text} {joined([printable(row['label']) for row in rows])}." for rows, text in told if rows]


def missed(comparison: JSON) -> list[str]:
    """Which requirement each technique missed; left out where the reason lists them already."""
    if (comparison.get("recommendation") or {}).get("verdict") == "none":
        return []
    lines = []
    for row in in_order(comparison):
        names = [name.replace("_", " ") for name, met in (row.get("meets") or {}).items() if met is not True]
        if names and done(row):
            lines.append(f"{printable(row['label'])} misses {printable(row.get('misses') or joined(names))}.")
    return lines


def next_commands(comparison: JSON, folder: str | None = None, spec_path: str | None = None) -> list[tuple[str, str]]:
    """What to type next, with what it does."""
    run = quoted(folder or comparison.get("run") or "RUN")
    spec, label = quoted(spec_path or "SPEC"), (comparison.get("recommendation") or {}).get("label")
    commands = [(f"tailorbird show {run} --open", "the report page")]
    if label:
        commands += [
            (f"tailorbird apply {run} FILE -o OUT", f"answer a whole file with {printable(label)}"),
            (f"tailorbird chat {run}", "talk to it"),
            (f"tailorbird export {run} FOLDER", "a plain PEFT or transformers folder"),
        ]
    else:
        usable = next(
            (row["label"] for row in in_order(comparison) if done(row) and row.get("kind") == "technique"), None
        )
        if usable:
            one = quoted(f"{folder or comparison.get('run') or 'RUN'}:{usable}")
            commands.append(
                (f"tailorbird apply {one} FILE -o OUT", f"answer a file with {printable(usable)} all the same")
            )
    if (comparison.get("base") or {}).get("name"):
        commands.append(
            (f"tailorbird run {spec} base=NAME", "the same on another base: a ranking holds for its base alone")
        )
    return commands


def quoted(word: str) -> str:
    import shlex

    return shlex.quote(printable(word))


def verdict(
    comparison: JSON,
    folder: str | None = None,
    *,
    commands: bool = True,
    spec_path: str | None = None,
    width: int | None = 96,
) -> str:
    """The whole verdict as lines of text, wrapped to `width` (None: one line a sentence)."""
    parts = [
        ("Why", why(comparison)),
        ("How sure", how_sure(comparison)),
        ("Cost", costs(comparison)),
        ("Forgetting", forgetting(comparison)),
    ]
    lines = [headline(comparison)]
    for name, told in parts:
        for index, line in enumerate(told):
            head = name if index == 0 else ""
            lines += wrapped(f"{head:<12}{line}", width) if width else [f"{head}: {line}" if head else line]
    if commands:
        pairs = next_commands(comparison, folder, spec_path)
        width = max(len(command) for command, _ in pairs)
        lines += ["", *[f"  {command:<{width}}   {text}" for command, text in pairs]]
    return "\n".join(lines)


def wrapped(line: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(line, max(width, 40), subsequent_indent=" " * 12, break_long_words=False)
