"""bench_speed's figures as a markdown table."""

from __future__ import annotations

from typing import Any

HEAD = (
    "technique, rows", "ours rows/s", "theirs best", "default", "ours / best", "ours / default",
    "useful tokens/s, ours", "peak MB: ours, best, default", "share of the matmul peak", "losses apart",
    "their best cell",
)  # fmt: skip


def markdown(done: dict[str, Any]) -> str:
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    for name, pair in done["pairs"].items():
        speed, ratio, memory = pair["rows_per_second"], pair["ratio"], pair["peak_mb"]
        cells = (
            name, _number(speed["ours"]), _number(speed["best"]), _number(speed.get("default")), _number(ratio["best"]),
            _number(ratio.get("default")), f"{pair['useful_tokens_per_second']['ours']:.0f}",
            ", ".join(f"{memory[side]:.0f}" if side in memory else "–" for side in ("ours", "best", "default")),
            f"{pair['share_of_peak']:.0%}", losses(pair["losses"]), pair["best_cell"],
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def losses(told: dict[str, Any]) -> str:
    if "not_compared" in told:
        return "not compared: " + told["not_compared"]
    said = f"{told['largest']:.1%} of {told['steps']}"
    exact = told.get("float32")
    if exact is not None:
        said += f"; in fp32 {exact['largest']:.2%}" if isinstance(exact, dict) else f"; in fp32 {exact}"
    return said
