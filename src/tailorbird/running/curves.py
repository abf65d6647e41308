"""The answer curve of a contestant: the same settings on nested shares of Train, each measured on Validation only."""

from __future__ import annotations

import math
import shutil
import traceback
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from tailorbird import store
from tailorbird.data.units import random_order
from tailorbird.errors import Interrupted, TailorbirdError
from tailorbird.measure.answer_curve import Point, answer_curve
from tailorbird.running.measurements import measurement_dict, read_measurement, write_outcomes
from tailorbird.running.steps import CUSTOMIZE, MEASURE, making_inputs
from tailorbird.running.workshop import Work, Workshop
from tailorbird.types import Measurement, Row, Train


def share_of(rows: Sequence[Row], percent: int, seed: int) -> Train:
    """`percent` of each label's rows (at least one), in their order; a larger share holds every smaller one."""
    by_label: dict[str | None, list[Row]] = defaultdict(list)
    for row in rows:
        by_label[row.label].append(row)
    taken: set[str] = set()
    for found in by_label.values():
        found.sort(key=lambda row: random_order(seed, "curve", row.id))
        taken |= {row.id for row in found[: max(1, math.floor(len(found) * percent / 100 + 0.5))]}
    return Train(row for row in rows if row.id in taken)


def draw(shop: Workshop, work: Work) -> None:
    """Fills `work.curve`. The point of all rows is the contestant itself, over its seeds; the others have the first.

    A share that comes to the same rows as the one before it, or to all, is left out: with few rows a label, "at least
    one of each" is more than the share, and a training would be compared with itself. So is one that came to nothing,
    with a note: the contestant itself is measured.
    """
    if not work.entrant.curve:
        return
    train = shop.material.splits.train
    points: list[Point] = []
    failed = False
    for share in work.entrant.curve[:-1]:
        part = share_of(train, share, shop.plan.seed)
        if len(part) < len(train) and (not points or len(part) > points[-1].rows):
            try:
                points.append(Point(share, len(part), _measured(shop, work.ones[0], part, share)))
            except (Interrupted, store.DiskError):
                raise
            except TailorbirdError as error:
                if store.disk_full(error):
                    raise
                step = work.ones[0].keys[f"curve {share}"]
                store.write_text(shop.steps.folder / step / "error.txt", "".join(traceback.format_exception(error)))
                _note(work, f"the answer curve has no point at {share} %: {' '.join(str(error).split())}")
                failed = True
    points.append(Point(100, len(train), work.measurements["validation"]))
    work.curve = answer_curve(points, shop.plan.requirements["margin"]) if len(points) > 1 else None
    if work.curve is None and not failed:
        _note(work, "no answer curve: with at least one row of each label, every share of it comes to all Train rows")


def _note(work: Work, said: str) -> None:
    work.made = {**work.made, "notes": [*(work.made.get("notes") or ()), said]}


def _measured(shop: Workshop, work: Work, part: Train, share: int) -> Measurement:
    """Made from `part` and measured, as one step; its files are not kept."""
    rows = store.sha256_json([[row.id, row.label, row.weight] for row in part])
    inputs = {"contestant": making_inputs(shop, work), "train": rows, "validation": shop.row_ids("validation")}
    step = shop.steps.step("curve", inputs, CUSTOMIZE + MEASURE)
    work.keys[f"curve {share}"] = step.key
    if not step.done:
        from tailorbird.customize import customize
        from tailorbird.measure import measure

        step.begin()
        inside, made = step.folder / "work", step.folder / "customization"
        if not made.is_dir():
            with shop.stage(work.label, f"curve {share} %", work.entrant.steps) as progress:
                job = shop.job(work.entrant, inside, progress.report, work.seed)
                replay = shop.material.replay_for(work.entrant.replay, len(part))
                customize(replace(job, train=part, replay=replay), made)
        validation = shop.material.splits.validation
        with (
            shop.opened(Work(work.entrant, artifact=made)) as get,
            shop.stage(work.label, f"curve {share} %", len(validation)) as progress,
        ):
            found = measure(get(), validation, shop.task, progress)
        write_outcomes(step.folder, found)
        step.finish(measurement_dict(found))
        for folder in (inside, made):
            shutil.rmtree(folder, ignore_errors=True)
    return read_measurement(step.folder, step.result())
