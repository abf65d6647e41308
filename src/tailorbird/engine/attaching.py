"""A customization's parts put into a base in memory and taken out again, leaving every byte of the base as it was.

Low-rank layers wrap linear layers; a delta takes the place of a parameter's tensor, which is laid aside, not
overwritten. So what comes back is the base itself, not a copy of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tailorbird.artifacts.parts import Parts, PeftAdapter
from tailorbird.engine import low_rank
from tailorbird.engine.model import Model
from tailorbird.errors import ArtifactError

if TYPE_CHECKING:
    from tailorbird.engine.peft_layers import PeftLayers


class Attachment:
    """The parts of one customization, ready for one model. ArtifactError where a tensor does not fit, by name.

    A low-rank update is held as it is computed with, in the model's type with the scale in B; `learns`: as it is stored
    and trained, in fp32.
    """

    def __init__(self, model: Model, parts: Parts, *, learns: bool = False) -> None:
        self.model, device = model, model.device
        self.soft = None if parts.soft is None else _fitting_soft(model, parts.soft).to(device)
        self.kv = None if parts.kv is None else _fitting_kv(model, parts.kv).to(device)
        self.update: dict[str, tuple[Tensor, Tensor]] = {}
        self.scale = 0.0
        if parts.low_rank is not None:
            _fit_low_rank(model.network, parts)
            self.scale = scale = parts.low_rank.scale
            pairs = {name: (a.to(device), b.to(device)) for name, (a, b) in parts.low_rank.tensors.items()}
            if not learns:
                pairs = {name: (a.to(model.dtype), (b * scale).to(model.dtype)) for name, (a, b) in pairs.items()}
                self.scale = 1.0
            self.update = pairs
        self.values = _fitting_values(model.network, parts)
        self.peft = None if parts.peft is None else _peft_layers(model.network, parts.peft)
        self._undo: list[Callable[[], object]] = []

    def put(self) -> None:
        """In place. New low-rank layers ask for gradients, as new parameters do."""
        for parameter, value in self.values:
            self._undo.append(_swapped(parameter, value))
        if self.update:
            self._undo.append(low_rank.wrap(self.model.network, self.update, self.scale))
        if self.peft is not None:
            self.peft.put()
            self._undo.append(self.peft.take)
        self.model.soft, self.model.kv = self.soft, self.kv

    def take(self) -> None:
        """Out again, the last one first."""
        self.model.soft = self.model.kv = None
        while self._undo:
            self._undo.pop()()


@torch.no_grad()
def fold(network: nn.Module, parts: Parts) -> None:
    """Delta, low-rank update and PEFT's layers added to the network's own weights, in place."""
    for parameter, value in _fitting_values(network, parts):
        parameter.copy_(value)
    if parts.low_rank is not None:
        _fit_low_rank(network, parts)
        low_rank.add(network, parts.low_rank.tensors, parts.low_rank.scale)
    if parts.peft is not None:
        _peft_layers(network, parts.peft).merge()


def _peft_layers(network: nn.Module, adapter: PeftAdapter) -> PeftLayers:
    from tailorbird.engine.peft_layers import opened

    return opened(network, adapter)


def _swapped(parameter: nn.Parameter, value: Tensor) -> Callable[[], None]:
    own = parameter.data
    parameter.data = value

    def undo() -> None:
        parameter.data = own

    return undo


def _fitting_soft(model: Model, soft: Tensor) -> Tensor:
    if soft.shape[1] != model.hidden_size:
        raise ArtifactError(f"the soft prompt is {soft.shape[1]} wide, the base {model.hidden_size}")
    return soft


def _fitting_kv(model: Model, kv: Tensor) -> Tensor:
    wanted = model.kv_shape(int(kv.shape[3]))
    if tuple(kv.shape) != wanted:
        names = ("layers", "keys and values", "heads", "pairs", "head size")
        which = next(name for name, a, b in zip(names, kv.shape, wanted, strict=True) if a != b)
        raise ArtifactError(f"the prefix is {tuple(kv.shape)}, on this base it is {wanted}: other {which}")
    return kv


def _fit_low_rank(network: nn.Module, parts: Parts) -> None:
    assert parts.low_rank is not None
    layers = dict(network.named_modules())
    for name, (a, b) in parts.low_rank.tensors.items():
        layer = layers.get(name)
        if layer is None or not low_rank.is_linear(layer):
            raise ArtifactError(f"the adapter updates {name}, which is no linear layer of this base")
        if (a.shape[1], b.shape[0]) != low_rank.sizes(layer):
            raise ArtifactError(
                f"{name}: the adapter is {a.shape[1]} -> {b.shape[0]}, the layer {low_rank.sizes(layer)}"
            )


def _fitting_values(network: nn.Module, parts: Parts) -> list[tuple[nn.Parameter, Tensor]]:
    """(parameter, its new value in the network's dtype) of a delta."""
    own, found = dict(network.named_parameters()), []
    for name, value in (parts.delta or {}).items():
        if name not in own:
            raise ArtifactError(f"the delta changes {name}, which is no parameter of this base")
        if value.shape != own[name].shape:
            raise ArtifactError(f"{name}: the delta is {tuple(value.shape)}, the base's {tuple(own[name].shape)}")
        found.append((own[name], value.detach().to(own[name], copy=True)))
    return found
