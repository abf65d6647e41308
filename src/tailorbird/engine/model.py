"""A base in memory: embeddings in, hidden states out, logits only where they are read.

Knows tensors and structure; nothing of text, tasks or files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tailorbird import store
from tailorbird.bases.facts import window
from tailorbird.engine.attention import CHOOSE, register
from tailorbird.engine.dropout import Dropout
from tailorbird.engine.kernels.cross_entropy import CrossEntropy
from tailorbird.engine.kernels.layers import Layer, compare, install, own_forwards
from tailorbird.engine.kernels.table import look_up
from tailorbird.engine.precision import at_least_float32
from tailorbird.engine.segments import DecodeStep, KeyValues, Packed, Segments, Several, Windows, pack
from tailorbird.engine.sizes import LOSS_ROWS
from tailorbird.errors import ResourceError
from tailorbird.types import BaseFacts

TESTED_TOKENS = 40  # of the self-test's longest row
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


class Model:
    """A transformers causal model whose attention is ours. `hidden_states` is the one way through it."""

    def __init__(self, network: Any, *, device: str = "cpu", verify: bool = True) -> None:
        self.network = network.to(device)
        self.network.eval()
        self.network.set_attn_implementation(register())
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)
        self.device = torch.device(device)
        self.body: nn.Module = self.network.base_model
        self.embeddings: nn.Module = self.network.get_input_embeddings()
        self.output: nn.Module = self.network.get_output_embeddings()
        self.soft: Tensor | None = None  # (virtual tokens, hidden) put before every head
        # While it is trained an encoder may make it anew in each forward, from the dropout keys of its tokens.
        self.soft_encoder: Callable[[Tensor | None], Tensor] | None = None
        self.kv: Tensor | None = None  # (layers, 2, G, pairs, D): keys and values before all tokens, after rotation
        self.dropout = Dropout(0.0)
        self.kernels = install(self.network)
        self.window = self._window()  # tokens that the layer which sees least looks back at; None where all see all
        on_cpu = self.device.type == "cpu"  # elsewhere transformers' own layers run
        self.doubted = self.check_kernels() if self.kernels and on_cpu else []
        if verify:
            self.self_test()

    @property
    def embedding_weight(self) -> Tensor:
        """(vocabulary, hidden)"""
        weight = self.embeddings.weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding_weight.dtype

    @property
    def hidden_size(self) -> int:
        return int(self.embedding_weight.shape[1])

    @property
    def vocabulary(self) -> int:
        return int(self.embedding_weight.shape[0])

    @property
    def virtual_tokens(self) -> int:
        return 0 if self.soft is None else int(self.soft.shape[0])

    @property
    def pairs(self) -> int:
        """Pairs of the key/value prefix: they take the first positions, before the virtual tokens."""
        return 0 if self.kv is None else int(self.kv.shape[3])

    def kv_shape(self, pairs: int) -> tuple[int, ...]:
        """(layers, 2, G, pairs, D) of a prefix on this base."""
        config = self.network.config
        heads = int(config.num_attention_heads)
        size = getattr(config, "head_dim", None) or self.hidden_size // heads
        return len(self.layers), 2, int(getattr(config, "num_key_value_heads", None) or heads), pairs, int(size)

    def prefix(self) -> KeyValues | None:
        return None if self.kv is None else KeyValues.of(self.kv.to(self.dtype))

    def embed(self, batch: Packed) -> Tensor:
        """(1, T, hidden): token embeddings, the soft prompt before the head unless the head is cached."""
        embedded = self._looked_up(batch.ids)
        if self.soft is not None and isinstance(batch.segments, Segments) and batch.segments.cached is None:
            soft = self.soft if self.soft_encoder is None else self.soft_encoder(batch.soft_keys)
            embedded = torch.cat([soft.to(embedded.dtype), embedded], dim=0)
        return embedded.unsqueeze(0)

    def check_context(self, base: BaseFacts) -> None:
        """Rows are admitted by the facts of the base, before anything is loaded: ResourceError where these allow more
        than the layers do."""
        if self.window is not None and self.window < base.context:
            raise ResourceError(
                f"layers of this base see a window of {self.window} tokens, of which its config.json says nothing: the "
                f"context would be {base.context}",
                where=base.folder,
                remedy=f'write "sliding_window": {self.window} into its config.json, or choose another base',
            )

    @torch.no_grad()
    def _window(self) -> int | None:
        """Asked of the layers themselves: what a config leaves out, its class fills in. A window that is in the masks
        alone (chunks) is in the config."""
        asked, place = Windows(), torch.zeros(1, dtype=torch.long, device=self.device)
        self._through(self.embeddings(place).unsqueeze(0), place, asked)
        named = window(self.network.config.to_dict())
        return min([*asked.found, *([] if named is None else [named])], default=None)

    def _looked_up(self, ids: Tensor) -> Tensor:
        """(N,) -> (N, hidden)."""
        table = self.embeddings
        if type(table) is nn.Embedding and table.max_norm is None and not table.scale_grad_by_freq:
            return look_up(table.weight, ids, table.padding_idx)
        found: Tensor = table(ids)
        return found

    def hidden_states(self, embedded: Tensor, positions: Tensor, segments: Segments | DecodeStep | Several) -> Tensor:
        """embedded (1, T, hidden), positions (T,) -> final hidden states (T, hidden).

        Raises ResourceError for a row that is longer than the attention window of a layer: see `BaseFacts.context`."""
        if self.window is not None and (longest := int(positions.max()) + 1) > self.window:
            raise ResourceError(
                f"a row of {longest} tokens is longer than the sliding window of {self.window} tokens that layers of "
                "this base see",
                where=type(self.network).__name__,
                remedy="shorten the rows or choose a base without a sliding window; windows are not computed here",
            )
        return self._through(embedded, positions, segments)

    def _through(
        self, embedded: Tensor, positions: Tensor, segments: Segments | DecodeStep | Several | Windows
    ) -> Tensor:
        store.fault("forward")
        result = self.body(
            inputs_embeds=embedded,
            position_ids=positions.unsqueeze(0),
            attention_mask=None,
            use_cache=False,
            segments=segments,
        )
        states: Tensor = result.last_hidden_state[0]
        return states

    def forward(self, batch: Packed, places: Tensor | None = None) -> Tensor:
        """Final hidden states (T, hidden), or those at `places` (N,) alone, which can be had for less."""
        structure = batch.segments
        if isinstance(structure, Segments):
            prefix = self.prefix() if structure.cached is None else None
            structure = replace(structure, prefix=prefix, wanted=places)
        with self.dropout.over(batch.keys):
            embedded = self.dropout.embedded(self.embed(batch))
            hidden = self.hidden_states(embedded, batch.positions, structure)
        return hidden if places is None or len(hidden) < embedded.shape[1] else hidden[places]

    def drop_out(self, rate: float) -> None:
        """Dropout in the forwards of batches that carry keys: those of training steps."""
        self.dropout = Dropout(rate)
        self.dropout.place(self.network)

    def recompute_layers(self) -> None:
        """Activation checkpointing (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", §3): of each
        decoder layer only the input is kept, the layer is computed again in the backward pass. A third more time."""
        for layer in self.layers:
            layer.forward = self._recomputed(layer.forward)

    def _recomputed(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def again(*args: Any, **kwargs: Any) -> Any:
            if not torch.is_grad_enabled():
                return forward(*args, **kwargs)
            keys = self.dropout.keys

            def layer(*args: Any, **kwargs: Any) -> Any:
                with self.dropout.over(keys):  # in the backward pass no forward is running
                    return forward(*args, **kwargs)

            return checkpoint(layer, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

        return again

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder layers, first to last."""
        count = self.network.config.num_hidden_layers
        for module in self.body.modules():
            if isinstance(module, nn.ModuleList) and len(module) == count:
                return module
        raise ResourceError(f"the {count} decoder layers were not found", where=type(self.network).__name__)

    def logits(self, hidden: Tensor) -> Tensor:
        """(N, hidden) -> (N, vocabulary) in the compute dtype."""
        result: Tensor = self.output(hidden)
        return result

    def cross_entropy(
        self, hidden: Tensor, targets: Tensor, weights: Tensor | None = None, smoothing: float = 0.0
    ) -> Tensor:
        """Sum over positions of -log p(target), fp32. hidden (N, hidden), targets (N,). Chunked over positions so
        that the logits of long answers are never held at once.

        smoothing: share of the target spread evenly over the vocabulary (Szegedy et al. 2016, "Rethinking the Inception
        Architecture for Computer Vision", §7)."""

        if type(self.output) is not nn.Linear:  # its own arithmetic: autograd knows it
            losses = F.cross_entropy(
                at_least_float32(self.logits(hidden)), targets, reduction="none", label_smoothing=smoothing
            )
            return losses.sum() if weights is None else (losses * weights.to(losses.dtype)).sum()
        weight: Tensor = self.output.weight
        bias: Tensor | None = self.output.bias
        if not torch.is_grad_enabled():  # a Function hears that parameters ask for gradients even then
            weight, bias = weight.detach(), None if bias is None else bias.detach()
        made: Tensor = CrossEntropy.apply(hidden, weight, bias, targets, weights, smoothing, LOSS_ROWS)
        return made

    @torch.no_grad()
    def cache_head(self, head: Sequence[int]) -> KeyValues | None:
        """Keys and values of prefix, soft prompt and shared head, computed once for many batches; None without any."""
        length, pairs, prefix = self.virtual_tokens + len(head), self.pairs, self.prefix()
        if not length:
            return prefix
        record = KeyValues()
        places = torch.arange(length, device=self.device)
        segments = Segments(
            head=0,
            gather=places.unsqueeze(0),
            scatter=places,
            mask=torch.ones(length, pairs + length, dtype=torch.bool, device=self.device).tril(pairs),
            prefix=prefix,
            record=record,
        )
        embedded = self.embeddings(torch.tensor(list(head), dtype=torch.long, device=self.device))
        if self.soft is not None:
            embedded = torch.cat([self.soft.to(embedded.dtype), embedded], dim=0)
        self.hidden_states(embedded.unsqueeze(0), places + pairs, segments)
        return record if prefix is None else prefix.then(record)

    @torch.no_grad()
    def check_kernels(self) -> list[Layer]:
        """Compare our layers with transformers' own on packed rows; those that agree are used from now on, the others
        are returned."""
        head, *own = [
            [i % max(2, self.vocabulary - 4) + 3 for i in part] for part in (range(3), range(3, 10), range(4, 7))
        ]
        batch = pack(own, head=head, device=self.device)
        return compare(self.kernels, lambda: self.hidden_states(self.embed(batch), batch.positions, batch.segments))

    @torch.no_grad()
    def self_test(self) -> None:
        """Packed rows behind a shared head must give the logits of transformers' own attention on single rows.

        Fails for models that mix tokens outside attention or scale their logits: refused rather than measured wrongly.
        """
        if getattr(self.network.config, "final_logit_softcapping", None):
            raise ResourceError(
                "the logits of this base are soft-capped, which is not computed here",
                where=type(self.network).__name__,
                remedy=CHOOSE,
            )
        room = min(self.window or TESTED_TOKENS, TESTED_TOKENS)
        tokens = [5 + 7 * i % max(1, self.vocabulary - 5) for i in range(room)]
        cut = max(1, room // 4)
        head, rows = tokens[:cut], [tokens[cut:], tokens[cut : cut + 1], tokens[cut // 2 : room // 2]]
        batch = pack(rows, head=head, device=self.device)
        before, (self.soft, self.kv) = (self.soft, self.kv), (None, None)
        with own_forwards(self.kernels):  # whose rounding is that of the single rows
            hidden = self.forward(batch)
        self.soft, self.kv = before
        for row, end, own in zip(rows, batch.ends, self._eager([head + row for row in rows]), strict=True):
            ours = self.logits(hidden[end].unsqueeze(0))[0].float()
            scale = float(own.abs().max()) + 1e-6
            tolerance = 1e-3 if self.dtype != torch.bfloat16 else 0.06
            difference = float((own - ours).abs().max()) / scale
            if not difference <= tolerance:
                raise ResourceError(
                    f"packed rows differ from single rows on this model by {difference:.2g} of its largest logit, in a "
                    f"row of {len(head) + len(row)} tokens",
                    where=type(self.network).__name__,
                    remedy="models that mix tokens outside attention (state space, convolution), attend in another way "
                    f"or rescale their logits are not supported yet; {CHOOSE}",
                )

    def _eager(self, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        """Logits (vocabulary,) fp32 at the end of each row, by transformers' plain attention under its own masks."""
        self.network.set_attn_implementation("eager")
        try:
            ids = [torch.tensor([row], device=self.device) for row in rows]
            return [self.network(input_ids=one, use_cache=False).logits[0, -1].float() for one in ids]
        finally:
            self.network.set_attn_implementation(register())
