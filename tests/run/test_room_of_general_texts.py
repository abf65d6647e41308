"""Forgetting and drift where the virtual tokens leave less room than the general texts want: both sides are given the
same tokens, and what was cut or left out is counted and said.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tailorbird import store
from tailorbird.answerers.opening import open_bare, open_foreign
from tailorbird.artifacts.layout import ADAPTER, ADAPTER_CONFIG, prompt_tuning_config, write_tensors
from tailorbird.artifacts.parts import Decode, Prompt
from tailorbird.bases.facts import base_facts
from tailorbird.bases.renderer import Renderer
from tailorbird.errors import DataError
from tailorbird.measure.drift import ANSWER_TOKENS, DriftPrompt, drift_prompts
from tailorbird.running import drifting
from tailorbird.running.room import Room
from tailorbird.types import Message, Role

from .conftest import BASE, World

SPLIT = "{train: 32, tuning: 8, validation: 12, test: 12}"
STORY = "Once upon a time there was a little girl who had a red ball and she went to the park with her mom. "
RETENTION = [f"Tale {n}. {STORY * 12}" for n in range(20)] + [f"Tale {n}. {STORY}" for n in range(20, 24)]


def noise(folder: Path, tokens: int) -> Path:
    """A soft prompt that destroys whatever the base knew."""
    soft = 3.0 * torch.randn(tokens, 64, generator=torch.Generator().manual_seed(0))
    folder.mkdir()
    write_tensors(folder / ADAPTER, {"prompt_embeddings": soft})
    store.write_json(folder / ADAPTER_CONFIG, prompt_tuning_config(soft, BASE, "stories"))
    return folder


def measured(world: World, tokens: int) -> dict[str, Any]:
    noise(world.folder / "noise", tokens)
    (world.folder / "general.txt").write_text("\n\n".join(RETENTION), encoding="utf-8")
    data = "{examples: rows.csv, retention: general.txt}"
    world.write("[zero_shot, {label: noise, adapter: ./noise}]", split=SPLIT, data=data)
    finished = world.run()
    (row,) = [row for row in finished.comparison["rows"] if row["label"] == "noise"]
    assert row["state"] == "done", row
    return {"page": (finished.folder / "report.html").read_text(encoding="utf-8"), **row["forgetting"]}


def by_hand(tokens: int) -> float:
    """Bits per byte by plain transformers: the same ids with and without the soft prompt before them."""
    from transformers import AutoModelForCausalLM

    network: Any = AutoModelForCausalLM.from_pretrained(str(BASE)).eval()
    renderer, embed = Renderer.from_folder(BASE), network.get_input_embeddings()
    room = Room(renderer, base_facts(BASE), tokens)
    soft = 3.0 * torch.randn(tokens, 64, generator=torch.Generator().manual_seed(0))
    bits = octets = 0.0
    for whole in RETENTION:
        text = room.start(whole.strip())
        ids = torch.tensor([renderer.plain(text)])
        assert ids.shape[1] <= 512 - tokens
        assert whole.startswith(text)
        octets += len(text.encode())
        for sign, before in ((1, soft), (-1, soft[:0])):
            with torch.no_grad():
                logits = network(inputs_embeds=torch.cat([before, embed(ids[0])])[None]).logits[0, len(before) :]
            found = torch.log_softmax(logits.double(), -1)[:-1].gather(1, ids[0, 1:, None]).sum()
            bits -= sign * float(found) / math.log(2.0)
    return bits / octets


def test_a_destroyed_model_has_forgotten_on_the_tokens_that_both_have_room_for(world: World) -> None:
    found = measured(world, 400)
    change = found["bits_per_byte"]
    assert change["low"] > 0.5, change
    assert change["change"] == pytest.approx(by_hand(400), abs=1e-4)
    assert (change["texts"], change["shortened"]) == (24, 20)
    assert "Of 20 of the 24 general texts only the start was looked at" in found["page"]


def test_prompts_without_room_are_left_out_of_drift_for_all_and_counted(world: World) -> None:
    renderer = Renderer.from_folder(BASE)
    lengths = [len(renderer.prompt([Message(Role.USER, prompt.text)])) for prompt in drift_prompts()]
    tokens = 512 - ANSWER_TOKENS - sorted(lengths)[9]
    fitting = sum(length <= sorted(lengths)[9] for length in lengths)
    found = measured(world, tokens)
    assert found["drift_kl"]["prompts"] == fitting
    assert found["drift_kl"]["left_out"] == 60 - fitting
    assert f"{60 - fitting} general prompts without room beside the virtual tokens" in found["page"]


def test_where_no_prompt_has_room_drift_is_said_to_be_not_measured(
    scripted: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = (DriftPrompt("long", "facts", "What is a river? " * 100),)
    monkeypatch.setattr(drifting, "drift_prompts", lambda fast: long)
    scripted.write("[zero_shot, lora]")
    finished = scripted.run()
    (lora,) = [row for row in finished.comparison["rows"] if row["label"] == "lora"]
    assert lora["forgetting"]["bits_per_byte"]["change"] > 0
    assert lora["forgetting"]["drift_kl"] is None
    assert "Drift was not measured" in (finished.folder / "report.html").read_text(encoding="utf-8")


def test_what_fits_is_not_touched_and_a_cut_is_the_longest_that_fits() -> None:
    renderer, base = Renderer.from_folder(BASE), base_facts(BASE)
    whole = RETENTION[0]
    count = len(renderer.plain(whole))
    assert Room(renderer, replace(base, context=count + 3), 3).start(whole) == whole
    short = Room(renderer, replace(base, context=40), 3).start(whole)
    assert len(renderer.plain(short)) <= 37 < len(renderer.plain(whole[: len(short) + 1]))
    assert whole.startswith(short)


def test_an_answerer_cuts_no_text_and_no_walk_by_itself(tmp_path: Path) -> None:
    bare = open_bare(BASE, threads=1)
    made, decode = noise(tmp_path / "noise", 400), Decode("write", max_new_tokens=4)
    custom = open_foreign(made, BASE, prompt=Prompt(), decode=decode, device="cpu", dtype="float32", threads=1)
    text = RETENTION[0][:600]
    assert len(list(bare.bits([text]))) == 1
    with pytest.raises(DataError, match=r"text 0: \d+ tokens behind 400 virtual ones are more than the context of 512"):
        list(custom.bits([text]))
    walks = bare.walks([[Message(Role.USER, text)]], max_new_tokens=4)
    with pytest.raises(DataError, match=r"walk 0: .* behind 400 virtual ones"):
        list(custom.kl(walks, bare))
