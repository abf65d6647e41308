"""One cell of bench_speed on our side, in a process of its own: `python ours.py JOB.json RESULT.json`.

The whole of `customize.training.by_training` runs, as in a run of the product, up to the last step that is wanted: the
loop, the row source, the optimizer and the technique are the product's. Two things differ: the rows come encoded (both
sides get the same ids), and a subclass of the technique takes note of each loss.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


class Enough(Exception):
    """The last step that was wanted is done: what comes after it (export) is not measured here."""


class Watch:
    """Seconds, loss and work of each step. The loop asks `begin` before a step and tells `progress` of its end."""

    def __init__(self, steps: int, least: int, seconds: float, rows: int) -> None:
        self.limit, self.least, self.seconds, self.rows = steps, least, seconds, rows
        self.steps: list[dict[str, float]] = []
        self.profile: Any = None
        self.peak = 0.0
        self.trainable_parameters = 0
        self.begun = self.last = time.perf_counter()
        self._clear()

    def begin(self) -> bool:
        """In the place of the loop's stop flag: forgets what was computed before the step (a rehearsal, a trial)."""
        self._clear()
        if not self.steps:
            self.begun = self.last = time.perf_counter()
        return False

    def _clear(self) -> None:
        self.sum = self.weight = self.computed = self.logits = 0.0

    def loss(self, value: Any, model: Any, batch: Any) -> None:
        self.sum += float(value.detach())
        self.weight += batch.total
        self.computed += batch.packed.ids.numel() + model.virtual_tokens
        self.logits += batch.places.numel()

    def progress(self, done: int, total: int, note: str) -> None:
        from tailorbird.engine.memory import high_water_mark

        now = time.perf_counter()
        if not self.weight:
            sys.exit("the loop did not ask the technique for its loss: bench_speed has to be brought up to date")
        self.steps.append(
            {"seconds": now - self.last, "rows": self.rows, "loss": self.sum / self.weight,
             "computed_tokens": self.computed, "logit_rows": self.logits}
        )  # fmt: skip
        if self.profile is not None:
            self.profile.step()
        if done >= self.limit or (done >= self.least and now - self.begun > self.seconds):
            self.peak = high_water_mark() / 2**20
            raise Enough
        self.last = time.perf_counter()


def watched(technique: Any, watch: Watch, start: Path | None) -> Any:
    """The technique, telling `watch` of each loss, and writing where its training starts to `start`."""

    class Watched(type(technique)):  # type: ignore[misc]
        def trainable(self, *arguments: Any, **named: Any) -> Any:
            from safetensors.torch import save_file

            made = super().trainable(*arguments, **named)
            watch.trainable_parameters = made.count
            if start is not None:
                save_file({n: p.detach().float().clone().contiguous() for n, p in made.parameters.items()}, start)
            return made

        def loss(self, model: Any, batch: Any, *arguments: Any, **named: Any) -> Any:
            value = super().loss(model, batch, *arguments, **named)
            if value.requires_grad:  # not a look at held-out rows
                watch.loss(value, model, batch)
            return value

    return Watched()


def measure(job: dict[str, Any]) -> dict[str, Any]:
    from tailorbird.engine.probe import set_threads

    set_threads(job["threads"])
    from tailorbird import tasks, techniques
    from tailorbird.bases.facts import base_facts
    from tailorbird.customize import Compute, Job, training
    from tailorbird.engine.batches import Encoded
    from tailorbird.plan.making import MICRO_BATCH_TOKENS
    from tailorbird.types import Message, Place, Role, Row, Train, Tuning

    stored = json.loads(Path(job["rows"]).read_text(encoding="utf-8"))
    encoded = {str(i): Encoded(tuple(ids), tuple(map(bool, flags))) for i, (ids, flags) in enumerate(stored)}
    training.encode = lambda renderer, task, prompt, row, *rest: encoded[row.id]  # type: ignore[assignment]
    turns = (Message(Role.USER, "-"), Message(Role.ASSISTANT, "-"))
    rows = [Row(name, turns, (False, True), Place("bench", 1)) for name in encoded]
    technique = techniques.get(job["technique"])
    facts = base_facts(Path(job["base"]))
    asked = {
        "epochs": 1, "batch_rows": job["rows_per_step"], "learning_rate": job["learning_rate"],
        "schedule": "constant", "warmup_share": 0.0, "weight_decay": 0.0, "clip": 1.0, **job["settings"],
    }  # fmt: skip
    watch = Watch(job["steps"], job["least_steps"], job["seconds"], job["rows_per_step"])
    longest = max(len(row.ids) for row in encoded.values())
    compute = Compute(
        "cpu", job["dtype"], job["threads"], max(MICRO_BATCH_TOKENS["cpu"], longest), checkpoint_steps=10**9
    )
    with tempfile.TemporaryDirectory() as scratch:
        settings = technique.settings(asked, facts, len(rows)).model_dump()
        work = Job(
            label="bench", technique=job["technique"], settings=settings, asked=asked,
            base=facts, task=tasks.build("answer"), train=Train(rows), tuning=Tuning([]), seed=0, compute=compute,
            work=Path(scratch), progress=watch.progress, stop=watch.begin,
        )  # fmt: skip
        start = Path(job["start"]) if job["write_start"] else None
        with profiling(job.get("profile"), watch):
            try:
                training.by_training(work, watched(technique, watch, start), Path(scratch) / "out")
            except Enough:
                pass
    return {"steps": watch.steps, "peak_mb": watch.peak, "trainable_parameters": watch.trainable_parameters}


class profiling:
    """torch's profiler over steps 4 to 6, as text in a file; nothing without a file."""

    def __init__(self, path: str | None, watch: Watch) -> None:
        self.path, self.watch = path, watch

    def __enter__(self) -> None:
        if self.path:
            from torch.profiler import ProfilerActivity, profile, schedule

            self.watch.profile = profile(
                activities=[ProfilerActivity.CPU], schedule=schedule(wait=2, warmup=1, active=3, repeat=1),
                record_shapes=True, on_trace_ready=self._write,
            )  # fmt: skip
            self.watch.profile.start()

    def __exit__(self, *problem: object) -> None:
        if self.watch.profile is not None:
            self.watch.profile.stop()

    def _write(self, profile: Any) -> None:
        assert self.path
        tables = [
            profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=40, max_name_column_width=60),
            profile.key_averages(group_by_input_shape=True).table(
                sort_by="self_cpu_time_total", row_limit=40, max_name_column_width=40, max_shapes_column_width=70
            ),
        ]
        Path(self.path).write_text("\n\n".join(tables), encoding="utf-8")


if __name__ == "__main__":
    result = measure(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")
