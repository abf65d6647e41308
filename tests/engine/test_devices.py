"""What an accelerator lacks or wants otherwise, on a machine without one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from tailorbird.answerers.opening import environment
from tailorbird.engine.divergence import Walk, divergences
from tailorbird.engine.model import Model
from tailorbird.engine.probe import ROUNDS, probe
from tailorbird.engine.scoring import Trie, log_probabilities, score_labels

ROWS = [([5, 6, 7, 8], [False, False, True, True]), ([9, 5, 6], [False, True, True])]


class OnMps(Tensor):
    """Stands on MPS: what is computed from it does, too, and is never float64."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = super().__torch_function__(func, types, args, kwargs or {})
        if func is Tensor.cpu:
            with torch._C.DisableTorchFunctionSubclass():
                return found.as_subclass(Tensor)
        if isinstance(found, cls) and found.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
        return found


def figures(model: Model) -> list[Any]:
    trie = Trie.of([[6, 7], [6, 8, 9], [5]])

    @contextmanager
    def attached() -> Iterator[Model]:
        yield model

    walks = [Walk((5, 6, 7, 8), 2), Walk((9, 5, 6), 1)]
    scores = score_labels(model, [[5, 6], [7, 8, 9]], trie)
    return [scores.tolist(), log_probabilities(model, ROWS), divergences(attached, attached, walks)]


def test_scores_and_divergences_take_no_float64_from_a_device_without_it(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_cpu, plain = figures(model), Model.logits
    monkeypatch.setattr(Model, "logits", lambda self, hidden: plain(self, hidden).as_subclass(OnMps))
    assert figures(model) == on_cpu


def test_logits_of_another_card_are_those_of_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    there = []
    for name in ("H100", "A10"):
        monkeypatch.setattr("tailorbird.bases.machine.card", lambda device, name=name: name)
        there.append(environment("cuda", "bfloat16", 1))
        assert "device_name" not in environment("cpu", "bfloat16", 1)
    assert there[0] != there[1] == {**there[0], "device_name": "A10"}


def test_the_probe_waits_for_the_accelerator_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[bool] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: waited.append(True))
    probe("meta", 1)
    assert len(waited) == 2 * (ROUNDS + 1)
