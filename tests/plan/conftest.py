from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tailorbird import spec as spec_module
from tailorbird import tasks
from tailorbird.plan import Facts, Lengths
from tailorbird.spec import Spec
from tailorbird.types import BaseFacts, Machine

BASE = BaseFacts(
    name="smollm2-135m", folder="/bases/smollm2-135m", fingerprint="sha256:00", parameters=134_515_008, layers=30,
    hidden_size=576, intermediate_size=1536, heads=9, kv_heads=3, head_dim=64, vocabulary=49_152, context=8192,
    tied_embeddings=True, weight_bytes=538_060_032, has_chat_template=True, model_type="llama", licence="Apache-2.0",
)  # fmt: skip
MACHINE = Machine(
    system="Linux x86_64", processor="EPYC", threads=2, memory_bytes=16 * 10**9, device="cpu", device_name="EPYC",
    device_memory_bytes=16 * 10**9, gflops={"float32": 170.0, "bfloat16": 370.0},
)  # fmt: skip
LENGTHS = Lengths(head=25, prompt=38.0, answer=4.0, longest=120, label_nodes=25)
SIZES = {"train": 240, "tuning": 40, "validation": 300, "test": 300}


def make_spec(**fields: Any) -> Spec:
    return spec_module.build({"base": "smollm2-135m", "data": "rows.csv", **fields})


def make_facts(kind: str = "classify", **changes: Any) -> Facts:
    labels = {"a": "a", "b": "b"} if kind == "classify" else {}
    lengths = LENGTHS if kind == "classify" else replace(LENGTHS, label_nodes=0)
    facts = Facts(tasks.build(kind, labels=labels), dict(SIZES), lengths, BASE, MACHINE)
    return replace(facts, **changes)


@pytest.fixture
def facts() -> Facts:
    return make_facts()
