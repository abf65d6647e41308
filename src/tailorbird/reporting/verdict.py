"""The verdict in plain sentences, once: terminal, Markdown and page all say these words.

Each function answers one question of a newcomer (which, why, how sure, at what cost, what was forgotten) from the sealed
comparison. Nothing is decided here; `measure.recommend` decided it on Validation.
"""

from __future__ import annotations

from tailorbird.reporting import numbers
from tailorbird.reporting.contestants import (
    best_technique,
    by_label,
    done,
    in_order,
    joined,
    margin,
    measured,
    metric_name,
    no_better_than_chance,
    pick,
    what,
)
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
                f"Keep {printable(kept)}."
                if row.get("kind") == "imported"
                else f"Keep it simple: {printable(kept)} is as good."
            )
        case "undecided":
            return f"Undecided; {printable(label)} looks best so far." if label else "Undecided."
        case "none":
            finished = any(done(row) for row in comparison.get("rows", []) if row.get("kind") == "technique")
            return (
                "No recommendation: no technique met the requirements."
                if finished
                else "No recommendation: no technique finished."
            )
    return "No recommendation yet."


def why(comparison: JSON) -> list[str]:
    recommendation = comparison.get("recommendation") or {}
    reason = printable(recommendation.get("reason") or "").strip()
    lines = [capital(sentence(reason), comparison)] if reason else []
    if row := pick(comparison):
        lines.append(f"{printable(row['label'])}: {what(row)}.")
    return (
        lines + standing(comparison) + missed(comparison) + [sentence(text) for text in comparison.get("verdicts", [])]
    )


def capital(text: str, comparison: JSON) -> str:
    """A capital at the start, except where the sentence starts with a contestant's label."""
    starts_with_label = any(text.startswith(str(row["label"])) for row in comparison.get("rows", []))
    return text if starts_with_label else text[0].upper() + text[1:]


def missed(comparison: JSON) -> list[str]:
    """Which requirement each technique missed, where nothing could be recommended or a better score was passed over."""
    asked, lines = comparison.get("requirements") or {}, []
    for row in in_order(comparison):
        names = [name for name, met in (row.get("meets") or {}).items() if met is False]
        if names and done(row):
            wanted = joined(
                [
                    f"{name.replace('_', ' ')} {numbers.setting(asked[name])}"
                    if name in asked
                    else name.replace("_", " ")
                    for name in names
                ]
            )
            lines.append(f"{printable(row['label'])} does not meet: {wanted}.")
    return lines


def standing(comparison: JSON) -> list[str]:
    """Where the others stand to the best technique on Validation, by the rule of the verdict: as good, worse, or open."""
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
        (beaten, f"{top} is shown to be better than"),
        (close, f"Shown to be as good as {top} within the margin:"),
        (unclear, f"Neither shown to be as good as {top} nor to be worse:"),
        (worse, f"Worse than {top} by more than the margin:"),
    ]
    return [f"{text} {joined([printable(row['label']) for row in rows])}." for rows, text in told if rows]


def lead(comparison: JSON) -> str:
    """The reason without the verdict's words at its start, for places that say the verdict above it."""
    recommendation = comparison.get("recommendation") or {}
    reason = printable(recommendation.get("reason") or "").strip()
    for label in (recommendation.get("label"), recommendation.get("kept")):
        for start in (f"use {label}: ", f"keep {label}: ") if label else ():
            if reason.lower().startswith(start.lower()):
                reason = reason[len(start) :]
    return capital(sentence(reason), comparison) if reason else ""


def sentence(text: str) -> str:
    text = printable(text).strip()
    return text if text.endswith((".", "!", "?")) else text + "."


def scored(row: JSON, split: str, comparison: JSON) -> str | None:
    """ "93.4 % (91.0–95.1)" or None where it was not measured."""
    found, metric = measured(row, split), comparison["metric"]
    if not found:
        return None
    return f"{numbers.score(found['score'], metric)} ({numbers.interval(found.get('low'), found.get('high'), metric)})"


def how_sure(comparison: JSON, *, chance: bool = True) -> list[str]:
    """`chance=False`: the page says it elsewhere, larger."""
    row, lines = pick(comparison), []
    recommendation = comparison.get("recommendation") or {}
    metric = metric_name(comparison["metric"])
    if row:
        parts = []
        for split in ("validation", "test"):
            text, found = scored(row, split, comparison), measured(row, split)
            if text and found:
                parts.append(f"{text} on {numbers.count(found.get('n'))} {split.capitalize()} rows")
        if parts:
            lines.append(
                f"{metric[0].upper()}{metric[1:]} of {printable(row['label'])}: {', '.join(parts)}; in brackets the 95 % interval."
            )
    lines += on_test(comparison) + undecided(comparison) + detectable(comparison)
    weak = [printable(r["label"]) for r in no_better_than_chance(comparison)] if chance else []
    if weak:
        lines.append(
            f"No better than chance on Validation (the interval reaches down to always giving the most frequent label): {joined(weak)}."
        )
    if row and row.get("interval_is_about"):
        lines.append(f"The interval speaks of {printable(row['interval_is_about'])}.")
    return (
        lines
        + ([f"Test was opened {openings(comparison)}."] if openings(comparison) else [])
        + ([recommendation["caveat"]] if recommendation.get("caveat") else [])
    )


def on_test(comparison: JSON) -> list[str]:
    """What the same comparison says on rows that played no part in the choice."""
    told = {
        "confirmed": "Test confirms the choice: the same comparison holds on rows that played no part in it.",
        "not confirmed": "Test does not confirm the choice: on its rows the comparison is not clear enough. The choice itself was made on Validation and stays.",
        "contradicted": "Test contradicts the choice: on its rows the comparison comes out the other way. Take the recommendation with great care, and collect more rows.",
    }
    found = (comparison.get("recommendation") or {}).get("on_test")
    return [told[found]] if found in told else []


def undecided(comparison: JSON) -> list[str]:
    recommendation = comparison.get("recommendation") or {}
    open_labels = [printable(label) for label in recommendation.get("undecided") or []]
    if not open_labels:
        return []
    rows = recommendation.get("rows_to_decide")
    more = (
        f"about {numbers.count(rows)} more Validation rows would decide"
        if numbers.is_number(rows) and rows > 0
        else "more rows than is sensible to collect would be needed to decide"
    )
    return [f"Not decided against {joined(open_labels)}: {more}."]


def detectable(comparison: JSON) -> list[str]:
    smallest, metric = comparison.get("smallest_detectable") or {}, comparison["metric"]
    value, n = smallest.get("validation"), (comparison.get("splits") or {}).get("validation")
    if not numbers.is_number(value):
        return []
    return [
        f"With {numbers.count(n)} Validation rows, differences under about {numbers.points(value, metric)} cannot be told from luck; "
        f"a cheaper contestant counts as equally good when it is at most {numbers.points(margin(comparison), metric)} worse (the margin)."
    ]


def openings(comparison: JSON) -> str | None:
    count = (comparison.get("splits") or {}).get("test_openings")
    if not numbers.is_number(count):
        return None
    return {0: "never (the choice rests on Validation alone)", 1: "once, after the choice was sealed"}.get(
        int(count), f"{int(count)} times: later choices were made after Test was seen, so its figures flatter them"
    )


def costs(comparison: JSON) -> list[str]:
    row = pick(comparison)
    if row is None:
        return []
    cost, lines, label = row.get("cost") or {}, [], printable(row["label"])
    latency = cost.get("latency_ms") or {}
    if numbers.is_number(cost.get("train_seconds")):
        memory = cost.get("peak_memory_mb")
        peak = f", {numbers.scaled(memory * 1e6, 'B')} of memory at the peak" if numbers.is_number(memory) else ""
        lines.append(f"Making {label} took {numbers.seconds(cost['train_seconds'])}{peak}.")
    if numbers.is_number(latency.get("median")):
        tokens = (
            f", {numbers.count(cost['prompt_tokens'])} prompt tokens"
            if numbers.is_number(cost.get("prompt_tokens"))
            else ""
        )
        lines.append(
            f"One request alone: {numbers.milliseconds(latency['median'])} (median), {numbers.milliseconds(latency.get('p95'))} (95 of 100 are faster){tokens}."
        )
    if numbers.is_number(cost.get("deployed_bytes")):
        lines.append(f"To deploy beyond the base: {numbers.size(cost['deployed_bytes'])}.")
    if numbers.is_number(cost.get("money")):
        lines.append(f"Money: {cost['money']:g} for this run's requests.")
    return lines + compared_cost(comparison, row)


def compared_cost(comparison: JSON, row: JSON) -> list[str]:
    """How much smaller or larger than the next best trained technique, when that is worth a sentence."""
    others = [r for r in in_order(comparison) if done(r) and r["label"] != row["label"] and trained(r)]
    if not others or not trained(row):
        return []
    mine, theirs = row["cost"]["deployed_bytes"], others[0]["cost"]["deployed_bytes"]
    label, other = printable(row["label"]), printable(others[0]["label"])
    if smaller := numbers.ratio(theirs, mine):
        return [f"{label} is {smaller} smaller to deploy than {other}."]
    if larger := numbers.ratio(mine, theirs):
        return [f"{label} is {larger} larger to deploy than {other}."]
    return []


def trained(row: JSON) -> bool:
    cost = row.get("cost") or {}
    parameters = cost.get("trainable_parameters")
    return numbers.is_number(parameters) and parameters > 0 and numbers.is_number(cost.get("deployed_bytes"))


def forgetting(comparison: JSON) -> list[str]:
    row = pick(comparison)
    if row is None:
        return []
    label, found = printable(row["label"]), row.get("forgetting") or {}
    change = found.get("bits_per_byte") or {}
    if found.get("state") != "measured" or not numbers.is_number(change.get("change")):
        if row.get("kind") != "technique":
            return [f"Not applicable: {label} does not change the base."]
        return [f"Not applicable to {label}: the base's weights stay as they are, and only the prompt differs."]
    value, low, high = change["change"], change.get("low"), change.get("high")
    texts = numbers.count(change.get("texts"))
    if value == 0:
        return [f"Nothing: on {texts} general texts {label} is exactly as good as the base."]
    span = f"{numbers.bits(value)} bits per byte ({numbers.bits(low)} to {numbers.bits(high)}) on {texts} general texts"
    if numbers.is_number(low) and low > 0:
        return [f"{label} got measurably worse at general text: {span}."]
    if numbers.is_number(high) and high < 0:
        return [f"{label} got measurably better at general text: {span}."]
    return [f"No measurable forgetting: {span}."]


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
            head = f"{name}: " if width is None and index == 0 else "" if width is None else f"{name if index == 0 else '':<12}"
            lines += wrapped(f"{head}{line}", width)
    if commands:
        pairs = next_commands(comparison, folder, spec_path)
        width = max(len(command) for command, _ in pairs)
        lines += ["", *[f"  {command:<{width}}   {text}" for command, text in pairs]]
    return "\n".join(lines)


def wrapped(line: str, width: int | None) -> list[str]:
    import textwrap

    return textwrap.wrap(line, max(width, 40), subsequent_indent=" " * 12, break_long_words=False) if width else [line]


def best_line(comparison: JSON) -> str | None:
    """The technique with the best Validation score, for places where nothing is recommended."""
    row = best_technique(comparison)
    return (
        f"Best technique on Validation: {printable(row['label'])}, {scored(row, 'validation', comparison)}."
        if row
        else None
    )
