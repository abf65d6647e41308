"""The small sister of `benchmarks/bench_padding.py`: one shape, few rows, a base that has learned less."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import bench_padding


def test_the_base_meets_long_texts_to_the_end(tmp_path: Path) -> None:
    widths = bench_padding.make_base(tmp_path / "base", "llama", steps=20, longest=60)
    assert max(widths[:10]) >= 60 <= max(widths[10:])


def test_the_same_soft_prompt_is_as_good_among_long_mates_as_alone(tmp_path: Path) -> None:
    found = bench_padding.experiment(tmp_path, "llama", rows=48, base_steps=300, longest=15, epochs=4)
    alone = found["accuracy"]["ours, forward"]["None"]
    assert alone > 0.5  # of 16 symbols: the control was learned, and the soft prompt stands in for it
    for way, shares in found["accuracy"].items():
        assert shares["None"] == alone, way  # unpadded all ways agree, PEFT's too
        if not way.startswith("PEFT"):
            assert set(shares.values()) == {alone}, way
            assert found["changed"][way] == 0, way
    # This base knows short texts only: where pads push the text away from the soft prompt, its answers change.
    assert found["changed"]["PEFT, forward"] > 0
