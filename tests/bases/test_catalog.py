"""Which folder a name means, and what is refused before anything could be opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tailorbird.bases import catalog
from tailorbird.bases.doctor import doctor_facts
from tailorbird.errors import ArtifactError, ResourceError, SafetyError, SpecError, TailorbirdError


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def test_a_known_base_that_is_absent_names_the_command() -> None:
    with pytest.raises(ResourceError) as caught:
        catalog.resolve("smollm2-135m")
    assert str(caught.value) == (
        "the base smollm2-135m is not on this machine\n  → run: tailorbird bases get smollm2-135m"
    )
    assert caught.value.exit_code == 6


def test_a_folder_is_found_beside_the_spec(make_base: Any, tmp_path: Path) -> None:
    folder = make_base("mine")
    assert catalog.resolve("mine", root=tmp_path) == catalog.resolve(str(folder)) == folder.resolve()


def test_a_known_base_is_found_in_the_home(make_base: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TAILORBIRD_HOME", str(tmp_path))
    folder = make_base("bases/smollm2-135m")
    assert catalog.resolve("smollm2-135m") == folder


def test_a_hub_id_is_taken_from_the_local_cache_only(
    make_base: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(ResourceError, match=r"neither a folder nor a model in this machine's Hugging Face cache"):
        catalog.resolve("maker/model")
    folder = make_base("hub/models--maker--model/snapshots/abc")
    refs = folder.parent.parent / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    assert catalog.resolve("maker/model") == folder
    from tailorbird.bases.facts import base_facts

    assert base_facts(folder).name == "maker/model"


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("smolm2-135m", ResourceError, "did you mean 'smollm2-135m'"),
        ("nowhere", ResourceError, "no base and no folder called 'nowhere'"),
        ("model.gguf", SpecError, "a GGUF file cannot be customized directly"),
        ("../maker/model/x", ResourceError, "no base and no folder called"),
    ],
)
def test_names_that_mean_nothing(name: str, error: type[TailorbirdError], said: str) -> None:
    with pytest.raises(error, match=said):
        catalog.resolve(name)


def test_a_file_is_not_a_base(tmp_path: Path) -> None:
    (tmp_path / "base").write_text("x")
    with pytest.raises(SpecError, match="a base is a folder, not a file"):
        catalog.resolve("base", root=tmp_path)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_a_model_with_its_own_code_is_refused(make_base: Any, file: str) -> None:
    folder = make_base()
    edit(folder / file, auto_map={"AutoModelForCausalLM": "modeling.Evil"})
    with pytest.raises(
        SafetyError, match=rf"{file} has 'auto_map': this model wants to run its own Python code"
    ) as caught:
        catalog.resolve(str(folder))
    assert caught.value.exit_code == 7


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl"])
def test_pickled_weights_are_refused(make_base: Any, name: str) -> None:
    folder = make_base()
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(SafetyError, match=r"the weights are pickled"):
        catalog.resolve(str(folder))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_that_lacks_a_file_is_named(make_base: Any, name: str) -> None:
    folder = make_base()
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=r"in this folder"):
        catalog.resolve(str(folder))


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '"text"'])
def test_a_config_that_is_not_json_is_named(make_base: Any, text: str) -> None:
    folder = make_base()
    (folder / "config.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"not (valid JSON|a JSON object)"):
        catalog.resolve(str(folder))


def test_the_list_says_what_is_present_and_what_fits(
    make_base: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TAILORBIRD_HOME", str(tmp_path))
    make_base("bases/mine")
    listed = {base.name: base for base in catalog.list_bases(memory_bytes=2_000_000_000)}
    assert not listed["smollm2-135m"].present
    assert listed["smollm2-135m"].licence == "Apache-2.0"
    assert listed["smollm2-135m"].fits == "inference and adapters; not full fine-tuning"
    assert listed["mine"].present
    assert listed["mine"].fits == "everything, full fine-tuning too"
    assert listed["mine"].folder_bytes == 4 * listed["mine"].parameters
    assert {b.fits for b in catalog.list_bases(memory_bytes=1) if not b.present} == {"no"}


def test_memory_estimates_grow_with_the_model_and_training_needs_more() -> None:
    assert catalog.full_training_bytes(10**9) > catalog.inference_bytes(10**9) > catalog.inference_bytes(10**8)


def test_the_doctor_gets_its_facts_without_torch() -> None:
    facts = doctor_facts(import_torch=False)
    json.dumps(facts)
    assert facts["home_writable"]
    assert facts["memory_bytes"] >= facts["free_memory_bytes"] > 0
    assert [b["name"] for b in facts["bases"]] == ["smollm2-135m", "smollm2-135m-hub"]
