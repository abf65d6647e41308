"""The speed programs: grids hold only what trains the same, sums are right, both sides do the same work."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tailorbird.testing import make_tiny_base

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import bench_gpu  # noqa: E402
import bench_speed  # noqa: E402
import bench_step  # noqa: E402
from speed import cells, table  # noqa: E402
from speed.cells import Cell, Result  # noqa: E402


def steps(*seconds: float) -> list[dict[str, float]]:
    return [{"seconds": s, "rows": 4.0, "loss": 1.0} for s in seconds]


# -- the grid


def test_weights_that_would_not_learn_are_no_cell() -> None:
    assert not any(cell.dtype == "bfloat16-stored" for cell in cells.whole_grid("sft", 32))
    assert any(cell.dtype == "bfloat16-stored" for cell in cells.whole_grid("lora", 32))


def test_one_soft_prompt_before_many_rows_is_no_cell() -> None:
    layouts = {cell.layout for cell in cells.whole_grid("prompt_tuning", 32)}
    assert layouts == {"grouped", "padded"}


def test_no_micro_batch_is_larger_than_an_optimizer_step() -> None:
    assert {cell.batch for cell in cells.whole_grid("sft", 8)} == {4, 8}


def test_every_cell_of_the_grid_can_be_reached_by_the_search() -> None:
    reached, left = {cells.FIRST}, [cells.FIRST]
    while left:
        cell = left.pop()
        for factor in cells.GRID:
            new = set(cells.neighbours(cell, factor, "lora", 32)) - reached
            reached |= new
            left += new
    assert reached == set(cells.whole_grid("lora", 32))


def test_packing_is_tried_from_the_other_trainer_too() -> None:
    cell = Cell("transformers", "float32", False, "grouped", 8)
    assert Cell("trl", "float32", False, "packing", 8) in cells.neighbours(cell, "layout", "lora", 32)


# -- the sums


def test_the_first_two_steps_are_not_timed() -> None:
    assert Result(steps(9.0, 9.0, 1.0, 3.0), 0.0, 0).per_second() == 8.0 / 4.0


def test_runs_of_other_lengths_are_compared_on_the_same_steps() -> None:
    assert Result(steps(9.0, 9.0, 1.0, 3.0, 100.0), 0.0, 0).cut(4).per_second() == 2.0


def test_losses_apart_is_relative_to_the_peers() -> None:
    told = bench_speed.apart([2.0, 1.02], [2.0, 1.0])
    assert told["largest"] == pytest.approx(0.02)
    assert told["mean"] == pytest.approx(0.01)
    assert bench_speed.apart([1.0] * 30, [1.0] * 30)["steps"] == 20


def test_the_fastest_of_trl_stands_beside_the_fastest_of_all() -> None:
    trl, flat = Cell("trl", "float32", False, "grouped", 8), Cell("transformers", "float32", False, "padding_free", 8)
    slow = Cell("trl", "float32", False, "padded", 8)
    assert bench_speed.fastest({trl: 3.0, flat: 5.0, slow: 2.0}) == {"trl": trl, "best": flat}
    assert bench_speed.fastest({trl: 6.0, flat: 5.0, slow: "did not run"}) == {"trl": None, "best": trl}
    assert table.with_trl({"best": 6.0}) == {"trl": 6.0, "best": 6.0}
    assert table.with_trl({"best": 5.0, "trl": 3.0}) == {"trl": 3.0, "best": 5.0}


def test_the_table_says_what_could_not_be_compared() -> None:
    assert table.losses({"not_compared": "x"}) == "not compared: x"
    assert table.losses({"largest": 0.031, "steps": 20, "float32": {"largest": 0.0004}}) == "3.1% of 20; in fp32 0.04%"


# -- the two sides


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("speed")
    draw = random.Random(0)
    head = [draw.randrange(200) for _ in range(5)]
    made = []
    for _ in range(16):
        length = draw.randrange(4, 12)
        made.append((head + [draw.randrange(200) for _ in range(length)], [False] * (3 + length) + [True] * 2))
    (folder / "rows.json").write_text(json.dumps(made))
    from tailorbird.engine.batches import Encoded, RowSource

    encoded = [Encoded(tuple(ids), tuple(flags)) for ids, flags in made]
    source = RowSource(encoded, batch_rows=4, micro_batch_tokens=4096, seed=0)
    return {
        "base": str(make_tiny_base(folder / "base")), "rows": str(folder / "rows.json"), "rows_per_step": 4,
        "order": [source.numbers(step) for step in range(3)], "steps": 3, "least_steps": 3, "seconds": 60.0,
        "threads": 1, "learning_rate": 0.01, "dtype": "float32",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("technique", list(bench_speed.SETTINGS))
def test_both_sides_train_on_the_same_rows_to_the_same_losses(
    job: dict[str, Any], technique: str, tmp_path: Path
) -> None:
    if importlib.util.find_spec("trl") is None:
        pytest.skip("needs the peers: pip install 'tailorbird[bench]'")
    asked = {
        **job, "technique": technique, "settings": bench_speed.SETTINGS[technique], "write_start": True,
        "start": str(tmp_path / "start.safetensors"),
    }  # fmt: skip
    ours = cells.run("ours", asked)
    assert isinstance(ours, Result), ours
    layouts = ("grouped", "padding_free") if technique == "lora" else ("padded",)
    for layout in layouts:
        peer = cells.run("theirs", {**asked, "cell": cells.as_dict(Cell("trl", "float32", False, layout, 2))})
        assert isinstance(peer, Result), peer
        assert len(peer.losses) == len(ours.losses) == 3
        assert peer.trainable_parameters == ours.trainable_parameters
        assert ours.losses == pytest.approx(peer.losses, rel=1e-4)


# -- the other device


@pytest.mark.parametrize("technique", list(bench_gpu.SETTINGS))
def test_bench_gpu_trains_what_it_is_asked_to(technique: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_gpu, "TIMED", 1)
    found = bench_gpu.ours({"shape": "tiny", "technique": technique, "rows": "short", "device": "cpu"})
    assert found["tokens_per_second"] > 0
    assert found["trainable_parameters"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("technique", list(bench_step.SETTINGS))
def test_bench_step_takes_steps_of_every_technique(technique: str, tmp_path: Path) -> None:
    if not os.environ.get("TAILORBIRD_DATA"):
        pytest.skip("needs TAILORBIRD_DATA: the public data")
    base = make_tiny_base(tmp_path / "base")
    side = bench_step.Side(BENCHMARKS.parent / "src", {
        "base": str(base), "technique": technique, "data": "banking77", "threads": 1, "rows": 2, "dtype": "float32",
        "own_layers": False,
    })  # fmt: skip
    side.step()
    side.close()
    assert math.isfinite(side.steps[0]["loss"])


def test_without_a_cuda_device_bench_gpu_says_so_and_ends_well() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    done = subprocess.run([sys.executable, str(BENCHMARKS / "bench_gpu.py")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "no CUDA device here\n")
