"""Peak memory from shapes, by hand on small numbers; and what is chosen to stay within a limit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tailorbird.plan import Facts, Lengths, make_plan
from tailorbird.plan.memory import (
    PROCESS_BYTES,
    SLACK,
    MicroBatch,
    activations,
    choose,
    in_blocks,
    largest_micro_batch,
    learned_by,
    logit_bytes,
    training_bytes,
)
from tailorbird.techniques.base import Learned
from tailorbird.types import BaseFacts

from .conftest import BASE, SIZES, make_facts, make_spec

LONG = Lengths(head=30, prompt=362.0, answer=53.0, longest=800, spread=110.0)
TINY = replace(BASE, layers=2, hidden_size=8, intermediate_size=16, heads=2, kv_heads=1, head_dim=4, vocabulary=100)


def long_rows(**changes: Any) -> Facts:
    return make_facts(**{"lengths": LONG, **changes})


def test_the_largest_micro_batch_is_the_mean_and_two_and_a_half_deviations() -> None:
    """16 rows of 38 + 4 - 25 = 17 tokens behind the head, deviation 6: 16 x 17 + 2.5 x 4 x 6 = 332."""
    facts = make_facts(lengths=Lengths(head=25, prompt=38.0, answer=4.0, longest=120, spread=6.0))
    assert largest_micro_batch(facts, {"batch_rows": 16}, 4096) == MicroBatch(25, 332, 16, 95, 64)
    cut = largest_micro_batch(facts, {"batch_rows": 16}, 166)
    assert (cut.tokens, cut.rows, cut.answers) == (166, 8, 32)
    own_heads = largest_micro_batch(facts, {"batch_rows": 16, "dropout": 0.1}, 4096)
    assert (own_heads.head, own_heads.tokens) == (0, 16 * 42 + 60)
    assert largest_micro_batch(facts, {"batch_rows": 16}, 4096, virtual_tokens=20).head == 45


def test_activations_counted_by_hand() -> None:
    """h 8, k 4, I 16, fp32. 3 shared and 10 row tokens in 2 rows, the longest 6; so 12 padded, 9 looked back at.

    Frozen base in transformers' layers: 13 x (2 x 8 x 4 + 3 x 16 x 4) + queries 12 x 8 x 4
    + keys and values 2 x 2 x 9 x 4 x 4 + weights 2 x 12 x 9 x 4 = 3328 + 384 + 576 + 864 = 5152 a layer.
    """
    batch = MicroBatch(head=3, tokens=10, rows=2, longest=6, answers=4)
    frozen, whole = Learned(160), Learned(1000, whole=True, inputs=True)
    low_rank = Learned(300, rank=4, inputs=True)
    how: dict[str, Any] = {"dropout": False, "recompute": False, "blocks": False}
    assert activations(TINY, frozen, batch, 4, **how) == 2 * 5152
    assert activations(TINY, low_rank, batch, 4, **how) == 2 * (5152 + 13 * (3 * 8 + 16 + 7 * 4) * 4)
    assert activations(TINY, whole, batch, 4, **how) == 2 * (5152 + 13 * (3 * 8 + 16 + 2 * 8) * 4)
    assert activations(TINY, frozen, batch, 4, dropout=False, recompute=True, blocks=False) == 5152 + 2 * 13 * 8 * 4
    assert activations(TINY, frozen, batch, 4, **{**how, "dropout": True}) == 2 * 5152 + 2 * 13 * 8 * 4
    assert (
        activations(TINY, low_rank, batch, 4, **{**how, "dropout": True}) - activations(TINY, low_rank, batch, 4, **how)
        == 2 * 13 * 2 * (6 * 8 + 16) * 4
    )


def test_activations_of_our_blocks_counted_by_hand() -> None:
    """The same batch: 10 + 2 x 8 = 26 padded in groups, 2 x 3 + 26 = 32 looked back at.

    Frozen base: 13 x (2 x 8 + 3 x 16) + queries 26 x 8 + keys and values 2 x 32 x 4 + weights 2 x 26 x (3 + 13) = 2128
    elements a layer.
    """
    batch = MicroBatch(head=3, tokens=10, rows=2, longest=6, answers=4)
    how: dict[str, Any] = {"dropout": False, "recompute": False, "blocks": True}
    assert activations(TINY, Learned(160), batch, 4, **how) == 2 * 4 * 2128
    assert activations(TINY, Learned(160), batch, 2, **how) == 2 * 2 * 2128
    whole, low_rank = Learned(1000, whole=True, inputs=True), Learned(300, rank=4, inputs=True)
    assert activations(TINY, whole, batch, 4, **how) == 2 * 4 * (2128 + 13 * (3 * 8 + 16))
    assert activations(TINY, low_rank, batch, 4, **how) == 2 * 4 * (2128 + 13 * (3 * 8 + 16 + 7 * 4))
    long = replace(batch, rows=200, tokens=20_000, longest=100)  # 200 x 2 x 100 x 103 weights are too many to be held
    assert activations(TINY, Learned(160), long, 4, **how) == 2 * 4 * (20_003 * 64 + 21_600 * 8 + 2 * 22_200 * 4)


def test_what_layers_of_another_library_keep_is_counted() -> None:
    """DoRA: 5 bytes a weight, 2 x 8 x (8 + 4) + 3 x 8 x 16 = 576 of them; 9 an element of the outputs,
    8 + 2 x 4 + 2 x 16 + 2 x 8 = 64 a token."""
    batch = MicroBatch(head=3, tokens=10, rows=2, longest=6, answers=4)
    how: dict[str, Any] = {"dropout": False, "recompute": False, "blocks": False}
    plain = Learned(300, rank=4, inputs=True)
    dora = replace(plain, own_layers=True, weight_bytes=5, output_bytes=9)
    more = activations(TINY, dora, batch, 4, **how) - activations(TINY, plain, batch, 4, **how)
    assert more == 2 * (576 * 5 + 13 * 64 * 9)


def test_our_blocks_compute_where_nothing_stands_in_them() -> None:
    facts = make_facts()
    assert in_blocks(facts, Learned(1, rank=4), dropout=False)
    assert in_blocks(facts, Learned(1), dropout=True)
    assert not in_blocks(facts, Learned(1, rank=4), dropout=True)
    assert not in_blocks(facts, Learned(1, own_layers=True), dropout=False)
    assert not in_blocks(facts, Learned(1, pairs=8), dropout=False)
    assert not in_blocks(replace(facts, base=replace(facts.base, model_type="gpt2")), Learned(1), dropout=False)
    assert not in_blocks(replace(facts, machine=replace(facts.machine, device="cuda")), Learned(1), dropout=False)


def test_gradients_are_summed_in_fp32_where_a_step_has_several_micro_batches() -> None:
    one, cut = (training_bytes(long_rows(), "sft", {"batch_rows": 2}, "bfloat16", size) for size in (4096, 1000))
    several = largest_micro_batch(long_rows(), {"batch_rows": 2}, 1000).several
    assert several and not largest_micro_batch(long_rows(), {"batch_rows": 2}, 4096).several
    assert cut - one > 3 * BASE.parameters


def test_reading_the_base_can_be_the_peak() -> None:
    facts = make_facts()
    large = replace(facts, base=replace(facts.base, weight_bytes=4_000_000_000))
    assert training_bytes(large, "prompt_tuning", {}, "bfloat16", 4096) == pytest.approx(
        PROCESS_BYTES + 2 * BASE.parameters + 4e9
    )


def test_what_is_learned_is_counted() -> None:
    """SmolLM2-135M's 30 layers of seven linear layers at rank 16: 4,884,480, as PEFT counts them."""
    assert learned_by("lora", {"rank": 16}, BASE, 100).parameters == 4_884_480
    assert learned_by("prompt_tuning", {"total_virtual_tokens": 20}, BASE, 100) == Learned(20 * 576, virtual_tokens=20)
    assert learned_by("sft", {}, BASE, 100) == Learned(BASE.parameters, whole=True, inputs=True, passes=3.0)
    # the last block: queries and outputs 576 x 576, keys and values 576 x 192, three of 576 x 1536, two norms
    block = 2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536 + 2 * 576
    assert learned_by("selective", {}, BASE, 100) == Learned(block, inputs=True, layers=1, passes=1 + 2 / 30)
    assert learned_by("selective", {"update": "last_layers", "layers": 3}, BASE, 100).parameters == 3 * block
    assert learned_by("peft", {"method": "ia3"}, BASE, 100).rank == 1
    with pytest.raises(TypeError, match="few_shot trains nothing"):
        learned_by("few_shot", {}, BASE, 100)


def test_layers_below_the_lowest_trained_one_keep_nothing() -> None:
    batch = MicroBatch(head=3, tokens=10, rows=2, longest=6, answers=4)
    one, all_of_them = Learned(160, inputs=True, layers=1), Learned(160, inputs=True)
    how: dict[str, Any] = {"dropout": False, "recompute": False, "blocks": True}
    assert activations(TINY, all_of_them, batch, 4, **how) == 2 * activations(TINY, one, batch, 4, **how)


def test_each_setting_that_takes_memory_is_counted() -> None:
    def needed(technique: str, dtype: str = "float32", **settings: Any) -> int:
        return training_bytes(long_rows(), technique, {"batch_rows": 16, **settings}, dtype, 4096)

    assert needed("sft", l2_to_start=1.0) - needed("sft") == pytest.approx(4 * BASE.parameters, rel=0.1)
    assert needed("lora", rank=16, dropout=0.1) > needed("lora", rank=16)
    assert needed("lora", rank=64) > needed("lora", rank=16) > needed("prompt_tuning", total_virtual_tokens=20)
    assert needed("lora", "bfloat16", rank=16) < needed("lora", rank=16)
    assert needed("lora", rank=16, batch_rows=1) < needed("lora", rank=16)


def test_longer_answers_never_need_less_memory() -> None:
    """The same tokens, ever more of them answered: 16 x 1 to 16 x 350 of 16 x 415."""

    def needed(technique: str, dtype: str, vocabulary: int, answer: float) -> int:
        lengths = replace(LONG, prompt=415.0 - answer, answer=answer)
        base = replace(BASE, vocabulary=vocabulary)
        return training_bytes(long_rows(lengths=lengths, base=base), technique, {"batch_rows": 16}, dtype, 4096)

    for how in (("sft", "bfloat16", 49_152), ("lora", "bfloat16", 151_936), ("prompt_tuning", "float32", 49_152)):
        found = [needed(*how, float(answer)) for answer in range(1, 350)]
        assert found == sorted(found)
        assert found[-1] > found[0]


def test_the_logits_counted_are_those_of_one_chunk() -> None:
    """10 positions of 100 words in bf16, all widened: 100 x (10 x 2 + 10 x 8). 1000: 256 held, 16 of them widened."""
    assert logit_bytes(10, 100, 2) == 10_000
    assert logit_bytes(1000, 100, 2) == 100 * (256 * 2 + 16 * 8)


def test_the_output_s_gradient_stands_beside_the_activations_where_all_weights_learn() -> None:
    def needed(technique: str, vocabulary: int) -> int:
        base = replace(BASE, vocabulary=vocabulary)
        return training_bytes(long_rows(base=base), technique, {"batch_rows": 16}, "bfloat16", 4096)

    output = 100_000 * 576  # in bf16, and the room in which it is widened for the optimizer
    more = (output * 2 + logit_bytes(1000, 100_000, 2)) * SLACK + output * 4
    assert needed("sft", 149_152) - needed("sft", 49_152) == pytest.approx(more, abs=2)
    logits = logit_bytes(1000, 100_000, 2)
    assert needed("prompt_tuning", 149_152) - needed("prompt_tuning", 49_152) == pytest.approx(logits * SLACK, abs=2)


def test_micro_batches_are_halved_then_layers_recomputed_until_it_fits() -> None:
    settings = {"batch_rows": 16, "rank": 16}

    def chosen(limit: float) -> tuple[int, bool, bool]:
        found = choose(long_rows(), "lora", settings, "float32", 4096, int(limit))
        assert not found.fits or found.memory_bytes <= limit
        return found.micro_batch_tokens, found.recompute, found.fits

    steps = [chosen(gigabytes * 1e9) for gigabytes in (16, 6, 3.5, 2.4, 0.5)]
    assert steps[0] == (4096, False, True)
    assert 770 <= steps[2][0] < steps[1][0] < 4096
    assert steps[3][1:] == (True, True)
    assert steps[4] == (770, True, False)


def test_the_plan_says_what_was_chosen_before_anything_is_computed() -> None:
    roomy, tight = (
        make_plan(make_spec(contestants=["lora"], limits={"memory_gb": gigabytes}), long_rows()).entrant("lora")
        for gigabytes in (16, 2.5)
    )
    assert (roomy.micro_batch_tokens, roomy.recompute) == (4096, False)
    assert tight.micro_batch_tokens < 4096
    assert tight.memory_bytes <= 2.5e9 < roomy.memory_bytes
    refused = make_plan(make_spec(contestants=["lora"], limits={"memory_gb": 0.7}), long_rows()).entrant("lora")
    assert refused.state == "skipped"
    assert "of memory at the least, 0.7 GB may be used" in str(refused.note)


def test_recomputing_takes_longer() -> None:
    plans = [
        make_plan(make_spec(contestants=["sft"], dtype="float32", limits={"memory_gb": gb}), long_rows(sizes=SIZES))
        for gb in (16, 3.6)
    ]
    fast, slow = (plan.entrant("sft") for plan in plans)
    assert (fast.recompute, slow.recompute) == (False, True)
    assert 1.1 < slow.seconds / fast.seconds < 1.4


def test_the_base_facts_are_all_that_is_known_of_the_model() -> None:
    """No file of the base is read: the figure is there before anything is fetched or loaded."""
    facts = long_rows(base=BaseFacts(**{**vars_of(BASE), "folder": "/nowhere"}))
    assert training_bytes(facts, "sft", {"batch_rows": 16}, "float32", 4096) > 4e9


def vars_of(facts: BaseFacts) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(facts)


def test_what_stands_before_the_text_is_counted_as_it_is_trained() -> None:
    """Keys and values of 3 heads of 64 in 30 layers; embedding and three layers; an LSTM of two layers, by hand."""
    assert learned_by("prefix_tuning", {"total_virtual_tokens": 20}, BASE, 100) == Learned(20 * 30 * 2 * 192, pairs=20)
    asked = {"learning_rate": 0.1, "epochs": 1, "batch_rows": 1}
    mlp = {**asked, "total_virtual_tokens": 20, "encoder_hidden_size": 576}
    assert learned_by("p_tuning", mlp, BASE, 100).parameters == 20 * 576 + 3 * (576 * 576 + 576)
    lstm = {**asked, "total_virtual_tokens": 2, "encoder_hidden_size": 4, "encoder": "lstm"}
    layer = 2 * (16 * 8 + 16 * 4 + 2 * 16)  # both ways, four gates of 4; 8 wide is the input, and what both ways give
    assert learned_by("p_tuning", lstm, TINY, 100).parameters == 2 * 8 + 2 * layer + 2 * (8 * 8 + 8)


def test_pairs_of_a_prefix_are_looked_back_at_and_are_no_tokens() -> None:
    """As by hand above, with 5 pairs: 14 looked back at. 3328 + 384 + keys and values 896 + weights 1344 = 5952."""
    batch = MicroBatch(head=3, tokens=10, rows=2, longest=6, answers=4)
    prefix = Learned(160, pairs=5)
    how: dict[str, Any] = {"dropout": False, "recompute": False, "blocks": False}
    assert activations(TINY, prefix, batch, 4, **how) == 2 * 5952
    soft = replace(batch, head=8)
    assert activations(TINY, Learned(160, virtual_tokens=5), soft, 4, **how) == 2 * (5952 + 5 * 256)

    def needed(count: int) -> int:
        settings = {"batch_rows": 16, "total_virtual_tokens": count}
        return training_bytes(long_rows(), "prefix_tuning", settings, "float32", 4096)

    assert needed(2000) > needed(20)
