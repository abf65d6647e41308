"""A run that is asked to stop keeps what it has: also the steps of a training since its last planned checkpoint."""

from __future__ import annotations

import pytest

from tailorbird.errors import Interrupted

from .conftest import World

pytestmark = pytest.mark.slow


def steps_of_training(world: World) -> list[int]:
    told = [event for event in world.events if event["kind"] == "progress"]
    return [e["done"] for e in told if (e["label"], e["stage"]) == ("lora", "customize")]


def test_a_training_that_is_stopped_goes_on_at_the_step_where_it_stopped(world: World) -> None:
    world.write("[{lora: {epochs: 2, batch_rows: 8}}]", split="{train: 32, tuning: 8, validation: 12, test: 12}")
    with pytest.raises(Interrupted):
        world.run(stop=lambda: 3 in steps_of_training(world))
    assert steps_of_training(world)[-1] == 3
    world.run()
    assert steps_of_training(world)[0] == 4
