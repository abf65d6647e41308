"""`doctor --selftest`: the technique contract of every technique, on the device at hand."""

from __future__ import annotations

from typing import Any

import pytest

from tailorbird import doctoring, techniques


@pytest.mark.parametrize(("compute_type", "dtypes"), [("float32", ["float32"]), ("bfloat16", ["float32", "bfloat16"])])
def test_each_technique_is_held_to_the_contract_on_the_device_with_one_thread(
    monkeypatch: pytest.MonkeyPatch, compute_type: str, dtypes: list[str]
) -> None:
    seen: list[tuple[str, str, str, int]] = []

    def contract(technique: Any, folder: Any, *, compute: Any, **_: Any) -> None:
        seen.append((technique.name, compute.dtype, compute.device, compute.threads))

    monkeypatch.setattr("tailorbird.testing.technique_contract", contract)
    results = list(doctoring.selftest("cpu", compute_type))
    assert seen == [(name, dtype, "cpu", 1) for dtype in dtypes for name in techniques.NAMES]
    assert len({result.name for result in results}) == len(results)
    assert all(result.passed for result in results)


def test_a_broken_contract_is_told_by_technique_and_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def contract(*_: Any, **__: Any) -> None:
        raise AssertionError("learned 3 of 8 rows by heart")

    monkeypatch.setattr("tailorbird.testing.technique_contract", contract)
    first = next(iter(doctoring.selftest("cpu", "float32")))
    assert not first.passed
    assert str(first).startswith("FAILED zero_shot: AssertionError: learned 3 of 8 rows by heart (contract, line ")
