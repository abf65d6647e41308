"""Layers of the PEFT library in a base of ours: put in, filled, taken out again.

Only methods whose layers work token by token pass here: then a row among packed rows computes what it computes alone.
Names and files are PEFT's own. What PEFT would only warn of (a missing tensor, one too many) is refused by name.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tailorbird.artifacts.parts import PeftAdapter
from tailorbird.errors import ArtifactError, SpecError


@dataclass
class PeftLayers:
    """PEFT's layers by the name of the layer they wrap, not in place until `put`.

    `parameters`: what learns, under the names of PEFT's file. `fixed`: what belongs into the file and does not learn.
    `config`: the effective configuration (PEFT fills in the targets it knows for a model).
    """

    network: nn.Module
    layers: dict[str, nn.Module]
    originals: dict[str, nn.Module]
    parameters: dict[str, nn.Parameter]
    fixed: dict[str, Tensor]
    config: dict[str, Any]

    def put(self) -> None:
        self._set(self.layers)

    def take(self) -> None:
        self._set(self.originals)

    def merge(self) -> None:
        """Into the wrapped layers' own weights, in place, by PEFT's own arithmetic of each method."""
        for layer in self.layers.values():
            layer.merge()  # type: ignore[operator]

    def _set(self, layers: Mapping[str, nn.Module]) -> None:
        for name, layer in layers.items():
            parent, _, child = name.rpartition(".")
            setattr(self.network.get_submodule(parent), child, layer)


def made(network: nn.Module, config: Mapping[str, Any], seed: int) -> PeftLayers:
    """New layers as PEFT initializes them. SpecError in PEFT's words where a method cannot be had on this base."""
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _injected(network, config)
    except (ValueError, TypeError) as error:
        kind = type(network).__name__
        said = str(error).strip().splitlines()[0]
        raise SpecError(
            f"PEFT cannot do this on {kind}: {said}", remedy="name other targets, or another method"
        ) from error


def opened(network: nn.Module, adapter: PeftAdapter) -> PeftLayers:
    """The layers of an adapter, filled with its tensors. ArtifactError where one is missing, unknown or of another
    shape."""
    try:
        with torch.random.fork_rng(devices=[]):
            found = _injected(network, adapter.config)
    except (ValueError, TypeError) as error:
        said = str(error).strip().splitlines()[0]
        raise ArtifactError(f"PEFT cannot place this adapter on {type(network).__name__}: {said}") from error
    places: dict[str, Tensor] = {**found.fixed, **found.parameters}
    for name in sorted(places.keys() ^ adapter.tensors.keys()):
        raise ArtifactError(
            f"the adapter's {name} " + ("is missing" if name in places else "has no place on this base")
        )
    with torch.no_grad():
        for name, value in adapter.tensors.items():
            if value.shape != places[name].shape:
                shapes = f"{tuple(value.shape)}, the base needs {tuple(places[name].shape)}"
                raise ArtifactError(f"{name}: the adapter's is {shapes}")
            places[name].copy_(value)
    return found


def _injected(network: nn.Module, config: Mapping[str, Any]) -> PeftLayers:
    from peft import PeftModel, get_peft_model_state_dict
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.tuners.tuners_utils import BaseTunerLayer

    own = dict(network.named_modules())
    wanted = {key: value for key, value in config.items() if key != "peft_type"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what matters of them is checked below
        typed = PEFT_TYPE_TO_CONFIG_MAPPING[config["peft_type"]](**wanted)
        try:
            around = PeftModel(network, typed)
            state = get_peft_model_state_dict(around, save_embedding_layers=False)
            layers = {
                name: layer.eval()
                for name, layer in network.named_modules()
                if isinstance(layer, BaseTunerLayer) and name in own
            }
            places = {tensor.data_ptr(): name for name, tensor in state.items()}
            parameters = {
                places[p.data_ptr()]: p for p in around.parameters() if p.requires_grad and p.data_ptr() in places
            }
            buffers = {places[b.data_ptr()]: b for b in around.buffers() if b.data_ptr() in places}
        finally:
            for name, layer in own.items():
                parent, _, child = name.rpartition(".")
                if name and network.get_submodule(parent)._modules.get(child) is not layer:
                    setattr(network.get_submodule(parent), child, layer)
            if hasattr(network, "peft_config"):
                del network.peft_config
    effective = {key: _plain(getattr(typed, key)) for key in wanted}
    originals = {name: own[name] for name in layers}
    return PeftLayers(network, layers, originals, parameters, buffers, {"peft_type": config["peft_type"], **effective})


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set | list | tuple) else value
