"""peft: each method offered is PEFT's own, in our packed rows and in PEFT's own files, on both shapes of base."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from tailorbird.answerers.opening import open_bare, open_customization, open_foreign, release
from tailorbird.artifacts.layout import read_adapter
from tailorbird.artifacts.parts import Decode, Parts, Prompt
from tailorbird.bases.model import load_model
from tailorbird.engine.attaching import Attachment
from tailorbird.engine.batches import Encoded, RowSource
from tailorbird.engine.model import Model
from tailorbird.engine.train import token_loss
from tailorbird.errors import ArtifactError, SpecError
from tailorbird.techniques.peft_method import PeftSettings
from tailorbird.testing import make_tiny_base, tiny_rows, training_context
from tailorbird.types import Request

from .making import make

METHODS = ["dora", "ia3", "vera", "loha"]
OFFERED = [("llama", method) for method in METHODS] + [("gpt2", method) for method in METHODS if method != "loha"]
RANK = {"dora": {"rank": 4}, "ia3": {}, "vera": {"rank": 32}, "loha": {"rank": 4}}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {shape: make_tiny_base(tmp_path_factory.mktemp(shape), shape) for shape in ("llama", "gpt2")}


@pytest.fixture(scope="module")
def made(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    folder = tmp_path_factory.mktemp("made")
    return {
        (shape, method): make(folder / f"{shape}-{method}", "peft", bases[shape], method=method, **RANK[method])
        for shape, method in OFFERED
    }


@pytest.mark.parametrize(("shape", "method"), OFFERED)
def test_peft_itself_opens_what_was_made_with_equal_logits(
    bases: dict[str, Path], made: dict[tuple[str, str], Path], shape: str, method: str
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder, base = made[shape, method], bases[shape]
    answerer = open_customization(folder, base)  # compares the check rows with those of the live model
    ids = answerer.prompt(tiny_rows(1)[0].prompt)
    places, values = answerer.top_logits(ids, 20)
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(str(base)), str(folder)).eval()
    with torch.no_grad():
        logits = theirs(input_ids=torch.tensor([ids])).logits[0, -1]
    assert torch.allclose(logits[places], torch.tensor(values), atol=1e-4)
    assert (places, values) != open_bare(base).top_logits(ids, 20)


@pytest.mark.parametrize(("shape", "method"), OFFERED)
def test_a_row_alone_equals_the_row_among_others(
    bases: dict[str, Path], made: dict[tuple[str, str], Path], shape: str, method: str
) -> None:
    answerer = open_customization(made[shape, method], bases[shape])
    requests = [Request(row.id, row.prompt, ("red", "green")) for row in tiny_rows(8)]
    together = list(answerer.answer(requests))
    for request, among in zip(requests, together, strict=True):
        (alone,) = answerer.answer([request])
        assert alone.scores is not None
        assert among.scores is not None
        assert all(abs(alone.scores[label] - among.scores[label]) < 1e-4 for label in alone.scores)


@pytest.mark.parametrize(("shape", "method"), OFFERED)
def test_the_gradient_of_packed_rows_is_that_of_rows_alone(bases: dict[str, Path], shape: str, method: str) -> None:
    from tailorbird.techniques.peft_method import PeftMethod

    settings = PeftSettings(learning_rate=0.1, epochs=1, batch_rows=4, method=method, **RANK[method])  # type: ignore[arg-type]
    rows = [Encoded(tuple(range(5, 9 + n)), (False,) * (3 + n) + (True,)) for n in range(4)]
    gradients = []
    for tokens in (10_000, 1):
        model = Model(load_model(bases[shape]).double())
        model.network.requires_grad_(False)
        trainable = PeftMethod().trainable(model, settings, training_context(3))
        with torch.no_grad():  # away from the start, where some gradients are zero
            for number, parameter in enumerate(trainable.parameters.values()):
                parameter.data = parameter.data.double()
                parameter += 0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
        for module in model.network.modules():
            module.double()
        source = RowSource(rows, batch_rows=4, micro_batch_tokens=tokens, seed=0)
        for batch in source.next(0):
            token_loss(model, batch).backward()  # type: ignore[no-untyped-call]
        gradients.append({name: p.grad for name, p in trainable.parameters.items()})
    packed, alone = gradients
    tolerance = 1e-9 if shape == "gpt2" else 1e-5  # Llama's norm computes in fp32 whatever the type
    assert all(value is not None for value in packed.values())
    for name, value in packed.items():
        assert torch.allclose(value, alone[name], rtol=tolerance, atol=tolerance), name


@pytest.mark.parametrize("method", METHODS)
def test_taken_off_again_nothing_of_the_base_has_changed(
    bases: dict[str, Path], made: dict[tuple[str, str], Path], method: str
) -> None:
    answerer = open_customization(made["llama", method], bases["llama"])
    own = dict(load_model(bases["llama"]).named_parameters())
    modules = [type(m) for m in load_model(bases["llama"]).modules()]
    with answerer.attached():
        assert [type(m) for m in answerer.model.network.modules()] != modules
    assert [type(m) for m in answerer.model.network.modules()] == modules
    assert not hasattr(answerer.model.network, "peft_config")
    found = dict(answerer.model.network.named_parameters())
    assert found.keys() == own.keys()
    assert all(torch.equal(found[name], own[name]) for name in own)


@pytest.mark.parametrize("method", ["dora", "vera"])
def test_in_bf16_it_is_reopened_as_it_was_measured(bases: dict[str, Path], tmp_path: Path, method: str) -> None:
    folder = make(tmp_path / "made", "peft", bases["llama"], dtype="bfloat16", method=method, **RANK[method])
    open_customization(folder, bases["llama"])


@pytest.mark.parametrize("method", METHODS)
def test_merged_weights_answer_as_the_layers_do(
    bases: dict[str, Path], made: dict[tuple[str, str], Path], tmp_path: Path, method: str
) -> None:
    from tailorbird.exporting import export

    done = export(made["llama", method], tmp_path / "merged", base_folder=bases["llama"], merge=True)
    assert done.difference is not None
    assert done.difference < 1e-4


def test_a_dora_adapter_made_elsewhere_is_opened(bases: dict[str, Path], tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = LoraConfig(
        r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False, use_dora=True
    )
    theirs = get_peft_model(AutoModelForCausalLM.from_pretrained(str(bases["llama"])), config).eval()
    theirs.save_pretrained(str(tmp_path / "theirs"))
    release()
    answerer = open_foreign(
        tmp_path / "theirs",
        bases["llama"],
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


Change = Callable[[dict[str, torch.Tensor]], object]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update({k: v * float("nan") for k, v in list(t.items())[:1]}), "not finite"),
        (lambda t: t.pop(next(k for k in t if "magnitude" in k)), "lora_magnitude_vector is missing"),
        (lambda t: t.update({"renamed": t.pop(next(iter(t)))}), "is missing|renamed has no place"),
        (lambda t: t.update({k: v[:, :3].clone() for k, v in list(t.items())[:1]}), "the base needs"),
        (lambda t: t.clear(), "holds no tensors"),
    ],
    ids=["nan", "missing", "renamed", "shape", "empty"],
)
def test_a_wrong_tensor_is_refused_by_name(
    bases: dict[str, Path], made: dict[tuple[str, str], Path], tmp_path: Path, change: Change, message: str
) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(made["llama", "dora"], tmp_path / "dora"))
    tensors = {k: v.clone() for k, v in load_file(str(folder / "adapter_model.safetensors")).items()}
    change(tensors)
    save_file(tensors, str(folder / "adapter_model.safetensors"))
    model = Model(load_model(bases["llama"]))
    with pytest.raises(ArtifactError, match=message):
        Attachment(model, Parts(Prompt(), Decode("write"), **read_adapter(folder)))
    assert not any(hasattr(layer, "base_layer") for layer in model.network.modules())


def test_what_is_not_offered_is_refused_with_what_is() -> None:
    training = {"learning_rate": 0.1, "epochs": 1, "batch_rows": 1}
    with pytest.raises(ValidationError, match="'dora', 'ia3', 'loha' or 'vera'"):
        PeftSettings.model_validate({**training, "method": "adalora"})
    with pytest.raises(ValidationError, match="ia3 has no rank"):
        PeftSettings.model_validate({**training, "method": "ia3", "rank": 4})
    with pytest.raises(ValidationError, match="vera has no alpha"):
        PeftSettings.model_validate({**training, "method": "vera", "alpha": 4.0})


def test_a_method_that_a_base_does_not_bear_is_refused_in_pefts_words(bases: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="PEFT cannot do this on GPT2LMHeadModel: Target module of type"):
        make(tmp_path / "made", "peft", bases["gpt2"], method="loha")
    with pytest.raises(SpecError, match="peft targets \\['none'\\] name no linear layer"):
        make(tmp_path / "made", "peft", bases["llama"], targets=("none",))
