"""`limits.memory_gb` reaches the training: the micro-batch that the plan chose, and the limit itself."""

from __future__ import annotations

from typing import Any

import pytest

from tailorbird.plan import Entrant, Plan
from tailorbird.store import read_json
from tailorbird.types import JSON

from .conftest import World


def test_a_training_gets_the_micro_batch_that_the_plan_chose_and_is_made_again_when_it_changes(
    scripted: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tailorbird import customize as module

    jobs: list[Any] = []
    made = module.customize

    def customize(job: Any, out: Any) -> JSON:
        jobs.append(job)
        return made(job, out)

    monkeypatch.setattr("tailorbird.customize.customize", customize)

    def lora(limit: float | None) -> Entrant:
        limits = f"{{threads: 1, memory_gb: {limit}}}" if limit else "{threads: 1}"
        scripted.write("[{lora: {batch_rows: 64}}, zero_shot]", limits=limits)
        folder = scripted.run().folder
        return Plan.from_dict(read_json(folder / "plan.json")).entrant("lora")

    roomy = lora(None)
    tight = lora((roomy.memory_bytes - 1_000_000) / 1e9)
    assert tight.state == "planned"
    assert tight.micro_batch_tokens < roomy.micro_batch_tokens
    first, second = (job.compute for job in jobs if job.label == "lora")
    assert (first.micro_batch_tokens, second.micro_batch_tokens) == (roomy.micro_batch_tokens, tight.micro_batch_tokens)
    assert second.memory_bytes == roomy.memory_bytes - 1_000_000
    assert jobs[-1].work != jobs[0].work
