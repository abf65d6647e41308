"""One technique after another: what results holds the parent's parts and its own, and needs the parent no more."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tailorbird.answerers.opening import open_bare, open_customization
from tailorbird.artifacts.layout import read_parts
from tailorbird.artifacts.manifest import read_manifest
from tailorbird.customize import Compute, customize
from tailorbird.errors import ArtifactError, SpecError
from tailorbird.testing import make_tiny_base, tiny_rows
from tailorbird.types import Tuning

from . import making

SMALL: dict[str, dict[str, Any]] = {
    "lora": {"rank": 4, "alpha": 8.0},
    "peft": {"rank": 4},
    "prompt_tuning": {"total_virtual_tokens": 3},
}
NOTHING = {"learning_rate": 1e-9, "epochs": 1, "batch_rows": 8, "warmup_share": 0.0}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("base"))


def make(folder: Path, technique: str, *arguments: Any, **asked: Any) -> Path:
    return making.make(folder, technique, *arguments, **{**SMALL.get(technique, {}), **asked})


@pytest.fixture(scope="module")
def made(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("made")
    names = ("few_shot", "prompt_tuning", "lora", "peft", "selective", "sft")
    return {name: make(folder / name, name, base) for name in names}


def top(folder: Path, base: Path) -> dict[int, float]:
    answerer = open_customization(folder, base)
    ids = answerer.prompt(tiny_rows(1)[0].prompt)
    return dict(zip(*answerer.top_logits(ids, 300), strict=True))


def apart(one: dict[int, float], other: dict[int, float]) -> float:
    """Largest difference of the logits both name."""
    return max(abs(one[i] - other[i]) for i in one.keys() & other.keys())


CHAINS = {
    ("sft", "lora"): {"weights", "low_rank"},
    ("selective", "lora"): {"delta", "low_rank"},
    ("lora", "lora"): {"low_rank"},
    ("lora", "sft"): {"weights"},
    ("selective", "sft"): {"weights"},
    ("prompt_tuning", "sft"): {"weights", "soft"},
    ("sft", "sft"): {"weights"},
    ("sft", "selective"): {"weights"},
    ("lora", "selective"): {"low_rank", "delta"},
    ("selective", "selective"): {"delta"},
    ("lora", "prompt_tuning"): {"low_rank", "soft"},
    ("sft", "prompt_tuning"): {"weights", "soft"},
    ("prompt_tuning", "prompt_tuning"): {"soft"},
    ("prompt_tuning", "lora"): {"soft", "low_rank"},
    ("peft", "sft"): {"weights"},
    ("peft", "selective"): {"peft", "delta"},
    ("peft", "prompt_tuning"): {"peft", "soft"},
    ("sft", "peft"): {"weights", "peft"},
    ("selective", "peft"): {"delta", "peft"},
}


@pytest.mark.parametrize(("parent", "child"), list(CHAINS), ids=[f"{child}-after-{parent}" for parent, child in CHAINS])
def test_a_child_begins_where_its_parent_stands_and_needs_it_no_more(
    base: Path, made: dict[str, Path], tmp_path: Path, parent: str, child: str
) -> None:
    """Trained with a rate at which nothing moves it answers as its parent does; trained for real it does not."""
    still = make(tmp_path / "still", child, base, made[parent], **NOTHING)
    moved = make(tmp_path / "moved", child, base, made[parent])
    assert read_parts(moved).kinds == CHAINS[parent, child]
    if child != "prompt_tuning" or parent == child:  # a new soft prompt changes the answer from the start
        assert apart(top(still, base), top(made[parent], base)) < 1e-4
    assert apart(top(moved, base), top(still, base)) > 1e-3
    manifest = read_manifest(moved)
    assert manifest.parent == {
        "label": parent,
        "technique": parent,
        "identity": read_manifest(made[parent]).identity,
    }


def test_what_a_child_does_not_train_stays_its_parents_to_the_last_bit(
    base: Path, made: dict[str, Path], tmp_path: Path
) -> None:
    import torch

    before = read_parts(made["lora"]).low_rank
    after = read_parts(make(tmp_path / "child", "prompt_tuning", base, made["lora"])).low_rank
    assert before is not None
    assert after is not None
    assert (after.rank, after.scale) == (before.rank, before.scale)
    assert all(
        torch.equal(a, b) for n in before.tensors for a, b in zip(before.tensors[n], after.tensors[n], strict=True)
    )


def test_a_child_is_served_without_its_parent(base: Path, made: dict[str, Path], tmp_path: Path) -> None:
    parent = Path(shutil.copytree(made["sft"], tmp_path / "parent"))
    child = make(tmp_path / "child", "lora", base, parent)
    shutil.rmtree(parent)
    assert top(child, base)


@pytest.mark.parametrize(("parent", "child"), [("lora", "sft"), ("sft", "sft"), ("selective", "sft"), ("sft", "lora")])
def test_in_bf16_a_child_learns_from_the_parents_fp32_values(
    base: Path, made: dict[str, Path], tmp_path: Path, parent: str, child: str
) -> None:
    """Trained with a rate at which nothing moves, what is written are the parent's own values, not their rounding."""
    import torch
    from safetensors.torch import load_file

    from tailorbird.bases.model import load_model
    from tailorbird.engine.attaching import fold

    still = making.job(
        child, base, tmp_path / "work", made[parent], **{**SMALL.get(child, {}), **NOTHING, "learning_rate": 1e-30}
    )
    customize(replace(still, compute=Compute(dtype="bfloat16")), tmp_path / "child")
    parts = read_parts(made[parent])
    network = load_model(parts.weights if isinstance(parts.weights, Path) else base)
    fold(network, parts)
    file = next(p for p in (tmp_path / "child").rglob("model.safetensors"))
    written, wanted = load_file(str(file)), dict(network.named_parameters())
    assert written.keys() == wanted.keys()
    assert all(torch.equal(written[name], wanted[name]) for name in wanted)
    open_customization(tmp_path / "child", base)  # compares the check rows in bf16


def test_a_killed_child_ends_as_the_undisturbed_one(base: Path, made: dict[str, Path], tmp_path: Path) -> None:
    from tailorbird import store
    from tailorbird.artifacts.layout import tensor_files
    from tailorbird.errors import Interrupted

    whole = make(tmp_path / "whole", "lora", base, made["lora"])
    seen: list[int] = []

    def stop() -> bool:
        seen.append(1)
        return len(seen) > 2

    cut = making.job("lora", base, tmp_path / "work", made["lora"], **SMALL["lora"])
    with pytest.raises(Interrupted):
        customize(replace(cut, stop=stop), tmp_path / "cut")
    customize(cut, tmp_path / "cut")
    assert [store.sha256_file(f) for f in tensor_files(whole)] == [
        store.sha256_file(f) for f in tensor_files(tmp_path / "cut")
    ]


def test_examples_are_searched_for_a_tuned_model(base: Path, made: dict[str, Path], tmp_path: Path) -> None:
    search = replace(making.job("few_shot", base, tmp_path / "work", made["lora"]), tuning=Tuning(tiny_rows(12)[8:]))
    customize(search, tmp_path / "child")
    parts = read_parts(tmp_path / "child")
    assert parts.kinds == {"low_rank"}
    assert parts.prompt.examples
    assert open_customization(tmp_path / "child", base).bits(["A text."]) is not None


def test_the_base_is_what_it_was_after_a_child_was_opened(base: Path, made: dict[str, Path], tmp_path: Path) -> None:
    child = make(tmp_path / "child", "lora", base, made["selective"])
    bare = open_bare(base)
    ids = bare.prompt(tiny_rows(1)[0].prompt)
    before = bare.top_logits(ids)
    assert open_customization(child, base).top_logits(ids) != before
    assert bare.top_logits(ids) == before


@pytest.mark.parametrize(
    ("child", "parent", "asked", "message"),
    [
        ("lora", "lora", {"rank": 8}, r"of rank 4, and rank 8 is asked for\n  → set rank: 4"),
        ("lora", "lora", {"alpha": 16.0}, "scaled by 2, and these settings scale by 4"),
        ("lora", "lora", {"rslora": True}, "scaled by 2, and these settings scale by 4"),
        ("lora", "lora", {"targets": ("q_proj",)}, "of other layers"),
        ("prompt_tuning", "prompt_tuning", {"total_virtual_tokens": 5}, "3 virtual tokens, and 5 are asked for"),
        ("lora", "few_shot", {}, "it is a prompt, and the weights are the base's"),
        ("peft", "peft", {"rank": 4}, "cannot start from peft .peft.: it cannot go on with its part peft"),
        ("lora", "peft", {}, "has no use for its part peft"),
        ("zero_shot", "lora", {}, "has no use for its part low_rank"),
    ],
)
def test_what_cannot_be_started_from_is_refused_with_the_reason(
    base: Path, made: dict[str, Path], tmp_path: Path, child: str, parent: str, asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        make(tmp_path / "child", child, base, made[parent], **asked)


def test_a_parent_that_was_changed_or_made_on_another_base_is_refused(
    base: Path, made: dict[str, Path], tmp_path: Path
) -> None:
    parent = Path(shutil.copytree(made["lora"], tmp_path / "parent"))
    content = bytearray((parent / "adapter_model.safetensors").read_bytes())
    content[-1] ^= 1
    (parent / "adapter_model.safetensors").write_bytes(bytes(content))
    with pytest.raises(ArtifactError, match="not the file that was measured"):
        make(tmp_path / "child", "sft", base, parent)
    with pytest.raises(ArtifactError, match="made for another base"):
        make(tmp_path / "child", "sft", make_tiny_base(tmp_path / "other", seed=1), made["lora"])
