"""The machine as a plan must see it: a container's limits count, an absent device is never a silent CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailorbird.bases import machine as machines
from tailorbird.bases.machine import cores, cpu_quota, machine, memory, torch_device
from tailorbird.errors import ResourceError


def test_the_memory_of_a_container_counts(tmp_path: Path) -> None:
    whole = memory(tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    assert memory(tmp_path) == whole
    (tmp_path / "memory.max").write_text("1000000\n")
    assert memory(tmp_path) == 1_000_000


def test_the_older_control_groups_are_understood(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    limit = tmp_path / "memory" / "memory.limit_in_bytes"
    limit.write_text("9223372036854771712\n")  # how version 1 spells "no limit"
    whole = memory(tmp_path)
    limit.write_text("2000000\n")
    assert whole > memory(tmp_path) == 2_000_000
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert cpu_quota(tmp_path) is None
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("250000")
    assert cpu_quota(tmp_path) == 2.5


@pytest.mark.parametrize(
    ("text", "quota"), [("max 100000", None), ("150000 100000", 1.5), ("50000 100000", 0.5), ("x", None)]
)
def test_the_processors_of_a_container_count(tmp_path: Path, text: str, quota: float | None) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert cpu_quota(tmp_path) == quota


@pytest.mark.parametrize(("quota", "expected"), [(0.5, 1), (1.5, 2), (3.0, 3), (64.0, 8), (None, 8)])
def test_cores_are_physical_and_within_the_quota(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, expected: int
) -> None:
    monkeypatch.setattr(machines.os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(machines, "_physical_cores", lambda: 8)
    monkeypatch.setattr(machines, "cpu_quota", lambda: quota)
    assert cores() == expected


def test_without_a_question_about_devices_the_cpu_is_named_and_torch_left_alone() -> None:
    found = machine()
    assert (found.device, found.device_memory_bytes) == ("cpu", found.memory_bytes)
    assert found.processor == found.device_name != ""
    assert found.versions["python"]


def test_device_facts_are_taken_from_the_function_given() -> None:
    found = machine("cuda", device_facts=lambda asked: (asked, "Some GPU", 80))
    assert (found.device, found.device_name, found.device_memory_bytes) == ("cuda", "Some GPU", 80)


def test_a_device_that_is_absent_is_an_error_not_a_silent_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert torch_device("auto")[0] == "cpu"
    with pytest.raises(ResourceError, match="device 'cuda' is not available on this machine"):
        torch_device("cuda")
    with pytest.raises(ResourceError, match="device 'tpu' is not available"):
        torch_device("tpu")
