"""Going on with a training: k epochs and k more are 2k, bit for bit; what is kept for it is refused when it is torn."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tailorbird import store
from tailorbird.artifacts.layout import read_parts
from tailorbird.artifacts.manifest import read_manifest, write_manifest
from tailorbird.artifacts.training_state import read_state
from tailorbird.errors import ArtifactError, SpecError
from tailorbird.testing import make_tiny_base

from .making import job, make

STEADY = {"schedule": "constant", "warmup_share": 0.0, "batch_rows": 3, "keep_optimizer": True}
ENCODER = {"total_virtual_tokens": 4, "encoder_hidden_size": 12}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "mlp": ("p_tuning", ENCODER),
    "lstm": ("p_tuning", {**ENCODER, "encoder": "lstm", "encoder_dropout": 0.3}),
    "prompt": ("prompt_tuning", {"total_virtual_tokens": 3}),
    "lora": ("lora", {"rank": 4, "dropout": 0.2}),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("base"))


def trained(folder: Path, base: Path, case: str, parent: Path | None = None, **asked: Any) -> Path:
    technique, own = CASES[case]
    return make(folder, technique, base, parent, **{**STEADY, "epochs": 2, **own, **asked})


@pytest.fixture(scope="module")
def kept(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("kept")
    return {case: trained(folder / case, base, case) for case in CASES}


def hashes(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): store.sha256_file(file) for file in folder.rglob("*.safetensors")}


@pytest.mark.parametrize("case", list(CASES))
def test_two_epochs_and_two_more_are_four_bit_for_bit(
    base: Path, kept: dict[str, Path], tmp_path: Path, case: str
) -> None:
    """Weights, encoder, both moments and their counters."""
    whole = trained(tmp_path / "whole", base, case, epochs=4)
    child = trained(tmp_path / "child", base, case, kept[case])
    assert hashes(child) == hashes(whole) != hashes(kept[case])
    assert len(hashes(child)) == (3 if CASES[case][0] == "p_tuning" else 2)
    logs = [tmp_path / f"work-{name}" / "log.jsonl" for name in ("whole", "child")]
    losses = [[json.loads(line)["loss"] for line in log.read_text().splitlines()] for log in logs]
    assert losses[0][6:] == losses[1]


def test_without_the_optimizers_state_it_is_another_training(base: Path, kept: dict[str, Path], tmp_path: Path) -> None:
    """The encoder is kept all the same, and the order of rows goes on: only the moments are new."""
    bare = trained(tmp_path / "bare", base, "mlp", keep_optimizer=False)
    found = read_state(bare / "prompt_encoder")
    assert found is not None
    assert (found.epochs, dict(found.moments)) == (2, {})
    assert found.tensors.keys() == read_state(kept["mlp"] / "prompt_encoder").tensors.keys()  # type: ignore[union-attr]
    child = trained(tmp_path / "child", base, "mlp", bare)
    assert hashes(child) != hashes(trained(tmp_path / "other", base, "mlp", kept["mlp"]))


def test_epochs_are_counted_over_all_trainings(base: Path, kept: dict[str, Path], tmp_path: Path) -> None:
    child = trained(tmp_path / "child", base, "prompt", kept["prompt"], epochs=1)
    state = read_state(child / "optimizer")
    assert state is not None
    assert state.epochs == 3


def test_what_is_kept_is_that_of_the_best_point(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The held-out loss is lowest after the second epoch: that is exported, and what a training of two epochs keeps."""
    from dataclasses import replace

    from tailorbird.customize import customize
    from tailorbird.testing import tiny_rows
    from tailorbird.types import Tuning

    losses = iter([3.0, 1.0, 2.0, 2.5])
    monkeypatch.setattr("tailorbird.engine.train.held_out_loss", lambda *arguments: next(losses))
    asked = {**STEADY, "epochs": 4, **CASES["lora"][1]}
    one = job("lora", base, tmp_path / "work", **asked)
    customize(replace(one, tuning=Tuning(tiny_rows(10)[8:])), tmp_path / "made")
    assert read_manifest(tmp_path / "made").training["best_step"] == 6
    short = trained(tmp_path / "short", base, "lora")
    assert hashes(tmp_path / "made") == hashes(short)


def test_a_killed_continuation_ends_as_the_undisturbed_one(base: Path, kept: dict[str, Path], tmp_path: Path) -> None:
    from dataclasses import replace

    from tailorbird.customize import customize
    from tailorbird.errors import Interrupted

    whole = trained(tmp_path / "whole", base, "lstm", kept["lstm"])
    calls: list[int] = []

    def stop() -> bool:
        calls.append(1)
        return len(calls) > 4

    asked = {**STEADY, "epochs": 2, **CASES["lstm"][1]}
    cut = job("p_tuning", base, tmp_path / "work", kept["lstm"], **asked)
    with pytest.raises(Interrupted):
        customize(replace(cut, stop=stop), tmp_path / "cut")
    customize(cut, tmp_path / "cut")
    assert hashes(tmp_path / "cut") == hashes(whole)


@pytest.mark.parametrize("case", list(CASES))
def test_what_the_parent_holds_stays_as_it_was_while_its_child_learns(
    base: Path, kept: dict[str, Path], case: str
) -> None:
    """A training that explodes before its first checkpoint begins again from it."""
    from dataclasses import replace

    from tailorbird import techniques
    from tailorbird.bases.facts import base_facts
    from tailorbird.bases.model import load_model
    from tailorbird.engine.attaching import Attachment
    from tailorbird.engine.model import Model
    from tailorbird.testing import training_context

    name, own = CASES[case]
    technique, parts = techniques.get(name), read_parts(kept[case])
    state = read_state(kept[case] / technique.state_folder)
    assert state is not None
    model = Model(load_model(base))
    Attachment(model, parts, learns=True).put()
    settings = technique.settings(own, base_facts(base), 8)
    context = replace(training_context(), kept=state.tensors)
    trainable = technique.trainable(model, settings, context)  # type: ignore[attr-defined]
    held = [parts.soft, *(t for pair in (parts.low_rank.tensors if parts.low_rank else {}).values() for t in pair)]
    held = [tensor for tensor in (*held, *state.tensors.values()) if tensor is not None]
    before = [tensor.clone() for tensor in held]
    with torch.no_grad():
        for parameter in trainable.parameters.values():
            parameter += 1.0
    assert len(held) > 0
    assert all(torch.equal(a, b) for a, b in zip(held, before, strict=True))


def test_a_table_goes_on_as_a_soft_prompt_but_not_the_other_way_round(
    base: Path, kept: dict[str, Path], tmp_path: Path
) -> None:
    still = make(tmp_path / "still", "prompt_tuning", base, kept["mlp"], total_virtual_tokens=4, learning_rate=1e-30)
    table = load_file(kept["mlp"] / "adapter_model.safetensors")["prompt_embeddings"]
    assert torch.equal(load_file(still / "adapter_model.safetensors")["prompt_embeddings"], table)
    with pytest.raises(SpecError, match="goes on with a part soft only where p_tuning made it"):
        make(tmp_path / "child", "p_tuning", base, kept["prompt"], **ENCODER)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"encoder_hidden_size": 16}, r"mlp_head.0.bias is \(12,\), and these settings make \(16,\)"),
        ({"encoder": "lstm"}, "lstm_head.bias_hh_l0 is missing, and these settings make"),
        ({"total_virtual_tokens": 5}, r"embedding.weight is \(4, 32\), and these settings make \(5, 32\)"),
    ],
)
def test_other_settings_than_the_encoders_are_refused(
    base: Path, kept: dict[str, Path], tmp_path: Path, asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        trained(tmp_path / "child", base, "mlp", kept["mlp"], **asked)


# --- torn, changed or foreign files -------------------------------------------------------------------------------

FILES = ("encoder.safetensors", "optimizer.safetensors", "state.json")


def torn(kept: dict[str, Path], folder: Path) -> Path:
    return Path(shutil.copytree(kept["mlp"], folder / "parent")) / "prompt_encoder"


def hashed_again(folder: Path) -> None:
    """A manifest that agrees with the changed files, as a careless tool would leave it."""
    manifest = read_manifest(folder).model_dump(by_alias=True, exclude={"files", "schema_version"})
    (folder / "manifest.json").unlink()
    write_manifest(folder, {key: value for key, value in manifest.items() if key not in ("files", "schema")})


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(base: Path, kept: dict[str, Path], tmp_path: Path, name: str) -> None:
    inside = torn(kept, tmp_path)
    (inside / name).unlink()
    with pytest.raises(ArtifactError, match=f"prompt_encoder/{name} is missing"):
        trained(tmp_path / "child", base, "mlp", inside.parent)
    hashed_again(inside.parent)
    with pytest.raises(ArtifactError, match=f"{name} is missing"):
        trained(tmp_path / "child", base, "mlp", inside.parent)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_found_in_every_file(base: Path, kept: dict[str, Path], tmp_path: Path, name: str) -> None:
    inside = torn(kept, tmp_path)
    content = bytearray((inside / name).read_bytes())
    content[-2] ^= 1
    (inside / name).write_bytes(bytes(content))
    with pytest.raises(ArtifactError, match=f"prompt_encoder/{name} is not the file that was measured"):
        trained(tmp_path / "child", base, "mlp", inside.parent)


def test_without_the_whole_folder_the_encoder_is_missing(base: Path, kept: dict[str, Path], tmp_path: Path) -> None:
    inside = torn(kept, tmp_path)
    shutil.rmtree(inside)
    hashed_again(inside.parent)
    with pytest.raises(ArtifactError, match=r"prompt_encoder/encoder.safetensors is missing"):
        trained(tmp_path / "child", base, "mlp", inside.parent)


def changed(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(inside: Path) -> None:
        tensors = load_file(inside / name)
        change(tensors)
        save_file(tensors, inside / name)

    return apply


def said(**values: Any) -> Callable[[Path], None]:
    def apply(inside: Path) -> None:
        path = inside / "state.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return apply


BIAS = "mlp_head.0.bias"
FOREIGN: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut short": (lambda i: (i / FILES[0]).write_bytes((i / FILES[0]).read_bytes()[:-9]) and None, "not a whole safet"),
    "a pickle": (lambda i: (i / FILES[1]).write_bytes(b"\x80\x04cos\nsystem\n.") and None, "not a whole safetensors"),
    "not finite": (
        changed(FILES[0], lambda t: t[BIAS].fill_(float("nan"))),
        f"{BIAS} holds values that are not finite",
    ),
    "whole numbers": (changed(FILES[0], lambda t: t.update({BIAS: t[BIAS].long()})), f"{BIAS} has dtype torch.int64"),
    "another shape": (changed(FILES[0], lambda t: t.update({BIAS: t[BIAS][:5].clone()})), rf"{BIAS} has shape \[5\]"),
    "one too few": (changed(FILES[1], lambda t: t.pop(f"exp_avg/{BIAS}")), f"exp_avg/{BIAS} has shape none"),
    "one too many": (changed(FILES[1], lambda t: t.update(extra=t[f"exp_avg/{BIAS}"] * 1)), "extra has shape"),
    "another encoder": (changed(FILES[0], lambda t: t[BIAS].add_(1.0)), "does not give the table beside it"),
    "a later schema": (said(schema=2), r"schema 2 is not the one this version reads \(1\)"),
    "no epochs": (said(epochs="two"), "does not say how many epochs"),
    "other files": (said(tensors={"../x.safetensors": {}}), "which tensors are kept"),
}


@pytest.mark.parametrize("fault", list(FOREIGN))
def test_a_file_that_is_not_what_was_written_is_refused_though_its_hash_agrees(
    base: Path, kept: dict[str, Path], tmp_path: Path, fault: str
) -> None:
    change, message = FOREIGN[fault]
    inside = torn(kept, tmp_path)
    change(inside)
    hashed_again(inside.parent)
    with pytest.raises(ArtifactError, match=message):
        trained(tmp_path / "child", base, "mlp", inside.parent)


def test_moments_of_other_tensors_are_refused(base: Path, kept: dict[str, Path], tmp_path: Path) -> None:
    parent = Path(shutil.copytree(kept["prompt"], tmp_path / "parent"))
    shutil.rmtree(parent / "optimizer")
    shutil.copytree(kept["lora"] / "optimizer", parent / "optimizer")
    hashed_again(parent)
    with pytest.raises(ArtifactError, match=r"exp_avg/model.layers.0.* and missing in what is trained"):
        trained(tmp_path / "child", base, "prompt", parent)


def test_a_kept_optimizer_of_other_tensors_is_refused_with_a_way_out(base: Path, tmp_path: Path) -> None:
    parent = make(tmp_path / "norms", "selective", base, **STEADY, update="norms")
    with pytest.raises(SpecError, match=r"kept for update: norms, and update: last_layers, layers: 1 is") as caught:
        make(tmp_path / "child", "selective", base, parent, update="last_layers")
    assert str(caught.value).endswith("→ set update and layers as they were, or make the parent without keep_optimizer")
    bare = make(tmp_path / "bare", "selective", base, **{**STEADY, "keep_optimizer": False}, update="norms")
    make(tmp_path / "other", "selective", base, bare, update="last_layers")
