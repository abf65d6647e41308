"""Drift as steps of a run: the bare base's answers once for all contestants, then one KL a prompt for each of them.

Prompts that some contestant has no room for, an answer included, are left out for all, and counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tailorbird import store
from tailorbird.measure.drift import ANSWER_TOKENS, drift, drift_prompts

if TYPE_CHECKING:
    from tailorbird.running.workshop import Work, Workshop

# Raised by hand when the same inputs would give another result.
ANSWERS, DRIFT = 1, 1
PROMPTS = 20  # looked at together: fixed, so that going on gives the same figures


def drift_of(shop: Workshop, work: Work, made: dict[str, Any], get: Callable[[], Any]) -> dict[str, Any] | None:
    """`drift_kl` of comparison.json, None where there is room for no prompt at all. `made`: all that determines the
    contestant; `get` opens it.
    """
    prompts, left_out = fitting_prompts(shop)
    if not prompts:
        return None
    walks = base_answers(shop, prompts)
    step = shop.steps.step("drift", {"contestant": made, "answers": store.sha256_json(walks)}, DRIFT)
    work.keys["drift"] = step.key
    if not step.done:
        from tailorbird.engine.divergence import Walk

        step.begin()
        sums: list[float] = []
        with shop.stage(work.label, "drift", len(walks)) as progress:
            custom, base = get(), shop.open_base()
            for start in range(0, len(walks), PROMPTS):
                part = [Walk(tuple(ids), first) for ids, first in walks[start : start + PROMPTS]]
                sums += custom.kl(part, base)
                progress(len(sums), len(walks))
        step.finish(sums)
    return drift([float(v) for v in step.result()], [len(ids) - first for ids, first in walks], left_out=left_out)


def fitting_prompts(shop: Workshop) -> tuple[list[str], int]:
    """Those that fit with any contestant and an answer; and how many do not."""
    from tailorbird.types import Message, Role

    renderer, tokens = shop.material.renderer, shop.material.room.tokens - ANSWER_TOKENS
    prompts = [prompt.text for prompt in drift_prompts(fast=shop.plan.retention == "fast")]
    kept = [text for text in prompts if len(renderer.prompt([Message(Role.USER, text)])) <= tokens]
    return kept, len(prompts) - len(kept)


def base_answers(shop: Workshop, prompts: list[str]) -> list[tuple[list[int], int]]:
    """(ids, first position looked at) of each prompt with the bare base's greedy answer; made once in a run."""
    inputs = {"base": shop.compute_inputs(), "prompts": store.sha256_json(prompts), "tokens": ANSWER_TOKENS}
    step = shop.steps.step("drift answers", inputs, ANSWERS)
    if not step.done:
        from tailorbird.types import Message, Role

        step.begin()
        found: list[list[Any]] = []
        with shop.stage(None, "drift", len(prompts)) as progress:
            base = shop.open_base()
            for start in range(0, len(prompts), PROMPTS):
                asked = [(Message(Role.USER, text),) for text in prompts[start : start + PROMPTS]]
                found += [[list(w.ids), w.first] for w in base.walks(asked, max_new_tokens=ANSWER_TOKENS)]
                progress(len(found), len(prompts))
        step.finish(found)
    return [(list(ids), int(first)) for ids, first in step.result()]
