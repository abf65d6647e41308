"""What `check` and `run --dry-run` say of a machine with an accelerator: the plan of the run, or that nobody looked."""

from __future__ import annotations

from typing import Any

import pytest

from tailorbird import spec as specs
from tailorbird.bases import machine as machines
from tailorbird.checking import NOT_LOOKED, plan_of
from tailorbird.cli import making
from tailorbird.plan import Plan
from tailorbird.running.material import read_material

from .conftest import World

CARD = 80 * 10**9


@pytest.fixture(params=["auto", "cuda"])
def asked(request: pytest.FixtureRequest, world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A machine with a card of 80 GB and less memory of its own, where the probe must not run."""
    monkeypatch.setattr(machines, "accelerator_possible", lambda: True)
    monkeypatch.setattr(machines, "torch_device", lambda device: ("cuda", "Some GPU", CARD))
    monkeypatch.setattr(machines, "memory", lambda: 10**9)
    monkeypatch.setattr("tailorbird.running.machine.probed", lambda machine: pytest.fail("probed"))
    world.write("[zero_shot, lora]", device=request.param)
    return world


def plan(world: World, **how: Any) -> Plan:
    spec = specs.load(world.spec_path)
    return plan_of(spec, read_material(spec), **how)


def test_a_dry_run_looks_at_the_accelerator(asked: World) -> None:
    found = plan(asked, look=True)
    assert (found.device, found.memory_bytes, found.micro_batch_tokens) == ("cuda", CARD, 16384)
    assert NOT_LOOKED not in found.notes


def test_check_says_that_it_did_not_look_and_takes_no_host_memory_for_a_card_s(asked: World) -> None:
    found = plan(asked)
    assert found.notes[-1] == NOT_LOOKED
    named = specs.load(asked.spec_path).device == "cuda"
    assert (found.device, found.memory_bytes) == (("cuda", 0) if named else ("cpu", 10**9))
    assert found.entrant("lora").state == "planned" and found.entrant("lora").micro_batch_tokens


def test_where_no_accelerator_can_be_nothing_is_said_of_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "accelerator_possible", lambda: False)
    world.write("[zero_shot, lora]")
    assert NOT_LOOKED not in plan(world).notes


def test_the_command_with_dry_run_looks_and_check_does_not(
    asked: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    making.run(asked.spec_path, dry_run=True)
    assert "cuda, float32" in capsys.readouterr().out
    making.check(str(asked.spec_path))
    assert "was not looked at" in capsys.readouterr().out
