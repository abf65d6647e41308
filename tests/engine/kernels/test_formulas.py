"""Each formula written by hand against its plain form, values and gradients, in double precision."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from tailorbird.engine.kernels import blocks, norm, rotary, rows
from tailorbird.engine.kernels.cross_entropy import CrossEntropy
from tailorbird.engine.kernels.linear import Linear
from tailorbird.engine.segments import few_sizes, pack

HEADS, GROUPS, SIZE, HIDDEN, INNER = 4, 2, 6, 8, 5
EPS = 1e-5


def random(*shape: int, seed: int = 0, scale: float = 0.5) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 31 * sum(shape))
    return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_(True)


# --- plain forms -----------------------------------------------------------------------------------------


def plain_norm(x: Tensor, weight: Tensor) -> Tensor:
    return weight * x / (x.pow(2).mean(-1, keepdim=True) + EPS).sqrt()


def plain_linear(x: Tensor, layer: Linear) -> Tensor:
    y = x @ layer.weight.T + (0 if layer.bias is None else layer.bias)
    return y if layer.a is None or layer.b is None else y + layer.scale * (x @ layer.a.T @ layer.b.T)


def plain_rotation(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pair (i, i + D/2) of every head, element by element."""
    x = x.reshape(len(x), -1, SIZE)
    turned = torch.empty_like(x)
    half = SIZE // 2
    for i in range(half):
        turned[..., i] = x[..., i] * cos[..., i] - x[..., i + half] * sin[..., i]
        turned[..., i + half] = x[..., i + half] * cos[..., i] + x[..., i] * sin[..., i]
    return turned.reshape(len(x), -1)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, lengths: list[int], head: int) -> Tensor:
    """Token by token and head by head: a token sees the shared head and its own row up to itself."""
    outputs = torch.zeros(len(q), HEADS, SIZE, dtype=q.dtype)
    q, k, v = (x.view(len(x), -1, SIZE) for x in (q, k, v))
    seen = {t: list(range(t + 1)) for t in range(head)}
    start = head
    for length in lengths:
        for t in range(start, start + length):
            seen[t] = [*range(head), *range(start, t + 1)]
        start += length
    for (t, keys), h in itertools.product(seen.items(), range(HEADS)):
        group = h // (HEADS // GROUPS)
        weights = torch.softmax(k[keys, group] @ q[t, h], 0)
        outputs[t, h] = weights @ v[keys, group]
    return outputs.view(len(outputs), -1)


def packed_plan(lengths: list[int], head: int, groups: int = GROUPS) -> rows.Plan:
    batch = pack([[1] * length for length in lengths], head=[1] * head)
    assert batch.segments.plain
    return rows.plan(batch.segments, len(batch.ids), HEADS, groups, SIZE, torch.float64)


# --- the parts -------------------------------------------------------------------------------------------


def test_a_norm_of_numbers_worked_out_by_hand() -> None:
    x, weight = torch.tensor([[3.0, 4.0]]), torch.tensor([1.0, 2.0])
    y, inverse = norm.forward(x, weight, 0.0)  # rms = sqrt((9 + 16) / 2) = 3.5355
    assert torch.allclose(inverse, torch.tensor([[0.282843]]), atol=1e-6)
    assert torch.allclose(y, torch.tensor([[0.848528, 2.262742]]), atol=1e-6)


def test_the_gradient_of_a_norm_is_that_of_its_formula() -> None:
    x, weight, given = random(7, HIDDEN), random(HIDDEN), random(7, HIDDEN, seed=3).detach()
    wanted = torch.autograd.grad(plain_norm(x, weight), (x, weight), given)
    _, inverse = norm.forward(x.detach(), weight.detach(), EPS)
    found = norm.backward(given, x.detach(), weight.detach(), inverse, True)
    torch.testing.assert_close(found, wanted)


def test_a_rotation_and_its_way_back() -> None:
    angle = random(5, 1, SIZE // 2).detach()
    x = random(5, HEADS * SIZE).detach()
    turned = rotary.rotate(x, angle.cos(), angle.sin())
    torch.testing.assert_close(turned, plain_rotation(x, angle.cos(), angle.sin()))
    torch.testing.assert_close(rotary.rotate(turned, angle.cos(), -angle.sin()), x)


@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=7), head=st.integers(0, 10), blocked=st.booleans())
def test_attention_of_grouped_rows_is_attention_row_by_row(lengths: list[int], head: int, blocked: bool) -> None:
    with pytest.MonkeyPatch.context() as patched:
        if blocked:
            patched.setattr("tailorbird.engine.attention.EXPLICIT_WEIGHTS", 0)
            patched.setattr(rows, "BLOCK", 7)
            patched.setattr(rows, "BLOCK_WEIGHTS", HEADS * 7 * 40)  # some rows at once
        plan = packed_plan(lengths, head)
        assert all(part.blocked == blocked for part in plan.parts)
        tokens = len(plan.outputs) // HEADS
        q, k, v = random(tokens, HEADS * SIZE), random(tokens, GROUPS * SIZE), random(tokens, GROUPS * SIZE, seed=9)
        used = head + sum(lengths)
        given = random(tokens, HEADS * SIZE, seed=5).detach()
        given[used:] = 0  # nobody reads tokens of no row
        wanted = plain_attention(q, k, v, lengths, head)
        gradients = torch.autograd.grad(wanted, (q, k, v), given)
        found, kept = rows.forward(q.detach(), k.detach(), v.detach(), plan)
        torch.testing.assert_close(found[:used], wanted.detach()[:used])
        assert not found[used:].any()
        torch.testing.assert_close(rows.backward(given, plan, kept), gradients)


def test_rows_are_cut_where_it_costs_least() -> None:
    """Against every way of cutting the sizes."""
    for lengths, head in (([5] * 30 + [200], 0), ([5, 20, 40, 60, 80, 100] * 4, 20), ([7, 8], 3), ([300, 310], 0)):
        sizes = sorted({few_sizes(length) for length in lengths})

        def cost(edges: tuple[int, ...], lengths: list[int] = lengths, head: int = head) -> int:
            total = 0
            for low, high in itertools.pairwise((0, *edges)):
                count = sum(low < few_sizes(length) <= high for length in lengths)
                total += rows.padded_rows(count, high) * high * (head + high) + rows.GROUP_COST
            return total

        ways = [(*inner, sizes[-1]) for n in range(len(sizes)) for inner in itertools.combinations(sizes[:-1], n)]
        made = rows.cut(lengths, head)
        assert sorted(i for group in made for i in group) == list(range(len(lengths)))
        edges = tuple(max(few_sizes(lengths[i]) for i in group) for group in made)
        assert cost(edges) == min(map(cost, ways))


# --- the blocks ------------------------------------------------------------------------------------------


def linear(outputs: int, inputs: int, seed: int, bias: bool, rank: int) -> list[Tensor | None]:
    update = [random(rank, inputs, seed=seed + 1), random(outputs, rank, seed=seed + 2)] if rank else [None, None]
    return [random(outputs, inputs, seed=seed), random(outputs, seed=seed + 3) if bias else None, *update]


def learning(tensors: list[Tensor | None], names: str) -> list[Tensor | None]:
    """Only the named of w, b, A, B of each layer ask for a gradient."""
    for number, tensor in enumerate(tensors):
        if tensor is not None:
            tensor.requires_grad_("wbAB"[number % 4] in names)
    return tensors


def as_linears(tensors: list[Tensor | None], scale: float) -> list[Linear]:
    return [Linear(*tensors[i : i + 4], scale) for i in range(0, len(tensors), 4)]  # type: ignore[arg-type]


CASES = [  # what learns, biases, the rank of each layer's update, whether the gradient goes on below
    ("wb", True, [0, 0, 0, 0], True),
    ("AB", False, [2, 2, 2, 2], True),
    ("AB", False, [2, 0, 3, 0], True),
    ("AB", True, [0, 2, 1, 2], False),
    ("A", True, [2, 1, 0, 2], True),
    ("AB", False, [0, 0, 0, 2], False),  # the last layer alone: nothing goes below it
    ("", True, [2, 2, 2, 2], True),
    ("wbAB", True, [3, 3, 3, 3], True),
]


@pytest.mark.parametrize(("learned", "bias", "ranks", "input_learns"), CASES)
def test_the_attention_half_of_a_layer(learned: str, bias: bool, ranks: list[int], input_learns: bool) -> None:
    lengths, head = [3, 9, 1], 2
    plan = packed_plan(lengths, head)
    tokens = len(plan.outputs) // HEADS
    x, weight = random(tokens, HIDDEN).requires_grad_(input_learns), random(HIDDEN).requires_grad_("w" in learned)
    outputs = (HEADS * SIZE, GROUPS * SIZE, GROUPS * SIZE)
    shapes = [*((out, HIDDEN) for out in outputs), (HIDDEN, HEADS * SIZE)]
    tensors = learning([t for i, s in enumerate(shapes) for t in linear(*s, 10 * i, bias, ranks[i])], learned)
    angle = random(tokens, 1, SIZE // 2).detach()
    turn, scale = (angle.cos(), angle.sin()), SIZE**-0.5
    turns = ((turn[0] * scale, turn[1] * scale), turn)
    used = head + sum(lengths)

    def ours() -> Tensor:
        return blocks.Attention.apply(x, weight, EPS, turns, plan, [0.7] * 4, *tensors)[:used]

    def plain() -> Tensor:
        q, k, v, o = as_linears(tensors, 0.7)
        n = plain_norm(x, weight)
        turned = plain_rotation(plain_linear(n, q), *turn) * scale, plain_rotation(plain_linear(n, k), *turn)
        return (x + plain_linear(plain_attention(*turned, plain_linear(n, v), lengths, head), o))[:used]

    compare(ours, plain, [x, weight, *tensors])


@pytest.mark.parametrize(("learned", "bias", "ranks", "input_learns"), CASES)
def test_the_mlp_half_of_a_layer(learned: str, bias: bool, ranks: list[int], input_learns: bool) -> None:
    x, weight = random(6, HIDDEN).requires_grad_(input_learns), random(HIDDEN).requires_grad_("w" in learned)
    shapes = [(INNER, HIDDEN), (INNER, HIDDEN), (HIDDEN, INNER)]
    tensors = learning([t for i, s in enumerate(shapes) for t in linear(*s, 10 * i, bias, ranks[i + 1])], learned)

    def ours() -> Tensor:
        return blocks.Mlp.apply(x, weight, EPS, [0.7] * 3, *tensors)

    def plain() -> Tensor:
        gate, up, down = as_linears(tensors, 0.7)
        n = plain_norm(x, weight)
        return x + plain_linear(F.silu(plain_linear(n, gate)) * plain_linear(n, up), down)

    compare(ours, plain, [x, weight, *tensors])


def compare(ours: Any, plain: Any, inputs: list[Tensor | None]) -> None:
    """Values and gradients; and what asks for no gradient gets none."""
    asked = [x for x in inputs if x is not None and x.requires_grad]
    found, wanted = ours(), plain()
    torch.testing.assert_close(found, wanted)
    assert asked
    given = random(*found.shape, seed=77).detach()
    torch.testing.assert_close(torch.autograd.grad(found, asked, given), torch.autograd.grad(wanted, asked, given))


# --- cross entropy ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunk", [7, 40])
def test_cross_entropy_and_its_gradients(smoothing: float, weighted: bool, bias: bool, chunk: int) -> None:
    hidden, weight, offset = random(40, HIDDEN), random(11, HIDDEN), random(11) if bias else None
    targets = torch.randint(0, 11, (40,), generator=torch.Generator().manual_seed(1))
    weights = random(40, seed=8).detach().abs() if weighted else None
    asked = [x for x in (hidden, weight, offset) if x is not None]
    found = CrossEntropy.apply(hidden, weight, offset, targets, weights, smoothing, chunk)
    losses = F.cross_entropy(F.linear(hidden, weight, offset), targets, reduction="none", label_smoothing=smoothing)
    wanted = losses.sum() if weights is None else (losses * weights).sum()
    torch.testing.assert_close(found, wanted)
    given = torch.tensor(1.7, dtype=torch.float64)
    torch.testing.assert_close(torch.autograd.grad(found, asked, given), torch.autograd.grad(wanted, asked, given))


def test_cross_entropy_of_a_hopeless_target_is_finite() -> None:
    """-log p where p itself is 0 in fp32: logits 0 and 200, the first wanted."""
    hidden, weight = torch.tensor([[1.0]]), torch.tensor([[0.0], [200.0]])
    assert float(CrossEntropy.apply(hidden, weight, None, torch.tensor([0]), None, 0.0, 1)) == 200.0
