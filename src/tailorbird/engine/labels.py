"""Which label answers a prompt: log-probabilities over a tree of the labels' tokens, the promising branches alone.

All labels of a task share beginnings ("card arrival", "card linking"): their tokens form a trie whose inner nodes are
appended to each row's prompt, each node seeing its ancestors only (a tree-shaped attention mask). The score of a label
is the sum of the log-probabilities of its tokens and of the end of the turn; no length normalization (it moved accuracy
from 0.27 to 0.16 on the default base).

No token makes a label more probable, so the sum over a label's first tokens bounds its score from above. A node is
computed only where some label behind it could still have e^-MARGIN times the probability of the best label: best-first
search with an admissible bound (Hart, Nilsson & Raphael 1968, "A Formal Basis for the Heuristic Determination of
Minimum Cost Paths"). Which label is best, and the score of every label that is not hopeless, are those of the whole
tree; a hopeless label's score is its bound where it was given up. Both depend on the row alone, not on its batch.

Letters: S rows, L labels, D tokens of the longest label, N inner nodes, C (node, child) pairs, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from tailorbird.engine.model import LOGIT_ROWS, Model
from tailorbird.engine.segments import KeyValues, Packed, Segments, few_sizes

MARGIN = 10.0  # nats: a label of less than 1/22,000 of the best one's probability is hopeless
FEW = 64  # tokens: a forward of fewer takes about as long, as it is the weights that are read
PAIRS = 4096  # whose weights are held at once
EVERYTHING = math.inf  # as a margin: no label is hopeless


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

    @property
    def size(self) -> int:
        """N"""
        return len(self.tokens)

    @cached_property
    def lines(self) -> list[list[int]]:
        """Of each node 0..N: the nodes above it and itself, without node 0, which lies in the prompt."""
        found: list[list[int]] = [[]]
        for node, parent in enumerate(self.parents, start=1):
            found.append([*found[parent], node])
        return found

    @cached_property
    def children(self) -> list[list[int]]:
        """Of each node 0..N: the nodes below it."""
        found: list[list[int]] = [[] for _ in range(self.size + 1)]
        for node, parent in enumerate(self.parents, start=1):
            found[parent].append(node)
        return found

    @cached_property
    def branches(self) -> list[list[int]]:
        """Of each node 0..N: its pairs."""
        found: list[list[int]] = [[] for _ in range(self.size + 1)]
        for number, (node, _) in enumerate(self.pairs):
            found[node].append(number)
        return found

    def children_of(self, pairs: Tensor) -> Tensor:
        """The tokens that pairs lead to."""
        return self._leads[pairs]

    @cached_property
    def _leads(self) -> Tensor:
        return torch.tensor([token for _, token in self.pairs])

    @cached_property
    def steps(self) -> tuple[Tensor, Tensor]:
        """(D, L) of each label its pairs, and the nodes that these leave from. A shorter label goes on with pair C,
        which leaves from node N + 1."""
        depth = max(map(len, self.paths))
        pairs = torch.tensor([[*path, *[len(self.pairs)] * (depth - len(path))] for path in self.paths]).t()
        nodes = torch.tensor([*(node for node, _ in self.pairs), self.size + 1])
        return pairs, nodes[pairs]


@dataclass
class Chosen:
    """scores (S, L), nats, float64 on the CPU; tokens (S,): the nodes that they needed."""

    scores: Tensor
    tokens: list[int]


class LabelSearch:
    """The labels of prompts (token ids behind a head whose keys are `cached`), a few nodes of their tree at a time.

    `next` lays out what is to be computed, `read` takes what came of it; when `next` has nothing more, `chosen` is it.
    shifts: (kinds, L) nats that are subtracted from scores before labels are compared: none is given up that could be
    the best, or near it, under one of them. margin: how far from the best a label is hopeless.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        trie: Trie,
        cached: KeyValues | None = None,
        *,
        shifts: Tensor | None = None,
        margin: float = MARGIN,
        device: torch.device | str = "cpu",
    ) -> None:
        if any(not prompt for prompt in prompts):
            raise ValueError("every row needs at least one token behind the shared head")
        self.prompts, self.trie, self.cached, self.margin, self.device = prompts, trie, cached, margin, device
        self.shifts = torch.zeros(1, len(trie.paths), dtype=torch.float64) if shifts is None else shifts.double()
        self.own: KeyValues | None = None  # of every row (S, G, columns, D)
        self.columns: list[dict[int, int]] = [{} for _ in prompts]  # where the nodes of each row lie in it
        rows = len(prompts)
        self.steps = torch.zeros(rows, len(trie.pairs) + 1, dtype=torch.float64)  # log-probability of each pair
        self.known = torch.zeros(rows, trie.size + 2, dtype=torch.bool)  # nodes whose pairs are known
        self.known[:, -1] = True
        self._record = KeyValues()
        self._laid: list[tuple[int, int, int]] = []  # (row, node, flat place) of what is being computed

    def next(self, most: int) -> Packed | None:
        """The next tokens, nodes for about `most` of them; None when all that is needed is known."""
        begun = self.own is not None
        wanted = self._wanted(most) if begun else self._at_first(most)
        if begun and not any(wanted):
            return None
        context = 0 if self.cached is None else self.cached.length
        before = self.own.length if self.own is not None else 0
        prompts = [() if begun else prompt for prompt in self.prompts]
        longest = 0 if begun else few_sizes(max(map(len, prompts)))
        nodes = few_sizes(max(map(len, wanted)))
        width, start = longest + nodes, context + before  # columns: [head | what is known of the row | prompt | nodes]
        seen = torch.zeros(len(prompts), 1, width, start + width, dtype=torch.bool)
        seen[..., :context] = True
        seen[:, 0, :longest, start : start + longest] = torch.ones(longest, longest, dtype=torch.bool).tril()
        ids: list[int] = []
        positions: list[int] = []
        gather: list[list[int]] = []
        scatter: list[int] = []
        starts: list[int] = []
        ends: list[int] = []
        for row, (prompt, own) in enumerate(zip(prompts, wanted, strict=True)):
            at, there, length = len(ids), len(ids) + len(prompt), len(self.prompts[row])
            ids += [*prompt, *(self.trie.tokens[node - 1] for node in own)]
            positions += range(context, context + len(prompt))
            positions += [context + length - 1 + len(self.trie.lines[node]) for node in own]
            gather.append([*(at + min(i, len(prompt) - 1) for i in range(longest)), *range(there, there + nodes)])
            scatter += [row * width + i for i in (*range(len(prompt)), *range(longest, longest + len(own)))]
            columns = self.columns[row]
            columns.update((node, start + longest + place) for place, node in enumerate(own))
            seen[row, 0, longest:, context : context + length] = True
            for place, node in enumerate(own, start=longest):
                seen[row, 0, place, [columns[above] for above in self.trie.lines[node]]] = True
            self._laid += [] if begun else [(row, 0, there - 1)]
            self._laid += [(row, node, there + place) for place, node in enumerate(own)]
            starts.append(at)
            ends.append(len(ids) - 1)
        self._record = KeyValues()
        padding = few_sizes(len(ids)) - len(ids)
        segments = Segments(
            head=0,
            gather=torch.tensor(gather, device=self.device).clamp_(max=len(ids) - 1),
            scatter=torch.tensor(scatter, device=self.device),
            mask=seen.to(self.device),
            padding=padding,
            cached=self.cached,
            own=self.own,
            record=self._record,
        )
        tokens, places = (torch.tensor([*x, *[0] * padding], device=self.device) for x in (ids, positions))
        return Packed(tokens, places, segments, starts, ends)

    def places(self) -> list[int]:
        """Of the nodes of the last `next`, in its flat sequence."""
        return [place for _, _, place in self._laid]

    def read(self, model: Model, hidden: Tensor, normalizers: Tensor) -> None:
        """hidden (nodes of the last `next`, hidden) and log sum exp of their logits (nodes,)."""
        laid, self._laid, self.own = self._laid, [], self._record
        numbers = [(n, row, pair) for n, (row, node, _) in enumerate(laid) for pair in self.trie.branches[node]]
        for start in range(0, len(numbers), PAIRS):
            which, rows, pairs = torch.tensor(numbers[start : start + PAIRS]).unbind(1)
            tokens, which = self.trie.children_of(pairs).to(model.device), which.to(model.device)
            # The wanted logits in fp32, whatever the compute dtype: a bf16 logit near 20 is only good to 0.06.
            weight = model.output.weight[tokens].float()  # type: ignore[union-attr, index]
            logits = torch.linalg.vecdot(hidden[which].float(), weight)
            if (bias := getattr(model.output, "bias", None)) is not None:
                logits = logits + bias[tokens].float()
            self.steps[rows, pairs] = (logits - normalizers[which]).double().cpu()
        rows, nodes = torch.tensor([(row, node) for row, node, _ in laid]).unbind(1)
        self.known[rows, nodes] = True

    def chosen(self) -> Chosen:
        scores, needed = self._walk()
        return Chosen(scores, needed[:, 1:-1].sum(1).tolist())

    def _walk(self) -> tuple[Tensor, Tensor]:
        """(S, L) what bounds each label from above, as far as nodes that are needed are known, and (S, N + 2) which
        nodes are needed: those of labels that are not hopeless there."""
        pairs, nodes = self.trie.steps
        together = self.known[:, nodes].cumprod(1)  # (S, D, L)
        bounds = (self.steps[:, pairs] * together).sum(1)
        top = (bounds.unsqueeze(1) - self.shifts).amax(2, keepdim=True)  # (S, kinds, 1)
        value, reached = torch.zeros_like(bounds), torch.ones_like(bounds, dtype=torch.bool)
        needed = torch.zeros_like(self.known)
        for pair, node in zip(pairs, nodes, strict=True):
            hopeless = (value.unsqueeze(1) - self.shifts) < top - self.margin  # what is no number never is
            hopeful = ~hopeless.all(1) & reached
            needed |= torch.zeros_like(needed, dtype=torch.int).index_add_(1, node, hopeful.int()) > 0
            reached = reached & needed[:, node] & self.known[:, node]
            value = value + torch.where(reached, self.steps[:, pair], 0.0)
        return value, needed

    def _at_first(self, most: int) -> list[list[int]]:
        """The whole tree beside the prompts where that costs nothing, or where it will be needed."""
        size = len(self.prompts) * self.trie.size
        whole = size <= FEW or (self.margin == EVERYTHING and size <= most)
        return [list(range(1, self.trie.size + 1)) if whole else [] for _ in self.prompts]

    def _wanted(self, most: int) -> list[list[int]]:
        """Nodes of each row: the needed ones, up to `most`; where they are few, nodes behind them, which may be needed
        next."""
        _, needed = self._walk()
        found: list[list[int]] = [[] for _ in self.prompts]
        for row, node in (needed & ~self.known).nonzero()[:most].tolist():
            found[row].append(node)
        room = FEW - sum(map(len, found))
        for own in found:
            for node in own:  # which grows
                behind = self.trie.children[node][: max(0, room)]
                own += behind
                room -= len(behind)
        return found


def read(model: Model, hidden: Tensor, searches: Sequence[tuple[LabelSearch, int]]) -> None:
    """Hand hidden (T, hidden) to the searches whose tokens begin at the places that are given. The normalizers of all
    are computed together."""
    if not searches:
        return
    places = [at + place for search, at in searches for place in search.places()]
    padded = torch.tensor([*places, *[0] * (few_sizes(len(places)) - len(places))], device=model.device)
    at_nodes = hidden[padded]
    normalizers = torch.cat([_log_sum_exp(model.logits(part)) for part in at_nodes.split(LOGIT_ROWS)])
    start = 0
    for search, _ in searches:
        own = slice(start, start + len(search.places()))
        start = own.stop
        search.read(model, at_nodes[own], normalizers[own])


@torch.no_grad()
def score_labels(
    model: Model,
    prompts: Sequence[Sequence[int]],
    trie: Trie,
    cached: KeyValues | None = None,
    *,
    margin: float = EVERYTHING,
    most: int = 4096,
) -> Tensor:
    """(S, L) sums of log-probabilities in nats, float64 on the CPU.

    prompts: token ids behind a head (soft prompt included) whose keys are `cached`. most: nodes of one forward.
    """
    search = LabelSearch(prompts, trie, cached, margin=margin, device=model.device)
    while (batch := search.next(most)) is not None:
        read(model, model.forward(batch), [(search, 0)])
    return search.chosen().scores


def _log_sum_exp(logits: Tensor) -> Tensor:
    """(N, V) -> (N,) fp32, in place on one copy: at these sizes memory traffic is what costs."""
    copy = logits.to(torch.float32, copy=True)
    top = copy.amax(-1, keepdim=True)
    return copy.sub_(top).exp_().sum(-1).log_() + top[:, 0]
