"""Rows of many customizations in one forward: each answers as it does alone, whoever else is in the batch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tailorbird.artifacts.parts import Decode, LowRank, Parts, Prompt
from tailorbird.bases.model import load_model
from tailorbird.engine import attention, generation, mixing, scoring
from tailorbird.engine.low_rank import linear_names, sizes
from tailorbird.engine.mixing import Scored, Share, Written, attach
from tailorbird.engine.model import Model
from tailorbird.engine.probe import set_threads
from tailorbird.engine.scoring import Trie
from tailorbird.errors import ArtifactError
from tailorbird.testing.tiny import Shape, make_tiny_base

QUICK = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LABELS = {  # a trie of each owner's own
    "base": [(7, 255), (8, 9, 255)],
    "short": [(1, 255), (1, 2, 255), (3, 255)],
    "long": [(5, 6, 7, 255), (5, 255)],
    "lora": [(40, 255), (41, 255), (42, 43, 255)],
    "few": [(7, 255), (9, 255)],
    "both": [(11, 255), (11, 12, 255)],
    "pairs": [(20, 255), (21, 22, 255), (20, 23, 255)],
    "stacked": [(30, 255), (31, 255)],
}
HEADS = {
    "base": [3, 1, 4],
    "short": [1, 5],
    "long": [],
    "lora": [9, 2, 6, 5],
    "few": [],
    "both": [3, 5, 8],
    "pairs": [2, 7],
    "stacked": [],
}
END = frozenset({255})


@pytest.fixture(scope="module", params=["llama", "gpt2", "qwen"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    set_threads(1)
    shape: Shape = request.param
    return Model(load_model(make_tiny_base(tmp_path_factory.mktemp(shape), shape)))


def customizations(model: Model) -> dict[str, Parts]:
    """Soft prompts of two lengths, adapters of two ranks on different layers, a key/value prefix, several of these in
    one, and the base."""
    generator = torch.Generator().manual_seed(0)
    names = linear_names(model.network, model.output)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.3

    def adapter(rank: int, chosen: list[str]) -> LowRank:
        layers = {name: sizes(model.network.get_submodule(name)) for name in chosen}
        return LowRank(rank, 2.0 * rank, {n: (random(rank, i), random(o, rank)) for n, (i, o) in layers.items()})

    made: dict[str, dict[str, Any]] = {
        "base": {},
        "short": {"soft": random(2, model.hidden_size)},
        "long": {"soft": random(9, model.hidden_size)},
        "lora": {"low_rank": adapter(3, names)},
        "few": {"low_rank": adapter(5, names[::3])},
        "both": {"soft": random(4, model.hidden_size), "low_rank": adapter(2, names[1::2])},
        "pairs": {"kv": random(*model.kv_shape(5))},
        "stacked": {
            "kv": random(*model.kv_shape(3)),
            "soft": random(2, model.hidden_size),
            "low_rank": adapter(2, names),
        },
    }
    return {owner: Parts(Prompt(), Decode("write"), **parts) for owner, parts in made.items()}


ROWS = st.lists(
    st.tuples(st.sampled_from(sorted(LABELS)), st.lists(st.integers(0, 250), min_size=1, max_size=9), st.booleans()),
    min_size=1,
    max_size=8,
)


def shares_of(mixture: mixing.Mixture, rows: list[tuple[str, list[int], bool]]) -> list[tuple[list[int], Share]]:
    """(numbers of the rows, share): rows of one owner and kind together, as they are handed to the engine."""
    found: list[tuple[list[int], Share]] = []
    for owner in sorted({owner for owner, _, _ in rows}):
        cached = mixture.head(owner, HEADS[owner])
        for written in (False, True):
            numbers = [n for n, row in enumerate(rows) if row[0] == owner and row[2] is written]
            prompts = [rows[n][1] for n in numbers]
            if not numbers:
                continue
            limits = [3 + n % 5 for n in numbers]
            share: Share = (
                Written(prompts, limits, cached, owner)
                if written
                else Scored(prompts, Trie.of(LABELS[owner]), cached, owner)
            )
            found.append((numbers, share))
    return found


def alone(mixture: mixing.Mixture, owner: str, prompt: list[int], limit: int | None) -> Any:
    """The reference: the customization by itself, one row, through the functions for one owner."""
    cached = mixture.head(owner, HEADS[owner])
    with mixture.alone(owner) as model:
        if limit is None:
            return scoring.score_labels(model, [prompt], Trie.of(LABELS[owner]), cached)[0]
        (made,) = generation.generate(model, [prompt], max_new_tokens=limit, end_ids=END, cached=cached)
        return made


@pytest.mark.parametrize("long_head", [1, 5, 256])
@QUICK
@given(rows=ROWS)
def test_a_row_in_any_mixed_batch_answers_as_it_does_alone(
    model: Model, long_head: int, rows: list[tuple[str, list[int], bool]]
) -> None:
    """Heads copied to every row, held once, and some of each."""
    mixture = attach(model, customizations(model))
    before = attention.LONG_HEAD
    attention.LONG_HEAD = long_head
    try:
        asked = shares_of(mixture, rows)
        with mixture.attached() as mixed:
            found = mixing.answer(mixed, [share for _, share in asked], END)
        for (numbers, share), results in zip(asked, found, strict=True):
            for place, number in enumerate(numbers):
                limit = share.limits[place] if isinstance(share, Written) else None
                wanted = alone(mixture, rows[number][0], rows[number][1], limit)
                if limit is None:
                    assert torch.allclose(results[place], wanted, rtol=0, atol=1e-4)
                else:
                    assert results[place] == wanted
    finally:
        attention.LONG_HEAD = before


@QUICK
@given(rows=ROWS)
def test_log_probabilities_of_a_mixed_batch_are_those_of_each_row_alone(
    model: Model, rows: list[tuple[str, list[int], bool]]
) -> None:
    mixture = attach(model, customizations(model))
    owners = sorted({owner for owner, _, _ in rows})
    marked = {
        owner: [
            ([*HEADS[owner], 5, *ids], [False] * (len(HEADS[owner]) + 1) + [True] * len(ids))
            for o, ids, _ in rows
            if o == owner
        ]
        for owner in owners
    }
    heads = {owner: mixture.head(owner) for owner in owners}
    with mixture.attached() as mixed:
        found = mixing.log_probabilities(mixed, [(owner, heads[owner], marked[owner]) for owner in owners])
    for owner, values in zip(owners, found, strict=True):
        for row, value in zip(marked[owner], values, strict=True):
            with mixture.alone(owner) as single:
                (wanted,) = scoring.log_probabilities(single, [row])
            assert math.isclose(value, wanted, abs_tol=1e-4)


def test_taken_off_again_nothing_of_the_base_has_changed(model: Model) -> None:
    before = {name: parameter.clone() for name, parameter in model.network.named_parameters()}
    layers = [type(layer).__name__ for layer in model.network.modules()]
    mixture = attach(model, customizations(model))
    rows = [("lora", [4, 5], False), ("short", [6], True), ("both", [7, 8, 9], True)]
    asked = [share for _, share in shares_of(mixture, rows)]
    with mixture.attached() as mixed:
        mixing.answer(mixed, asked, END)
    assert [type(layer).__name__ for layer in model.network.modules()] == layers
    after = dict(model.network.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert model.soft is None


def test_a_forward_that_does_not_say_whose_its_rows_are_is_refused(model: Model) -> None:
    mixture = attach(model, customizations(model))
    with mixture.attached() as mixed, pytest.raises(RuntimeError, match="must say whose each row is"):
        scoring.score_labels(mixed, [[4]], Trie.of(LABELS["base"]))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"weights": Path("weights")}, "theirs: cannot be mixed with others: it is whole weights"),
        ({"delta": {}}, "theirs: cannot be mixed with others: it is some of the base's own weights"),
        ({"soft": torch.zeros(2, 7)}, "theirs: the soft prompt is 7 wide, the base 32"),
    ],
)
def test_what_cannot_be_mixed_is_refused_by_name(model: Model, parts: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        attach(model, {"base": Parts(Prompt(), Decode("write")), "theirs": Parts(Prompt(), Decode("write"), **parts)})


def test_a_row_writes_no_more_than_its_own_limit(model: Model) -> None:
    """Rows of different limits in one batch; a row that has ended does not run on beyond the base's positions."""
    mixture = attach(model, customizations(model))
    written = Written([[4, 5], [6]], [1, 7], mixture.head("base"), "base")
    with mixture.attached() as mixed:
        (made,) = mixing.answer(mixed, [written], frozenset())
    assert [len(one.tokens) for one in made] == [1, 7]
