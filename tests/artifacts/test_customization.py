"""What loads is what was measured: every fault in a customization folder is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tailorbird import tasks, techniques
from tailorbird.answerers.opening import open_customization, open_foreign, release
from tailorbird.artifacts.layout import read_adapter
from tailorbird.artifacts.parts import Decode, Prompt
from tailorbird.bases.facts import base_facts
from tailorbird.customize import Compute, Job, customize
from tailorbird.engine.scoring import top_logits
from tailorbird.errors import ArtifactError, ResourceError, SafetyError, TailorbirdError
from tailorbird.testing import make_tiny_base, tiny_rows
from tailorbird.types import Train, Tuning

QUICK = {"epochs": 2, "batch_rows": 4, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("base"))


def make(technique: str, base: Path, folder: Path, **changes: Any) -> Path:
    rows = tiny_rows(8)
    facts, shelf = base_facts(base), techniques.get(technique)
    asked = {**QUICK, **changes} if shelf.trained else {}
    job = Job(
        label=technique,
        technique=technique,
        settings=shelf.settings(asked, facts, len(rows)).model_dump(),
        asked=asked,
        base=facts,
        task=tasks.build("classify", instruction="Name it.", labels=tasks.labels_in(rows)),
        train=Train(rows),
        tuning=Tuning(tiny_rows(12)[8:]),
        seed=0,
        compute=Compute(),
        work=folder / f"work-{technique}",
    )
    customize(job, folder / technique)
    return folder / technique


@pytest.fixture(scope="module")
def made(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("made")
    names = ("zero_shot", "prompt_tuning", "lora", "selective", "sft")
    return {name: make(name, base, folder) for name in names}


@pytest.fixture
def lora(made: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made["lora"], tmp_path / "lora"))


@pytest.mark.parametrize("technique", ["zero_shot", "prompt_tuning", "lora", "selective", "sft"])
def test_a_flipped_bit_in_any_file_is_refused(
    made: dict[str, Path], base: Path, tmp_path: Path, technique: str
) -> None:
    folder = Path(shutil.copytree(made[technique], tmp_path / technique))
    for file in sorted(p for p in folder.iterdir() if p.name != "manifest.json"):
        good = file.read_bytes()
        broken = bytearray(good)
        broken[len(good) // 2] ^= 1
        file.write_bytes(bytes(broken))
        with pytest.raises(ArtifactError, match=f"{file.name} is not the file that was measured"):
            open_customization(folder, base)
        file.write_bytes(good)
    open_customization(folder, base)


def test_a_missing_or_added_file_is_refused(lora: Path, base: Path) -> None:
    (lora / "prompt.json").rename(lora / "prompt2.json")
    with pytest.raises(ArtifactError, match=r"prompt\.json is missing"):
        open_customization(lora, base)
    (lora / "prompt2.json").rename(lora / "prompt.json")
    (lora / "extra.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"extra\.json does not belong"):
        open_customization(lora, base)


def test_another_base_of_the_same_shape_is_refused(lora: Path, tmp_path: Path) -> None:
    other = make_tiny_base(tmp_path / "other", seed=1)
    with pytest.raises(ArtifactError, match="made for another base"):
        open_customization(lora, other)


def test_a_manifest_of_another_schema_is_refused(lora: Path, base: Path) -> None:
    manifest = json.loads((lora / "manifest.json").read_text())
    (lora / "manifest.json").write_text(json.dumps({**manifest, "schema": 99}))
    with pytest.raises(ArtifactError, match="schema 99 is not the one this version reads"):
        open_customization(lora, base)
    (lora / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match="is not readable JSON"):
        open_customization(lora, base)


def test_changed_check_logits_are_refused(lora: Path, base: Path) -> None:
    """The last guard: all hashes right, yet the computation gives something else."""
    manifest = json.loads((lora / "manifest.json").read_text())
    manifest["check_rows"][1]["top_logits"][0] += 0.01
    (lora / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="check row 2: logits differ"):
        open_customization(lora, base)


def test_a_pickle_beside_is_refused_unopened(lora: Path, base: Path) -> None:
    (lora / "adapter_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(SafetyError, match="can run code") as refused:
        open_customization(lora, base)
    assert refused.value.exit_code == 7


Change = Callable[[dict[str, object]], object]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update({k: v * float("nan") for k, v in list(t.items())[:1]}), "not finite"),
        (lambda t: t.pop(next(k for k in t if "lora_B" in k)), "lora_B.weight is missing"),
        (lambda t: t.update({"base_model.model.renamed": t.pop(next(iter(t)))}), "unexpected tensor"),
        (lambda t: t.update({k: v.t().contiguous() for k, v in list(t.items())[:1]}), "do not fit rank"),
        (lambda t: t.clear(), "holds no tensors"),
    ],
    ids=["nan", "missing", "renamed", "transposed", "empty"],
)
def test_a_wrong_tensor_is_refused_by_name(lora: Path, change: Change, message: str) -> None:
    from safetensors.torch import load_file, save_file

    tensors = {k: v.clone() for k, v in load_file(str(lora / "adapter_model.safetensors")).items()}
    change(tensors)
    save_file(tensors, str(lora / "adapter_model.safetensors"))
    with pytest.raises(ArtifactError, match=message):
        read_adapter(lora)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update({k: v * float("inf") for k, v in list(t.items())[:1]}), "not finite"),
        (lambda t: t.update({"model.renamed": t.pop(next(iter(t)))}), "changes model.renamed, which is no parameter"),
        (lambda t: t.update({k: v[:1].clone() for k, v in list(t.items())[:1]}), "the delta is .*, the base's"),
        (lambda t: t.clear(), "holds no tensors"),
    ],
    ids=["inf", "renamed", "shape", "empty"],
)
def test_a_wrong_tensor_of_a_delta_is_refused_by_name(
    made: dict[str, Path], base: Path, tmp_path: Path, change: Change, message: str
) -> None:
    from safetensors.torch import load_file, save_file

    from tailorbird import store

    folder = Path(shutil.copytree(made["selective"], tmp_path / "selective"))
    tensors = {k: v.clone() for k, v in load_file(str(folder / "delta.safetensors")).items()}
    change(tensors)
    save_file(tensors, str(folder / "delta.safetensors"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["delta.safetensors"] = store.sha256_file(folder / "delta.safetensors")  # all hashes right
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=message):
        open_customization(folder, base)


def test_a_value_missing_from_a_delta_is_seen_in_the_check_rows(
    made: dict[str, Path], base: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    from tailorbird import store

    folder = Path(shutil.copytree(made["selective"], tmp_path / "selective"))
    tensors = {k: v.clone() for k, v in load_file(str(folder / "delta.safetensors")).items()}
    tensors.pop(next(k for k in tensors if "down_proj" in k))
    save_file(tensors, str(folder / "delta.safetensors"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["delta.safetensors"] = store.sha256_file(folder / "delta.safetensors")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="check row 1: logits differ"):
        open_customization(folder, base)


def test_a_file_cut_anywhere_is_refused(lora: Path) -> None:
    path = lora / "adapter_model.safetensors"
    good = path.read_bytes()
    header = 8 + int.from_bytes(good[:8], "little")
    for size in [*range(32), *range(32, header, 97), *(header + i * (len(good) - header) // 20 for i in range(20))]:
        path.write_bytes(good[:size])
        with pytest.raises(TailorbirdError):
            read_adapter(lora)
    path.write_bytes(good + b"tail")
    with pytest.raises(ArtifactError):
        read_adapter(lora)


@pytest.mark.parametrize("shape", ["llama", "gpt2"])
@pytest.mark.parametrize(
    ("technique", "asked"),
    [("lora", {}), ("lora", {"rslora": True}), ("prompt_tuning", {})],
    ids=["lora", "rslora", "prompt_tuning"],
)
def test_peft_opens_an_adapter_with_equal_logits(
    technique: str, asked: dict[str, Any], shape: str, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = make_tiny_base(tmp_path / "base", shape)  # type: ignore[arg-type]
    folder = make(technique, base, tmp_path, **asked)
    answerer = open_customization(folder, base)
    ids = answerer.prompt(tiny_rows(1)[0].prompt)
    places, values = answerer.top_logits(ids, 20)
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(str(base)), str(folder)).eval()
    with torch.no_grad():
        logits = theirs(input_ids=torch.tensor([ids])).logits[0, -1]
    assert torch.allclose(logits[places], torch.tensor(values), atol=1e-4)


def test_transformers_opens_whole_weights_with_equal_logits(made: dict[str, Path], base: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    answerer = open_customization(made["sft"], base)
    messages = tiny_rows(1)[0].prompt
    ids = answerer.prompt(messages)
    places, values = answerer.top_logits(ids, 20)
    theirs = AutoModelForCausalLM.from_pretrained(str(made["sft"])).eval()
    with torch.no_grad():
        logits = theirs(input_ids=torch.tensor([ids])).logits[0, -1]
    assert torch.allclose(logits[places], torch.tensor(values), atol=1e-4)
    conversation = [{"role": "system", "content": "Name it."}, *(m.as_dict() for m in messages)]
    tokenizer = AutoTokenizer.from_pretrained(str(made["sft"]))
    rendered = tokenizer.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
    assert tokenizer(rendered, add_special_tokens=False)["input_ids"] == ids


@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapter_made_by_peft_is_opened(base: Path, tmp_path: Path, rslora: bool) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False,
        use_rslora=rslora,
    )  # fmt: skip
    theirs = get_peft_model(AutoModelForCausalLM.from_pretrained(str(base)), config).eval()
    theirs.save_pretrained(str(tmp_path / "theirs"))
    release()
    answerer = open_foreign(
        tmp_path / "theirs",
        base,
        prompt=Prompt("Name it."),
        decode=Decode("write"),
        device="cpu",
        dtype="float32",
        threads=1,
    )
    ids = answerer.prompt(tiny_rows(1)[0].prompt)
    places, values = answerer.top_logits(ids, 20)
    with torch.no_grad():
        logits = theirs(input_ids=torch.tensor([ids])).logits[0, -1]
    assert torch.allclose(logits[places], torch.tensor(values), atol=1e-4)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("init_lora_weights", "pissa", "this LORA adapter began as 'pissa', an initialization that changes the base"),
        ("init_lora_weights", "pissa_niter_4", "began as 'pissa_niter_4'"),
        ("init_lora_weights", "olora", "began as 'olora'"),
        ("init_lora_weights", "corda", "began as 'corda'"),
        ("init_lora_weights", "loftq", "began as 'loftq'"),
        ("alora_invocation_tokens", [7, 8], "this LORA adapter uses alora_invocation_tokens, which is not supported"),
        ("use_qalora", True, "uses use_qalora, which"),
        ("rank_pattern", {"q_proj": 2}, "uses rank_pattern, which"),
        ("bias", "all", "uses bias, which"),
        ("of_a_later_version", True, "uses of_a_later_version, which"),
    ],
)
def test_a_lora_that_is_more_than_a_and_b_is_refused_by_name(lora: Path, field: str, value: Any, message: str) -> None:
    config = json.loads((lora / "adapter_config.json").read_text())
    (lora / "adapter_config.json").write_text(json.dumps({**config, field: value}))
    with pytest.raises(ArtifactError, match=message):
        read_adapter(lora)


@pytest.mark.parametrize("start", [True, False, "gaussian", "eva", "orthogonal"])
def test_the_configuration_as_peft_itself_writes_it_is_read(lora: Path, start: Any) -> None:
    from peft import LoraConfig

    own = json.loads((lora / "adapter_config.json").read_text())
    made = LoraConfig(
        r=own["r"], lora_alpha=own["lora_alpha"], lora_dropout=0.1, target_modules=own["target_modules"],
        exclude_modules=["lm_head"], layers_to_transform=[0, 1], task_type="CAUSAL_LM",
    )  # fmt: skip
    made.init_lora_weights = start
    (lora / "adapter_config.json").unlink()
    made.save_pretrained(str(lora))
    written = json.loads((lora / "adapter_config.json").read_text())
    assert written.keys() >= {"megatron_core", "qalora_group_size", "loftq_config", "peft_version"}
    assert read_adapter(lora)["low_rank"].rank == own["r"]


def test_forgetting_is_exactly_zero_with_an_untouched_base(base: Path, made: dict[str, Path]) -> None:
    from tailorbird.answerers.opening import open_bare

    texts = ["The cat sat on the mat.", "Water boils at 100 degrees."]
    bare = list(open_bare(base).bits(texts))
    assert list(open_customization(made["zero_shot"], base).bits(texts)) == bare
    assert list(open_customization(made["sft"], base).bits(texts)) != bare
    assert list(open_customization(made["prompt_tuning"], base).bits(texts)) != bare
    assert list(open_bare(base).bits(texts)) == bare


@pytest.mark.parametrize("technique", ["prompt_tuning", "lora", "selective"])
def test_taken_off_again_a_customization_has_changed_nothing_of_the_base(
    base: Path, made: dict[str, Path], technique: str
) -> None:
    import torch

    answerer = open_customization(made[technique], base)
    ids = answerer.prompt(tiny_rows(1)[0].prompt)
    untouched = open_bare_logits(base, ids)
    weights = {name: tensor.clone() for name, tensor in answerer.model.network.state_dict().items()}
    assert answerer.top_logits(ids) != untouched
    assert top_logits(answerer.model, ids) == untouched
    assert all(torch.equal(tensor, weights[name]) for name, tensor in answerer.model.network.state_dict().items())


def open_bare_logits(base: Path, ids: list[int]) -> tuple[list[int], list[float]]:
    from tailorbird.answerers.opening import open_bare

    return open_bare(base).top_logits(ids)


def test_merged_weights_answer_as_the_adapter_does(made: dict[str, Path], base: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from tailorbird.exporting import export

    done = export(made["lora"], tmp_path / "merged", base_folder=base, merge=True)
    assert done.difference is not None
    assert done.effect is not None
    assert done.difference < 1e-4 < done.effect
    answerer = open_customization(made["lora"], base)
    ids = answerer.prompt(tiny_rows(1)[0].prompt)
    places, values = answerer.top_logits(ids, 20)
    theirs = AutoModelForCausalLM.from_pretrained(str(tmp_path / "merged")).eval()
    with torch.no_grad():
        logits = theirs(input_ids=torch.tensor([ids])).logits[0, -1]
    assert torch.allclose(logits[places], torch.tensor(values), atol=1e-4)
    with pytest.raises(TailorbirdError, match="has whole weights already"):
        export(made["sft"], tmp_path / "other", base_folder=base, merge=True)
    assert not (tmp_path / "other").exists()


def test_nothing_is_merged_into_another_base(made: dict[str, Path], tmp_path: Path) -> None:
    from tailorbird.exporting import export

    other = make_tiny_base(tmp_path / "other", seed=1)
    with pytest.raises(ArtifactError, match="made for another base: it needs sha256:"):
        export(made["lora"], tmp_path / "merged", base_folder=other, merge=True)
    assert not (tmp_path / "merged").exists()


def test_what_answers_otherwise_than_measured_is_not_merged(lora: Path, base: Path, tmp_path: Path) -> None:
    from tailorbird.exporting import export

    manifest = json.loads((lora / "manifest.json").read_text())
    manifest["check_rows"][0]["top_logits"][0] += 1.0
    (lora / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="check row 1: logits differ from the measured ones by 1 "):
        export(lora, tmp_path / "merged", base_folder=base, merge=True)
    assert not (tmp_path / "merged").exists()


def test_a_delta_is_merged_and_not_exported_apart(made: dict[str, Path], base: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from tailorbird.exporting import export

    with pytest.raises(TailorbirdError, match="which no other tool reads apart\n  → export it with --merge"):
        export(made["selective"], tmp_path / "apart", base_folder=base)
    export(made["selective"], tmp_path / "merged", base_folder=base, merge=True)
    answerer = open_customization(made["selective"], base)
    ids = answerer.prompt(tiny_rows(1)[0].prompt)
    places, values = answerer.top_logits(ids, 20)
    theirs = AutoModelForCausalLM.from_pretrained(str(tmp_path / "merged")).eval()
    with torch.no_grad():
        logits = theirs(input_ids=torch.tensor([ids])).logits[0, -1]
    assert torch.allclose(logits[places], torch.tensor(values), atol=1e-4)


def test_a_type_that_would_lose_the_change_is_refused(base: Path, tmp_path: Path) -> None:
    """An adapter that hardly moves the logits: in bf16 the rounding of the weights is as large as all it does."""
    from tailorbird.exporting import export

    folder = make("lora", base, tmp_path, epochs=1, learning_rate=1e-5)
    with pytest.raises(ArtifactError, match="merging in bfloat16 changes logits by") as refused:
        export(folder, tmp_path / "bf16", base_folder=base, merge=True, dtype="bfloat16")
    assert str(refused.value).endswith("→ export it unmerged, or merge in float32")
    assert not (tmp_path / "bf16").exists()
    done = export(folder, tmp_path / "fp32", base_folder=base, merge=True)
    assert done.difference is not None
    assert done.difference < 1e-4


def test_a_type_that_keeps_the_change_is_taken(base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from tailorbird.exporting import export

    folder = make("lora", base, tmp_path, epochs=40, learning_rate=0.01)
    done = export(folder, tmp_path / "bf16", base_folder=base, merge=True, dtype="bfloat16")
    assert done.difference is not None
    assert done.effect is not None
    assert done.difference < 0.1 * done.effect
    assert {str(t.dtype) for t in load_file(str(tmp_path / "bf16" / "model.safetensors")).values()} == {
        "torch.bfloat16"
    }
    assert json.loads((tmp_path / "bf16" / "config.json").read_text())["dtype"] == "bfloat16"
    with pytest.raises(TailorbirdError, match="cannot be merged in 'int8'"):
        export(folder, tmp_path / "int8", base_folder=base, merge=True, dtype="int8")


def test_export_leaves_what_peers_read(made: dict[str, Path], base: Path, tmp_path: Path) -> None:
    from tailorbird.exporting import export

    names = export(made["prompt_tuning"], tmp_path / "out", base_folder=base).files
    assert {"adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "tokenizer.json"} <= set(names)
    assert "manifest.json" not in names
    with pytest.raises(TailorbirdError, match="exists and is not empty"):
        export(made["prompt_tuning"], tmp_path / "out", base_folder=base)
    with pytest.raises(ResourceError, match="cannot be written"):  # a file stands where a folder should
        export(made["prompt_tuning"], tmp_path / "out" / "tokenizer.json" / "below", base_folder=base)
