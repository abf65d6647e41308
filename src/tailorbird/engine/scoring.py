"""Log-probabilities of candidate answers under shared prompts: labels as a trie, computed once per row.

All labels of a task share beginnings ("card arrival", "card linking"): their tokens form a trie whose inner nodes are
appended once to each row's prompt, each node seeing its ancestors only (a tree-shaped attention mask). The score of a
label is the sum of the log-probabilities of its tokens and of the end of the turn; no length normalization (it moved
accuracy from 0.27 to 0.16 on the default base).

Letters: S rows, P nodes that are read (the last prompt token and N inner nodes), C (node, child) pairs, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from tailorbird.engine.model import Model
from tailorbird.engine.precision import in_float64
from tailorbird.engine.segments import KeyValues, Packed, Segments, few_sizes, pack
from tailorbird.engine.sizes import LOGIT_ROWS


@dataclass
class Trie:
    """Inner nodes in order of appearance. Node 0 is the last prompt token; nodes 1..N carry a token each."""

    tokens: list[int] = field(default_factory=list)  # of nodes 1..N
    parents: list[int] = field(default_factory=list)  # of nodes 1..N, as node numbers
    pairs: list[tuple[int, int]] = field(default_factory=list)  # (node, child token) that some label needs
    paths: list[list[int]] = field(default_factory=list)  # per label: numbers into `pairs`

    @staticmethod
    def of(labels: Sequence[Sequence[int]]) -> Trie:
        trie = Trie()
        nodes: dict[tuple[int, int], int] = {}
        pairs: dict[tuple[int, int], int] = {}
        for label in labels:
            if not label:
                raise ValueError("a label has no tokens")
            node, path = 0, []
            for place, token in enumerate(label):
                step = (node, token)
                if step not in pairs:
                    pairs[step] = len(trie.pairs)
                    trie.pairs.append(step)
                path.append(pairs[step])
                if place + 1 < len(label):
                    if step not in nodes:
                        trie.tokens.append(token)
                        trie.parents.append(node)
                        nodes[step] = len(trie.tokens)
                    node = nodes[step]
            trie.paths.append(path)
        return trie

    def depths(self) -> list[int]:
        depth = [0]
        for parent in self.parents:
            depth.append(depth[parent] + 1)
        return depth[1:]

    def ancestors(self) -> Tensor:
        """(N, N) bool: node i may attend to node j (j is i or above it; node 0 lies in the prompt)."""
        n = len(self.tokens)
        seen = torch.zeros(n, n, dtype=torch.bool)
        for i, parent in enumerate(self.parents):
            if parent:
                seen[i] = seen[parent - 1]
            seen[i, i] = True
        return seen


def lay_out(
    prompts: Sequence[Sequence[int]], trie: Trie, cached: KeyValues | None, device: torch.device
) -> tuple[Packed, Tensor]:
    """Flat batch of prompts each followed by the trie, and (S, P) flat positions of the nodes that are read."""
    context = cached.length if cached is not None else 0
    longest, n = few_sizes(max(map(len, prompts))), len(trie.tokens)
    depths = trie.depths()
    width = longest + n
    mask = torch.zeros(len(prompts), 1, width, context + width, dtype=torch.bool)
    mask[..., :context] = True
    causal = torch.ones(longest, longest, dtype=torch.bool).tril()
    mask[:, 0, :longest, context : context + longest] = causal
    seen = trie.ancestors()
    ids, positions, gather, scatter, read, starts, ends = [], [], [], [], [], [], []
    cursor = 0
    for s, prompt in enumerate(prompts):
        length = len(prompt)
        starts.append(cursor)
        ids += [*prompt, *trie.tokens]
        positions += [*range(context, context + length), *(context + length - 1 + depth for depth in depths)]
        gather.append([cursor + min(i, length - 1) for i in range(longest)] + [cursor + length + i for i in range(n)])
        scatter += [s * width + i for i in range(length)] + [s * width + longest + i for i in range(n)]
        read.append([cursor + length - 1, *range(cursor + length, cursor + length + n)])
        mask[s, 0, longest:, context : context + length] = True
        mask[s, 0, longest:, context + longest :] = seen
        cursor += length + n
        ends.append(cursor - 1)
    padding = few_sizes(cursor) - cursor
    ids += [0] * padding
    positions += [0] * padding
    segments = Segments(
        head=0,
        gather=torch.tensor(gather, device=device),
        scatter=torch.tensor(scatter, device=device),
        mask=mask.to(device),
        padding=padding,
        cached=cached,
    )
    packed = Packed(torch.tensor(ids, device=device), torch.tensor(positions, device=device), segments, starts, ends)
    return packed, torch.tensor(read, device=device)


def _log_sum_exp(logits: Tensor) -> Tensor:
    """(N, V) -> (N,) fp32, in place on one copy: at these sizes memory traffic is what costs."""
    copy = logits.to(torch.float32, copy=True)
    top = copy.amax(-1, keepdim=True)
    return copy.sub_(top).exp_().sum(-1).log_() + top[:, 0]


@torch.no_grad()
def score_labels(model: Model, prompts: Sequence[Sequence[int]], trie: Trie, cached: KeyValues | None = None) -> Tensor:
    """(S, labels) sums of log-probabilities in nats, float64 on the CPU.

    prompts: token ids behind a head (soft prompt included) whose keys are `cached`.
    """
    batch, read = lay_out(prompts, trie, cached, model.device)
    return read_labels(model, model.forward(batch), [(read, trie)])[0]


@torch.no_grad()
def read_labels(model: Model, hidden: Tensor, nodes: Sequence[tuple[Tensor, Trie]]) -> list[Tensor]:
    """hidden (T, hidden); for each trie the (S, P) places of its nodes -> its (S, labels) scores, as `score_labels`.

    The normalizers of all tries are computed together.
    """
    places = torch.cat([read.reshape(-1) for read, _ in nodes])
    places = F.pad(places, (0, few_sizes(places.numel()) - places.numel()))
    at_nodes = hidden[places]  # (all nodes and some more, hidden)
    normalizers = torch.cat([_log_sum_exp(model.logits(part)) for part in at_nodes.split(LOGIT_ROWS)])
    scores, start = [], 0
    for read, trie in nodes:
        own = slice(start, start + read.numel())
        start += read.numel()
        own_hidden = at_nodes[own].view(*read.shape, -1)  # (S, P, hidden)
        scores.append(_sums(model, own_hidden, normalizers[own].view(read.shape), trie))
    return scores


def _sums(model: Model, hidden: Tensor, normalizers: Tensor, trie: Trie) -> Tensor:
    """hidden (S, P, hidden) and normalizers (S, P) of the nodes of one trie -> (S, labels)."""
    nodes = torch.tensor([node for node, _ in trie.pairs], device=model.device)
    children = torch.tensor([token for _, token in trie.pairs], device=model.device)
    # The wanted logits themselves in fp32, whatever the compute dtype: a bf16 logit near 20 is only good to 0.06.
    weight = model.output.weight[children].float()  # type: ignore[union-attr, index]
    logits = torch.einsum("sch,ch->sc", hidden.float()[:, nodes], weight)
    bias = getattr(model.output, "bias", None)
    if bias is not None:
        logits = logits + bias[children].float()
    log_probabilities = in_float64(logits - normalizers[:, nodes])  # (S, C)
    return torch.stack([log_probabilities[:, path].sum(1) for path in trie.paths], dim=1)


Marked = tuple[Sequence[int], Sequence[bool]]
"""Token ids of a row, and which of them are to be scored."""


@torch.no_grad()
def log_probabilities(model: Model, rows: Sequence[Marked]) -> list[float]:
    """Sum of log p(token | before) over the marked tokens of each row (ids, marked), nats. Token 0 cannot be marked
    unless a soft prompt stands before it."""
    batch = pack([ids for ids, _ in rows], soft=model.virtual_tokens, pairs=model.pairs, device=model.device)
    return read_marked(model, model.forward(batch), rows, batch.starts, before=model.virtual_tokens - 1)


@torch.no_grad()
def read_marked(
    model: Model, hidden: Tensor, rows: Sequence[Marked], starts: Sequence[int], before: int = -1
) -> list[float]:
    """`log_probabilities` of rows that begin at `starts` of hidden (T, hidden). `before`: the place that predicts the
    first token of every row; negative where there is none."""
    places, targets, owner = [], [], []
    for number, ((ids, marked), start) in enumerate(zip(rows, starts, strict=True)):
        for i, wanted in enumerate(marked):
            if wanted:
                if i == 0 and before < 0:
                    raise ValueError("the first token of a row has nothing before it and cannot be scored")
                places.append(start + i - 1 if i else before)
                targets.append(ids[i])
                owner.append(number)
    sums = [0.0] * len(rows)
    for start in range(0, len(places), LOGIT_ROWS):
        stop = start + LOGIT_ROWS
        logits = model.logits(hidden[torch.tensor(places[start:stop], device=model.device)]).float()
        target = torch.tensor(targets[start:stop], device=model.device)
        picked = in_float64(torch.log_softmax(logits, -1).gather(1, target.unsqueeze(1))[:, 0]).tolist()
        for value, number in zip(picked, owner[start:stop], strict=True):
            sums[number] += value
    return sums


@torch.no_grad()
def top_logits(model: Model, ids: Sequence[int], count: int = 32) -> tuple[list[int], list[float]]:
    """The `count` largest logits (fp32) after a prompt, one row alone: token ids and values."""
    batch = pack([list(ids)], soft=model.virtual_tokens, pairs=model.pairs, device=model.device)
    logits = model.logits(model.forward(batch)[batch.ends[0]].unsqueeze(0))[0].float()
    values, places = logits.topk(min(count, logits.shape[0]))
    return places.tolist(), values.tolist()
