"""Few-shot: examples from Train as turns of the prompt; the best of a few draws by its score on Tuning rows.

Brown et al. 2020, "Language Models are Few-Shot Learners", §2; calibration as in `zero_shot`. One example a label by
default: on the default base 12 examples gave 0.57, 24 gave 0.56, 48 gave 0.36.

Where rows have instructions of their own (a collection's sources, a system column) an example begins with its own, in
the user's turn: the one system message of a prompt is the request's, and examples of another source would stand under
it. An instruction that all rows share is said once, by the request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tailorbird.artifacts.parts import KINDS, Parts, Prompt
from tailorbird.errors import DataError
from tailorbird.techniques.base import NOTHING, Prompted, SearchContext, some_of_each_label
from tailorbird.techniques.ranges import Range, whole
from tailorbird.types import BaseFacts, Conversation, Message, Role, Row


class FewShotSettings(BaseModel):
    """Settings of `few_shot`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    examples: int | None = Field(
        None, ge=1, le=256, description="Examples of each label for classify (1 when not given), in all else (3)."
    )
    draws: int = Field(3, ge=1, le=64, description="Sets of examples that are tried on Tuning rows.")
    calibration: Literal["auto", "on", "off"] = Field(
        "auto", description="Contextual calibration; auto = as Tuning says."
    )


class FewShot(Prompted):
    name = "few_shot"
    citation = "Brown et al. 2020, Language Models are Few-Shot Learners; Zhao et al. 2021 (contextual calibration)"
    revision = 2
    Settings = FewShotSettings
    beside = frozenset(KINDS)

    def search_space(self, base: BaseFacts, rows: int, asked: Mapping[str, Any] = NOTHING) -> dict[str, Range]:
        return {"examples": whole(1, 4)}

    def search(self, ctx: SearchContext, settings: FewShotSettings) -> Parts:
        count = settings.examples or (1 if ctx.decode.kind == "classify" else 3)
        best: tuple[float, Parts] | None = None
        for _ in range(settings.draws if len(ctx.tuning) else 1):
            prompt = self._prompt(ctx, some_of_each_label(ctx.train, count, ctx.rng))
            parts, score = ctx.calibrated(Parts(prompt, ctx.decode), settings.calibration)
            if best is None or score > best[0]:
                best = (score, parts)
        assert best is not None  # draws >= 1
        return best[1]

    def _prompt(self, ctx: SearchContext, rows: Sequence[Row]) -> Prompt:
        """The examples that fit the base's context together with the longest row; fewer are said, none is an error."""
        several = len({_instruction(row) for row in ctx.train}) > 1
        chosen = list(rows)
        while chosen:
            examples = ((_instructed(row) if several else row.prompt, ctx.target(row)) for row in chosen)
            prompt = Prompt(ctx.instruction, tuple(examples))
            if ctx.fits(prompt):
                if len(chosen) < len(rows):
                    ctx.note(f"{len(chosen)} of {len(rows)} examples fit the context")
                return prompt
            chosen = chosen[: max(0, min(len(chosen) - 1, int(len(chosen) * 0.8)))]
        raise DataError(
            "not one example fits the base's context beside the longest row", remedy="shorten rows or drop few_shot"
        )


def _instruction(row: Row) -> str:
    return "\n\n".join(m.content for m in row.prompt if m.role is Role.SYSTEM)


def _instructed(row: Row) -> Conversation:
    """The question with its own instruction before the first turn."""
    first, *rest = (m for m in row.prompt if m.role is not Role.SYSTEM)
    text = "\n\n".join(text for text in (_instruction(row), first.content) if text)
    return (Message(first.role, text), *rest)
