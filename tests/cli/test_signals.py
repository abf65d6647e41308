"""The first SIGINT or SIGTERM asks for a safe point; the second ends at once. Both with exit code 5 and the command."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from tailorbird.cli.app import stop_flag
from tailorbird.errors import Interrupted

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once_and_names_the_command(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended, stop_flag("tailorbird run help.yaml") as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
        os.kill(os.getpid(), number)
    assert ended.value.code == 5
    said = capsys.readouterr().err
    assert "stopping at the next safe point (once more: at once)" in said
    assert "stopped at once; go on with: tailorbird run help.yaml" in said
    assert signal.getsignal(number) is before


def test_what_was_interrupted_says_how_to_go_on() -> None:
    with pytest.raises(Interrupted) as raised, stop_flag("tailorbird run help.yaml"):
        raise Interrupted("stopped after 3 of 9 steps")
    assert str(raised.value).splitlines()[-1] == "  → go on with: tailorbird run help.yaml"
