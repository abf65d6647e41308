"""p_tuning: the encoder is PEFT's, the table is what it gives, and nothing but the table answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from tailorbird.answerers.opening import open_customization
from tailorbird.artifacts.layout import read_parts
from tailorbird.bases.model import load_model
from tailorbird.engine.batches import Encoded, RowSource
from tailorbird.engine.model import Model
from tailorbird.techniques.p_tuning import PTuning, PTuningSettings, encoded
from tailorbird.testing import tiny_rows, training_context

from .conftest import SHAPES
from .making import make

SMALL = {"total_virtual_tokens": 4, "encoder_hidden_size": 12}
ENCODERS: dict[str, dict[str, Any]] = {
    "mlp": {"encoder": "mlp"},
    "lstm": {"encoder": "lstm"},
    "dropped": {"encoder": "lstm", "encoder_layers": 3, "encoder_dropout": 0.4},
}
ROWS = [Encoded(tuple(range(5, 9 + n)), (False,) * (3 + n) + (True,)) for n in range(8)]


@pytest.fixture(scope="module")
def made(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("made")
    return {name: make(folder / name, "p_tuning", bases["llama"], **SMALL, **asked) for name, asked in ENCODERS.items()}


def settings(**asked: Any) -> PTuningSettings:
    return PTuningSettings(learning_rate=0.01, epochs=1, batch_rows=4, **{**SMALL, **asked})


@pytest.mark.parametrize("encoder", list(ENCODERS))
def test_the_table_is_what_pefts_encoder_gives_with_our_tensors(made: dict[str, Path], encoder: str) -> None:
    from peft import PromptEncoder, PromptEncoderConfig

    asked = ENCODERS[encoder]
    config = PromptEncoderConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=4,
        token_dim=32,
        num_transformer_submodules=1,
        encoder_reparameterization_type=asked["encoder"].upper(),
        encoder_hidden_size=12,
        encoder_num_layers=asked.get("encoder_layers", 2),
        encoder_dropout=asked.get("encoder_dropout", 0.0),
    )
    theirs = PromptEncoder(config).eval()
    tensors = load_file(made[encoder] / "prompt_encoder" / "encoder.safetensors")
    theirs.load_state_dict(tensors, strict=True)
    table = read_parts(made[encoder]).soft
    assert table is not None
    with torch.no_grad():
        assert torch.allclose(theirs(torch.arange(4)), table, atol=1e-6)
    assert float((encoded(tensors) - table).abs().max()) == 0.0


@pytest.mark.parametrize("shape", SHAPES)
def test_peft_opens_the_folder_as_prompt_tuning_with_equal_logits(
    bases: dict[str, Path], tmp_path: Path, shape: str
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = make(tmp_path / "made", "p_tuning", bases[shape], **SMALL)
    assert json.loads((folder / "adapter_config.json").read_text())["peft_type"] == "PROMPT_TUNING"
    answerer = open_customization(folder, bases[shape])
    ids = answerer.prompt(tiny_rows(1)[0].prompt)
    places, values = answerer.top_logits(ids, 20)
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(str(bases[shape])), str(folder)).eval()
    with torch.no_grad():
        logits = theirs(input_ids=torch.tensor([ids])).logits[0, -1]
    assert torch.allclose(logits[places], torch.tensor(values), atol=1e-4)


def test_answering_reads_no_encoder(
    bases: dict[str, Path], made: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.torch

    opened: list[str] = []
    plain = safetensors.torch.load_file

    def watched(path: str, *arguments: Any, **named: Any) -> Any:
        opened.append(Path(path).name)
        return plain(path, *arguments, **named)

    monkeypatch.setattr(safetensors.torch, "load_file", watched)
    answerer = open_customization(made["dropped"], bases["llama"])
    assert "adapter_model.safetensors" in opened
    assert not {"encoder.safetensors", "optimizer.safetensors"} & set(opened)
    assert answerer.deployed_bytes < (made["dropped"] / "prompt_encoder" / "encoder.safetensors").stat().st_size
    assert answerer.model.soft_encoder is None


def test_what_is_exported_for_other_tools_has_no_encoder(
    bases: dict[str, Path], made: dict[str, Path], tmp_path: Path
) -> None:
    from tailorbird.exporting import export

    files = export(made["lstm"], tmp_path / "out", base_folder=bases["llama"]).files
    assert "adapter_model.safetensors" in files
    assert not [name for name in files if "encoder" in name or "optimizer" in name]


class Masks:
    """The virtual tokens of each micro-batch of a step."""

    def __init__(self, base: Path, **asked: Any) -> None:
        self.model = Model(load_model(base))
        PTuning().trainable(self.model, settings(**asked), training_context())

    def of(self, step: int, tokens: int = 10_000, first_epoch: int = 0) -> list[torch.Tensor]:
        options: dict[str, Any] = {"batch_rows": 4, "seed": 0, "soft": 4}
        source = RowSource(ROWS, micro_batch_tokens=tokens, first_epoch=first_epoch, **options)
        return [self.table(batch.packed.soft_keys) for batch in source.next(step)]

    def table(self, keys: torch.Tensor | None) -> torch.Tensor:
        assert self.model.soft_encoder is not None
        return self.model.soft_encoder(keys).detach()


def test_the_encoders_masks_belong_to_the_step_and_not_to_its_micro_batches(bases: dict[str, Path]) -> None:
    masks = Masks(bases["llama"], **ENCODERS["dropped"])
    (whole,) = masks.of(0)
    cut = masks.of(0, tokens=1)
    assert len(cut) == 4
    assert all(torch.equal(whole, table) for table in cut)
    assert not torch.equal(whole, masks.of(1)[0])
    assert not torch.equal(whole, masks.table(None))
    assert torch.equal(masks.of(3)[0], masks.of(1, first_epoch=1)[0])  # two steps an epoch


def test_a_third_of_what_passes_between_the_lstms_layers_is_dropped(bases: dict[str, Path]) -> None:
    """By hand: the input of the second layer, kept values scaled by 3/2; about a third are 0."""
    from tailorbird.engine.dropout import Dropout, token_keys

    dropout, seen = Dropout(1 / 3), []

    def drop(name: str, x: torch.Tensor) -> torch.Tensor:
        dropped = dropout.layer(name)(x)
        seen.append((name, x, dropped))
        return dropped

    generator = training_context().generator
    many = settings(encoder="lstm", total_virtual_tokens=200)
    tensors = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in many.shapes(32).items()}
    with dropout.over(token_keys([7], [200])):
        encoded(tensors, drop)
    ((name, x, dropped),) = seen
    assert name == "lstm_head.1"
    kept = dropped != 0
    assert abs(float(kept.float().mean()) - 2 / 3) < 0.02
    assert torch.allclose(dropped[kept], 1.5 * x[kept])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"encoder_layers": 3}, "encoder_layers is for encoder: lstm, and encoder is mlp"),
        ({"encoder_dropout": 0.1}, "encoder_dropout is for encoder: lstm, and encoder is mlp"),
        ({"encoder": "lstm", "encoder_layers": 1, "encoder_dropout": 0.1}, "between layers, and encoder_layers is 1"),
        ({"encoder_dropout": 1.0, "encoder": "lstm"}, "less than 1"),
        ({"encoder": "gru"}, "'mlp' or 'lstm'"),
    ],
)
def test_a_setting_without_effect_is_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**asked)


def test_an_lstm_is_run_in_the_mode_that_cudnn_goes_backward_in(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, modes = torch.lstm, []

    def watched(
        x: torch.Tensor, states: Any, weights: Any, biases: bool, layers: int, dropout: float, *flags: bool
    ) -> Any:
        modes.append((flags[0], dropout))
        return plain(x, states, weights, biases, layers, dropout, *flags)

    monkeypatch.setattr(torch, "lstm", watched)
    tensors = {"embedding.weight": torch.randn(3, 8)}
    for way in ("", "_reverse"):
        tensors |= {f"lstm_head.weight_ih_l0{way}": torch.randn(16, 8), f"lstm_head.bias_ih_l0{way}": torch.randn(16)}
        tensors |= {f"lstm_head.weight_hh_l0{way}": torch.randn(16, 4), f"lstm_head.bias_hh_l0{way}": torch.randn(16)}
    assert encoded(tensors).shape == (3, 8)
    assert modes == [(True, 0.0)]
