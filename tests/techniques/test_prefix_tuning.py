"""prefix_tuning: PEFT's own prefix, in our packed rows, from the base's own keys and values."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from tailorbird.answerers.opening import open_bare, open_customization, open_foreign
from tailorbird.artifacts.layout import prefix_table, read_adapter, read_parts
from tailorbird.artifacts.parts import Decode, Prompt
from tailorbird.bases.model import load_model
from tailorbird.engine.model import Model
from tailorbird.engine.scoring import log_probabilities
from tailorbird.engine.segments import pack
from tailorbird.errors import ArtifactError, SpecError
from tailorbird.techniques.prefix_tuning import PrefixTuning, PrefixTuningSettings
from tailorbird.testing import make_tiny_base, tiny_rows, training_context

from .conftest import SHAPES
from .making import job, make


@pytest.fixture(scope="module")
def made(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("made")
    return {
        shape: make(folder / shape, "prefix_tuning", bases[shape], total_virtual_tokens=5, learning_rate=0.1)
        for shape in SHAPES
    }


def started(base: Path, **asked: Any) -> Model:
    model = Model(load_model(base))
    settings = PrefixTuningSettings(learning_rate=0.1, epochs=1, batch_rows=1, **asked)
    PrefixTuning().trainable(model, settings, training_context())
    assert model.kv is not None
    model.kv = model.kv.detach()
    return model


@pytest.mark.parametrize("shape", SHAPES)
def test_peft_opens_the_folder_with_equal_logits(
    bases: dict[str, Path], made: dict[str, Path], shape: str, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    answerer = open_customization(made[shape], bases[shape])
    ids = answerer.prompt(tiny_rows(1)[0].prompt)
    places, values = answerer.top_logits(ids, 20)
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(str(bases[shape])), str(made[shape])).eval()
    with torch.no_grad():
        logits = theirs(input_ids=torch.tensor([ids])).logits[0, -1]
    assert torch.allclose(logits[places], torch.tensor(values), atol=1e-4)
    assert max(abs(a - b) for a, b in zip(values, open_bare(bases[shape]).top_logits(ids, 20)[1], strict=True)) > 1e-3
    theirs.save_pretrained(str(tmp_path))  # and back: a folder that PEFT wrote is opened by us
    kv = read_adapter(tmp_path)["kv"]
    assert torch.equal(kv, read_parts(made[shape]).kv)
    foreign = open_foreign(
        tmp_path, bases[shape], prompt=Prompt("Name it."), decode=Decode("write"), device="cpu", dtype="float32",
        threads=1,
    )  # fmt: skip
    assert foreign.top_logits(ids, 20) == (places, values)


@pytest.mark.parametrize("shape", SHAPES)
def test_from_a_text_it_is_the_text_itself(bases: dict[str, Path], shape: str) -> None:
    """Untrained, a prefix that starts from a text gives what the base gives with that text before the rows."""
    text, rows = "abcdefg", [[5, 6, 7, 8], [9, 10]]
    model = started(bases[shape], total_virtual_tokens=7, initialization_text=text)
    asked = [(row, [True] * len(row)) for row in rows]
    with pytest.raises(ValueError, match="has nothing before it"):
        log_probabilities(model, asked)  # keys and values predict no token
    marks = [(row, [False] + [True] * (len(row) - 1)) for row in rows]
    with_prefix = log_probabilities(model, marks)
    model.kv = None
    ids = list(text.encode())
    with_text = log_probabilities(model, [(ids + row, [False] * len(ids) + mark) for row, mark in marks])
    assert with_prefix == pytest.approx(with_text, abs=1e-4)
    assert log_probabilities(model, marks) != pytest.approx(with_text, abs=1e-2)


def test_a_text_as_long_as_a_document_can_be_started_from(tmp_path: Path) -> None:
    base = make_tiny_base(tmp_path, "llama")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    model = started(base, total_virtual_tokens=2048, initialization_text="a long document. " * 200)
    assert model.kv is not None
    assert tuple(model.kv.shape) == (2, 2, 2, 2048, 8)
    batch, cached = pack([[5, 6, 7]], pairs=2048), model.cache_head([])
    with torch.no_grad():
        plain = model.forward(batch)[batch.ends]
        later = pack([[5, 6, 7]], cached=cached)
        assert torch.allclose(plain, model.forward(later)[later.ends], atol=1e-4)


def test_noise_is_as_widely_spread_as_the_bases_own_keys_and_values(bases: dict[str, Path]) -> None:
    """Layer by layer, keys apart from values: here the second layer's keys are made four times as large."""
    model = Model(load_model(bases["llama"]))
    with torch.no_grad():
        model.network.get_submodule("model.layers.1.self_attn.k_proj").weight.mul_(4.0)
    spreads = []
    for asked in ({"initialization": "random"}, {"initialization_text": "the quick brown fox jumps"}):
        settings = PrefixTuningSettings(learning_rate=0.1, epochs=1, batch_rows=1, total_virtual_tokens=400, **asked)  # type: ignore[arg-type]
        model.kv = None
        kv = PrefixTuning().trainable(model, settings, training_context()).parameters["prefix"].detach()
        spreads.append(kv.std(dim=(2, 3, 4)))
    noise, own = spreads
    assert torch.allclose(noise, own, rtol=0.35)
    assert float(noise[1, 0] / noise[0, 0]) > 3


@pytest.mark.parametrize("shape", SHAPES)
def test_every_way_of_answering_sees_the_prefix_and_no_batch_mate(
    bases: dict[str, Path], made: dict[str, Path], shape: str
) -> None:
    """Scoring, writing, walks, bits and drift: a row among others as alone, and other than without the prefix."""
    from tailorbird.types import Request

    answerer, bare = open_customization(made[shape], bases[shape]), open_bare(bases[shape], prompt=Prompt("Name it."))
    rows = tiny_rows(6)
    labelled = [Request(row.id, row.prompt, ("red", "green")) for row in rows]
    written = [Request(f"w{row.id}", row.prompt, max_new_tokens=6) for row in rows]
    together = list(answerer.answer([*labelled, *written]))
    alone = [next(iter(answerer.answer([request]))) for request in (*labelled, *written)]
    for a, b in zip(together, alone, strict=True):
        assert (a.label, a.text) == (b.label, b.text)
        if a.scores is not None and b.scores is not None:
            assert all(abs(a.scores[label] - b.scores[label]) < 1e-4 for label in a.scores)
    conversations, answers = [row.prompt for row in rows], [str(row.label) for row in rows]
    scores = answerer.score(conversations, answers)
    for a, answer, score in zip(together, answers, scores, strict=False):
        assert a.scores is not None
        assert a.scores[answer] == pytest.approx(score, abs=1e-3)  # cached head and trie; one packed forward
    texts = ["A text.", "Another, longer text of several words."]
    assert list(answerer.bits(texts)) == pytest.approx([next(answerer.bits([t])) for t in texts], abs=1e-3)
    assert list(answerer.bits(texts)) != pytest.approx(list(bare.bits(texts)), abs=1e-2)
    walks = bare.walks(conversations, max_new_tokens=4)
    drift = list(answerer.kl(walks, bare))
    assert drift == pytest.approx([next(answerer.kl([walk], bare)) for walk in walks], abs=1e-4)
    assert min(drift) > 1e-4
    assert list(bare.kl(walks, bare)) == [0.0] * len(walks)


def test_pairs_cost_attention_and_context_but_are_no_tokens(bases: dict[str, Path], made: dict[str, Path]) -> None:
    from tailorbird.errors import DataError
    from tailorbird.types import Message, Request, Role

    answerer = open_customization(made["llama"], bases["llama"])
    (answer,) = answerer.answer([Request("a", tiny_rows(1)[0].prompt, ("red", "green"))])
    prompt = len(answerer.prompt(tiny_rows(1)[0].prompt))
    assert answer.prompt_tokens == prompt
    with_pairs = answerer.cost_facts()["flops_per_request"]
    answerer.parts = answerer.parts.without({"kv"})
    tokens = prompt + answerer.seen.answer_tokens
    assert with_pairs - answerer.cost_facts()["flops_per_request"] == 4.0 * 2 * 4 * 8 * tokens * 5
    answerer = open_customization(made["llama"], bases["llama"])
    empty = len(answerer.prompt((Message(Role.USER, ""),)))
    longest = "x" * (512 - 5 - empty - 3)  # the answer's r, e, d and its end: two inner nodes, three that are read
    with pytest.raises(DataError, match=r"5 virtual and \d answer tokens are more than the context of 512"):
        list(answerer.answer([Request("a", (Message(Role.USER, longest + "xx"),), ("red",))]))


CHAINS = [("sft", {"weights", "kv"}), ("lora", {"low_rank", "kv"}), ("selective", {"delta", "kv"})]


@pytest.mark.parametrize(("other", "kinds"), CHAINS)
def test_it_stands_beside_what_others_train_in_either_order(
    bases: dict[str, Path], made: dict[str, Path], tmp_path: Path, other: str, kinds: set[str]
) -> None:
    small = {"rank": 4} if other == "lora" else {}
    after = make(tmp_path / "after", other, bases["llama"], made["llama"], **small)
    first = make(tmp_path / "first", other, bases["llama"], **small)
    before = make(tmp_path / "before", "prefix_tuning", bases["llama"], first, total_virtual_tokens=5)
    for folder in (after, before):
        parts = read_parts(folder)
        assert parts.kinds == kinds
        open_customization(folder, bases["llama"])  # compares the live model's logits
    assert torch.equal(read_parts(after).kv, read_parts(made["llama"]).kv)  # type: ignore[arg-type]


def test_it_goes_on_with_its_own_pairs(bases: dict[str, Path], made: dict[str, Path], tmp_path: Path) -> None:
    still = make(
        tmp_path / "still", "prefix_tuning", bases["llama"], made["llama"], total_virtual_tokens=5, learning_rate=1e-30
    )
    assert torch.equal(read_parts(still).kv, read_parts(made["llama"]).kv)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="goes on with 5 pairs, and 6 are asked for"):
        make(tmp_path / "child", "prefix_tuning", bases["llama"], made["llama"], total_virtual_tokens=6)
    for technique in ("prompt_tuning", "p_tuning"):
        with pytest.raises(SpecError, match="has no use for its part kv"):
            make(tmp_path / technique, technique, bases["llama"], made["llama"])


@pytest.mark.parametrize("shape", ["gpt2", "wide"])
def test_on_a_base_of_another_shape_it_is_refused_by_name(
    bases: dict[str, Path], made: dict[str, Path], tmp_path: Path, shape: str
) -> None:
    from tailorbird.engine.attaching import Attachment

    base = bases["gpt2"] if shape == "gpt2" else make_tiny_base(tmp_path, layers=3)
    which = "heads" if shape == "gpt2" else "layers"
    with pytest.raises(ArtifactError, match=rf"the prefix is \(2, 2, 2, 5, 8\), on this base .*: other {which}"):
        Attachment(Model(load_model(base)), read_parts(made["llama"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_layers": 3}, r"prompt_embeddings has shape \(5, 64\), its config says \(5, 96\)"),
        ({"num_virtual_tokens": 4}, r"its config says \(4, 64\)"),
        ({"num_attention_heads": 3}, "5, 2, 3, 16: no sizes of a prefix"),
        ({"num_attention_heads": 0}, "5, 2, 0, 16: no sizes of a prefix"),
        ({"token_dim": "16"}, "no sizes of a prefix"),
        ({"num_layers": None}, "no sizes of a prefix"),
    ],
)
def test_a_config_that_does_not_fit_its_tensor_is_refused(
    made: dict[str, Path], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    folder = Path(shutil.copytree(made["llama"], tmp_path / "made"))
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ArtifactError, match=message):
        read_adapter(folder)


@pytest.mark.parametrize("fault", ["not finite", "renamed", "extra"])
def test_a_tensor_that_is_not_the_prefix_is_refused(made: dict[str, Path], tmp_path: Path, fault: str) -> None:
    folder = Path(shutil.copytree(made["llama"], tmp_path / "made"))
    table = load_file(folder / "adapter_model.safetensors")["prompt_embeddings"]
    changed: dict[str, dict[str, torch.Tensor]] = {
        "not finite": {"prompt_embeddings": table.clone().fill_(float("inf"))},
        "renamed": {"prefix": table},
        "extra": {"prompt_embeddings": table, "more": table.clone()},
    }
    save_file(changed[fault], folder / "adapter_model.safetensors")
    with pytest.raises(ArtifactError, match="not finite" if fault == "not finite" else "prompt_embeddings alone"):
        read_adapter(folder)


@pytest.mark.parametrize("technique", ["prefix_tuning", "p_tuning"])
def test_in_bf16_what_is_opened_is_what_was_live(bases: dict[str, Path], tmp_path: Path, technique: str) -> None:
    """Keys, values and virtual tokens are kept in fp32; model and folder meet in their rounding."""
    from tailorbird.customize import customize

    customize(job(technique, bases["llama"], tmp_path / "work", dtype="bfloat16"), tmp_path / "made")
    answerer = open_customization(tmp_path / "made", bases["llama"])  # compares the check rows
    assert answerer.model.dtype == torch.bfloat16


def test_pefts_layout_by_hand() -> None:
    """Two layers, one head of size 1, two pairs: a row holds its keys and values layer by layer."""
    kv = torch.arange(8.0).view(2, 2, 1, 2, 1)  # layer, key or value, head, pair, size
    assert prefix_table(kv).tolist() == [[0.0, 2.0, 4.0, 6.0], [1.0, 3.0, 5.0, 7.0]]


def test_a_text_without_an_initialization_that_reads_it_is_refused() -> None:
    with pytest.raises(ValidationError, match="initialization_text is for initialization: text"):
        PrefixTuningSettings(
            learning_rate=0.1, epochs=1, batch_rows=1, initialization="random", initialization_text="a"
        )
