"""prompt_tuning: what the matrix starts from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from tailorbird.bases.model import load_model
from tailorbird.engine.model import Model
from tailorbird.errors import SpecError
from tailorbird.techniques.base import TrainingContext
from tailorbird.techniques.prompt_tuning import PromptTuning, PromptTuningSettings
from tailorbird.testing import make_tiny_base, training_context

from .making import job


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("base"))


def start(base: Path, context: TrainingContext, **asked: Any) -> tuple[Model, torch.Tensor]:
    model = Model(load_model(base))
    settings = PromptTuningSettings(learning_rate=0.1, epochs=1, batch_rows=1, **asked)
    return model, PromptTuning().trainable(model, settings, context).parameters["prompt_embeddings"].detach()


def test_a_text_is_repeated_or_cut_to_length(base: Path) -> None:
    asked = {"initialization": "text", "initialization_text": "abc"}
    model, longer = start(base, training_context(), total_virtual_tokens=7, **asked)
    assert torch.equal(longer, model.embedding_weight[torch.tensor([97, 98, 99, 97, 98, 99, 97])])
    model, shorter = start(base, training_context(), total_virtual_tokens=2, **asked)
    assert torch.equal(shorter, model.embedding_weight[torch.tensor([97, 98])])


def test_without_a_text_of_its_own_it_starts_from_the_tasks_words(base: Path) -> None:
    model, own = start(base, training_context(), total_virtual_tokens=12, initialization="text")
    assert torch.equal(own, model.embedding_weight[torch.tensor(list(b"Name it.\nred"))])


def test_the_tasks_words_are_its_instruction_and_its_labels(base: Path, tmp_path: Path) -> None:
    assert job("prompt_tuning", base, tmp_path).task_text == "Name it.\ngreen, red"


def test_other_seeds_sample_other_vocabulary_and_the_same_text(base: Path) -> None:
    sampled = [start(base, training_context(seed))[1] for seed in (0, 0, 1)]
    assert torch.equal(sampled[0], sampled[1])
    assert not torch.equal(sampled[0], sampled[2])
    texts = [start(base, training_context(seed), initialization="text")[1] for seed in (0, 1)]
    assert torch.equal(*texts)


def test_vocabulary_is_sampled_among_common_tokens(base: Path) -> None:
    """Never the rows of control tokens, nor those beyond the tokenizer, which no text has ever moved."""
    asked: list[int] = []

    def common(count: int) -> list[int]:
        asked.append(count)
        return [40, 7]

    context = replace(training_context(), common=common)
    model, sampled = start(base, context, total_virtual_tokens=50)
    rows = {tuple(row.tolist()) for row in sampled}
    assert rows == {tuple(model.embedding_weight[i].tolist()) for i in (7, 40)}
    assert asked == [5000]


@pytest.mark.parametrize("initialization", ["vocabulary", "text"])
def test_it_starts_from_rows_as_a_base_that_scales_its_embeddings_looks_them_up(initialization: str) -> None:
    from transformers import GemmaConfig, GemmaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "vocab_size": 259}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    model = Model(GemmaForCausalLM(GemmaConfig(**sizes, **heads)), verify=False)
    settings = PromptTuningSettings(
        learning_rate=0.1, epochs=1, batch_rows=1, total_virtual_tokens=4, initialization=initialization
    )
    made = PromptTuning().trainable(model, settings, training_context()).parameters["prompt_embeddings"].detach()
    scaled = model.embeddings(torch.arange(259)).detach()
    assert {tuple(row) for row in made.tolist()} <= {tuple(row) for row in scaled.tolist()}


def test_a_text_without_tokens_is_refused(base: Path) -> None:
    context = TrainingContext(torch.Generator(), lambda text: [], "", lambda count: [])
    with pytest.raises(SpecError, match="no text to start from"):
        start(base, context, initialization="text")


@pytest.mark.parametrize("initialization", ["vocabulary", "random"])
def test_a_text_without_an_initialization_that_reads_it_is_refused(initialization: Any) -> None:
    with pytest.raises(ValidationError, match="initialization_text is for initialization: text"):
        PromptTuningSettings(
            learning_rate=0.1, epochs=1, batch_rows=1, initialization=initialization, initialization_text="a"
        )


def test_a_text_that_was_asked_for_is_not_searched_away(base: Path) -> None:
    from tailorbird.bases.facts import base_facts

    facts, technique = base_facts(base), PromptTuning()
    assert "initialization" in technique.search_space(facts, 100)
    asked = {"initialization": "text", "initialization_text": "a"}
    assert "initialization" not in technique.search_space(facts, 100, asked)
