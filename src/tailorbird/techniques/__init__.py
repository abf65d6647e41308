"""The shelf of techniques. Importing it loads no torch; a technique is a class in a file, listed here."""

from __future__ import annotations

import importlib

from tailorbird.errors import SpecError
from tailorbird.techniques.base import Technique

TABLE = {
    "zero_shot": "tailorbird.techniques.zero_shot:ZeroShot",
    "few_shot": "tailorbird.techniques.few_shot:FewShot",
    "prompt_tuning": "tailorbird.techniques.prompt_tuning:PromptTuning",
    "p_tuning": "tailorbird.techniques.p_tuning:PTuning",
    "prefix_tuning": "tailorbird.techniques.prefix_tuning:PrefixTuning",
    "lora": "tailorbird.techniques.lora:Lora",
    "peft": "tailorbird.techniques.peft_method:PeftMethod",
    "selective": "tailorbird.techniques.selective:Selective",
    "sft": "tailorbird.techniques.sft:Sft",
}
NAMES = tuple(TABLE)


def get(name: str) -> Technique:
    """The technique of that name, or a user's own as a dotted path `package.module:Class`."""
    target = TABLE.get(name, name if ":" in name else None)
    if target is None:
        raise SpecError(f"unknown technique {name!r}", remedy=f"one of {', '.join(NAMES)}, or package.module:Class")
    module, _, attribute = target.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise SpecError(f"technique {name!r} cannot be imported: {error}") from error
    technique: Technique = found()
    return technique
