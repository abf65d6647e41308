"""Masks are a function of their counters: known answers, shares, independence."""

from __future__ import annotations

import hashlib

import pytest
import torch

from tailorbird.engine.dropout import Drop, Dropout, mix, token_keys
from tailorbird.engine.low_rank import LowRankLinear


def lowbias32(x: int) -> int:
    """Wellons' integer hash in plain Python, on unsigned 32 bits."""
    x ^= x >> 16
    x = x * 0x21F0AAAD & 0xFFFFFFFF
    x ^= x >> 15
    x = x * 0xD35A2D97 & 0xFFFFFFFF
    return x ^ x >> 15


def test_the_hash_is_its_formula() -> None:
    numbers = [0, 1, 2, 12345, 2**31 - 1, 2**31, 2**32 - 1]
    signed = torch.tensor(numbers, dtype=torch.int64).to(torch.int32)
    assert [value & 0xFFFFFFFF for value in mix(signed).tolist()] == [lowbias32(number) for number in numbers]


def test_a_mask_is_a_function_of_stream_place_layer_and_column() -> None:
    """The whole of it in plain Python, for two rows of 2 and 3 tokens and 4 columns at a rate of a half."""
    layer = int.from_bytes(hashlib.sha256(b"layer").digest()[:4], "big")
    wanted = []
    for stream, length in ((77, 2), (2**40 + 5, 3)):
        for place in range(length):
            row = lowbias32(lowbias32(lowbias32(place) + stream & 0xFFFFFFFF) ^ layer)
            hashes = [lowbias32(row + lowbias32(column) & 0xFFFFFFFF) for column in range(1, 5)]
            wanted.append([number < 2**31 for number in hashes])  # as signed numbers: the upper half
    found = Drop(Dropout(0.5), "layer").kept(token_keys([77, 2**40 + 5], [2, 3]), 4)
    assert found.tolist() == wanted


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_share_that_is_dropped_is_the_rate_and_no_two_places_agree_more_than_by_chance(rate: float) -> None:
    drop, other = (Drop(Dropout(rate), name) for name in ("one", "two"))
    keys = token_keys([1, 2], [400, 400])
    kept = drop.kept(keys, 500).double()
    error = 5 * (rate * (1 - rate) / kept.numel()) ** 0.5
    assert abs(float(kept.mean()) - (1 - rate)) < error
    chance = rate**2 + (1 - rate) ** 2
    pairs = {
        "rows": (kept[:400], kept[400:]),
        "layers": (kept, other.kept(keys, 500).double()),
        "tokens": (kept[:-1], kept[1:]),
        "columns": (kept[:, :-1], kept[:, 1:]),
    }
    for name, (a, b) in pairs.items():
        assert abs(float((a == b).double().mean()) - chance) < 0.006, name


def test_what_is_kept_is_scaled_so_that_the_mean_stays() -> None:
    dropout = Dropout(0.25)
    drop, x = Drop(dropout, "here"), torch.ones(1, 300, 200)
    assert drop(x) is x  # no keys: evaluation
    with dropout.over(token_keys([5], [300])):
        values = drop(x)
    assert sorted(set(values.flatten().tolist())) == [0.0, pytest.approx(4 / 3)]
    assert abs(float(values.mean()) - 1.0) < 0.02


def test_low_rank_layers_drop_the_input_of_a_alone() -> None:
    base = torch.nn.Linear(8, 6)
    a, b = torch.randn(2, 8), torch.randn(6, 2)
    network = torch.nn.ModuleDict({"q": LowRankLinear(base, a, b, 0.5)})
    dropout, x = Dropout(0.5), torch.randn(1, 5, 8)
    dropout.place(network)
    keys = token_keys([3], [5])
    with dropout.over(keys):
        found = network["q"](x)
        assert dropout.embedded(x) is x
    kept = x * Drop(dropout, "q").kept(keys, 8) * 2.0
    assert torch.allclose(found, base(x) + 0.5 * kept @ a.t() @ b.t(), atol=1e-6)
