"""A row's weight, from its column in a file to the loss: weight 2 is the row twice, weights below 1 count for less."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from tailorbird import tasks
from tailorbird.artifacts.parts import Prompt
from tailorbird.bases.renderer import Renderer
from tailorbird.customize.training import encode
from tailorbird.data import read
from tailorbird.engine.batches import RowSource
from tailorbird.engine.model import Model
from tailorbird.engine.train import token_loss

TEXTS = {"one": "a rather long first answer", "two": "short", "three": "the third"}
TASK = tasks.build("write")


def source(base: Path, folder: Path, weights: dict[str, str | None]) -> RowSource:
    """A file with a `weight` column (left out where it is None) to batches."""
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "answer", "importance"])
        writer.writerows([name, TEXTS[name], weight or ""] for name, weight in weights.items())
    columns = {"prompt": "text", "answer": "answer", "weight": "importance"}
    rows = read(["rows.csv"], root=folder, columns=columns).rows
    renderer = Renderer.from_folder(base)
    encoded = [encode(renderer, TASK, Prompt(), row, 512) for row in rows]
    return RowSource(encoded, batch_rows=8, micro_batch_tokens=4096, seed=0)


def gradient(model: Model, rows: RowSource) -> tuple[float, torch.Tensor]:
    """Mean loss per supervised token, and its gradient in the embeddings."""
    weight = model.embedding_weight.requires_grad_(True)
    weight.grad = None
    batches = rows.everything()
    total = sum(batch.total for batch in batches)
    loss = torch.stack([token_loss(model, batch) for batch in batches]).sum() / total
    loss.backward()
    assert weight.grad is not None
    return float(loss.detach()), weight.grad.clone()


def twice(rows: RowSource, number: int) -> RowSource:
    return RowSource([*rows.rows, rows.rows[number]], batch_rows=8, micro_batch_tokens=4096, seed=0)


def test_weight_two_is_the_row_twice(exact: Model, base: Path, tmp_path: Path) -> None:
    weighted = gradient(exact, source(base, tmp_path, {"one": "2", "two": "1", "three": "1"}))
    plain = source(base, tmp_path, {"one": "1", "two": "1", "three": "1"})
    repeated = gradient(exact, twice(plain, 0))
    assert weighted[0] == pytest.approx(repeated[0], rel=1e-6)
    assert torch.allclose(weighted[1], repeated[1], rtol=1e-5, atol=1e-8)
    assert gradient(exact, plain)[0] != pytest.approx(weighted[0], rel=1e-4)


def test_no_weight_is_one_and_a_common_factor_changes_nothing(exact: Model, base: Path, tmp_path: Path) -> None:
    ones = gradient(exact, source(base, tmp_path, {"one": None, "two": "1", "three": None}))
    halves = gradient(exact, source(base, tmp_path, {"one": "0.5", "two": "0.5", "three": "0.5"}))
    assert ones[0] == pytest.approx(halves[0], rel=1e-6)
    assert torch.allclose(ones[1], halves[1], rtol=1e-5, atol=1e-8)


def test_a_tiny_weight_leaves_the_others_loss(exact: Model, base: Path, tmp_path: Path) -> None:
    without = source(base, tmp_path, {"two": "1", "three": "1"})
    nearly = source(base, tmp_path, {"one": "1e-9", "two": "1", "three": "1"})
    assert gradient(exact, nearly)[0] == pytest.approx(gradient(exact, without)[0], rel=1e-6)


def test_the_rows_of_some_steps_are_told_as_often_as_met_whatever_they_weigh(base: Path, tmp_path: Path) -> None:
    light = source(base, tmp_path, {"one": "0.3", "two": "0.3", "three": "0.3"})
    assert light.steps_per_epoch == 1
    met = list(light.met(2))
    assert sorted(map(id, met)) == sorted(map(id, [*light.rows, *light.rows]))
