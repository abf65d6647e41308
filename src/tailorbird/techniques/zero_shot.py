"""Zero-shot: the base with the task's instruction, and contextual calibration where that helps.

Zhao et al. 2021, "Calibrate Before Use: Improving Few-Shot Performance of Language Models", §4: the probabilities
p_cf that the model gives to the labels for an input without content show its bias; with W = diag(p_cf)^-1 the label is
argmax W p, that is argmax (log p - log p_cf). Whether to calibrate is chosen on Tuning rows.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tailorbird.artifacts.parts import Parts, Prompt
from tailorbird.techniques.base import Prompted, SearchContext


class ZeroShotSettings(BaseModel):
    """Settings of `zero_shot`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    calibration: Literal["auto", "on", "off"] = Field(
        "auto", description="Contextual calibration; auto = as Tuning says."
    )


class ZeroShot(Prompted):
    name = "zero_shot"
    citation = "Zhao et al. 2021, Calibrate Before Use (contextual calibration)"
    Settings = ZeroShotSettings
    varies = False

    def search(self, ctx: SearchContext, settings: ZeroShotSettings) -> Parts:
        parts, _ = ctx.calibrated(Parts(Prompt(ctx.instruction), ctx.decode), settings.calibration)
        return parts
