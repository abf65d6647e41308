"""Many customizations in one batch: each request gets the answer that its owner gives alone, in the order asked."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import torch

from tailorbird.answerers import batching
from tailorbird.answerers.batching import Size, cut
from tailorbird.answerers.local import LocalAnswerer
from tailorbird.answerers.mixed import MixedAnswerer
from tailorbird.answerers.opening import open_parts
from tailorbird.artifacts.parts import Decode, LowRank, Parts, Prompt
from tailorbird.errors import ArtifactError, DataError, SpecError
from tailorbird.testing import make_tiny_base
from tailorbird.types import Message, Request, Role

COLOURS = Decode("classify", {"red": "red", "green": "green", "blue": "deep blue"})
SURE = Decode("classify", {"yes": "yes", "no": "no"}, calibration={"yes": -1.5, "no": -0.2})
TEXT = Decode("write", max_new_tokens=6)
SHOWN = tuple(((Message(Role.USER, f"number {n}"),), "red") for n in range(12))  # a head that is held once
COMPUTE = {"device": "cpu", "dtype": "float32", "threads": 1, "batch_tokens": 600}


def message(text: str) -> tuple[Message, ...]:
    return (Message(Role.USER, text),)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def members(base: Path) -> dict[str, LocalAnswerer]:
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.3

    low_rank = LowRank(2, 4.0, {"model.layers.1.self_attn.q_proj": (drawn(2, 32), drawn(32, 2))})
    parts = {
        "bare": Parts(Prompt("Name the colour."), COLOURS),
        "colours": Parts(Prompt("Name the colour."), COLOURS, soft=drawn(5, 32)),
        "sure": Parts(Prompt("Say yes or no."), SURE, soft=drawn(3, 32)),
        "adapter": Parts(Prompt("Say yes or no."), SURE, low_rank=low_rank),
        "writer": Parts(Prompt(None), TEXT, soft=drawn(2, 32)),
        "shown": Parts(Prompt("Name it.", SHOWN), COLOURS),
    }
    return {owner: open_parts(base, own, **COMPUTE) for owner, own in parts.items()}


def request(owner: str, member: LocalAnswerer, number: int) -> Request:
    labels = tuple(member.parts.decode.labels)
    turns = message(f"row {number} of {owner} {'x' * (number % 9)}")
    if number % 11 == 0:
        turns = (Message(Role.SYSTEM, "Be brief."), *turns)  # a prompt that does not begin as the others do
    return Request(str(number), turns, labels, 0 if labels else 1 + number % 6)


def test_a_shuffled_queue_of_all_gives_what_each_gives_alone(members: dict[str, LocalAnswerer]) -> None:
    owners = [owner for owner in members for _ in range(9)]
    random.Random(0).shuffle(owners)
    queue = [(owner, request(owner, members[owner], n)) for n, owner in enumerate(owners)]
    mixed = list(MixedAnswerer(members).answer(queue))
    for (owner, asked), found in zip(queue, mixed, strict=True):
        (alone,) = members[owner].answer([asked])
        assert (found.id, found.text, found.label, found.stop) == (asked.id, alone.text, alone.label, alone.stop)
        assert (found.prompt_tokens, found.answer_tokens) == (alone.prompt_tokens, alone.answer_tokens)
        for label, score in (alone.scores or {}).items():
            assert found.scores is not None
            assert math.isclose(found.scores[label], score, abs_tol=1e-4)


def test_rows_of_all_share_forwards(members: dict[str, LocalAnswerer], monkeypatch: pytest.MonkeyPatch) -> None:
    model, passes = members["bare"].model, []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda batch: passes.append(batch.ids.numel()) or forward(batch))
    queue = [(owner, request(owner, members[owner], n)) for n, owner in enumerate(["bare", "sure", "adapter"] * 3)]
    list(MixedAnswerer(members).answer(queue))
    assert len(passes) == 1


def test_scores_of_given_answers_are_those_of_each_alone(members: dict[str, LocalAnswerer]) -> None:
    owners = ["writer", "adapter", "shown", "writer", "bare", "colours"]
    asked = [(owner, message(f"row {n}")) for n, owner in enumerate(owners)]
    said = [f"answer {n}" for n in range(len(owners))]
    mixed = MixedAnswerer(members).score(asked, said)
    for (owner, turns), text, found in zip(asked, said, mixed, strict=True):
        (alone,) = members[owner].score([turns], [text])
        assert math.isclose(found, alone, abs_tol=1e-4)


def test_who_is_not_there_is_named(members: dict[str, LocalAnswerer]) -> None:
    with pytest.raises(SpecError, match="nobody here is called 'colour'; did you mean `colours`"):
        list(MixedAnswerer(members).answer([("colour", request("bare", members["bare"], 1))]))
    with pytest.raises(DataError, match="no words are known for the label 'purple'"):
        list(MixedAnswerer(members).answer([("bare", Request("1", message("a"), ("purple",)))]))


def test_another_base_in_memory_cannot_be_mixed_in(members: dict[str, LocalAnswerer], tmp_path: Path) -> None:
    other = open_parts(make_tiny_base(tmp_path / "other", seed=1), Parts(Prompt(), TEXT), **COMPUTE)
    with pytest.raises(ArtifactError, match="other: cannot be mixed with bare: it lies on another base"):
        MixedAnswerer({**members, "other": other})


def test_batches_stay_within_tokens_and_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares a (3 + 2 extra tokens a row) and b (up to 6): padded to the longest of each share, by hand."""
    sizes = [Size("a", 3, 2), Size("a", 2, 2), Size("b", 1), Size("b", 6), Size("b", 2), Size("a", 9)]
    assert list(cut(sizes, lambda size: size, 16)) == [sizes[:3], sizes[3:5], sizes[5:]]
    assert list(cut(sizes, lambda size: size, 22)) == [sizes[:4], sizes[4:]]  # 2 x 5 + 2 x 6 = 22
    assert list(cut(sizes, lambda size: size, 1)) == [[size] for size in sizes]
    monkeypatch.setattr(batching, "MASK_ELEMENTS", 50)
    assert list(cut(sizes[:2], lambda size: size, 99)) == [sizes[:2]]  # 2 x 5 x 5 places
    monkeypatch.setattr(batching, "MASK_ELEMENTS", 49)
    assert list(cut(sizes[:2], lambda size: size, 99)) == [[sizes[0]], [sizes[1]]]
