"""bench_speed's figures as a markdown table."""

from __future__ import annotations

from typing import Any

SIDES = ("ours", "trl", "best", "default")
HEAD = (
    "technique, rows", "ours rows/s", "TRL at best", "any at best", "TRL's default", "ours / TRL at best", "ours / any",
    "ours / default", "useful tokens/s, ours", "peak MB: ours, TRL, any, default", "share of the matmul peak",
    "losses apart", "their cells",
)  # fmt: skip


def markdown(done: dict[str, Any]) -> str:
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    for name, pair in done["pairs"].items():
        speed, ratio, memory = (with_trl(pair[key]) for key in ("rows_per_second", "ratio", "peak_mb"))
        cells = (
            name, *(_number(speed.get(side)) for side in SIDES), *(_number(ratio.get(side)) for side in SIDES[1:]),
            f"{pair['useful_tokens_per_second']['ours']:.0f}",
            ", ".join(f"{memory[side]:.0f}" if side in memory else "–" for side in SIDES),
            f"{pair['share_of_peak']:.0%}", losses(pair["losses"]),
            "; ".join(dict.fromkeys(pair["cells"].values())),
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def with_trl(found: dict[str, float]) -> dict[str, float]:
    """Where the fastest of all is TRL's, it is TRL's fastest, too."""
    return {"trl": found["best"], **found}


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
