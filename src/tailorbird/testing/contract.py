"""The contract every technique passes, whoever wrote it.

Trained on rows: overfits eight rows; a row alone equals the row in any batch; saved and reopened it gives equal
logits; killed and continued it equals the undisturbed run; the base is unchanged; every setting has an effect.
Prompted: the search is deterministic; only Train rows stand in the prompt; every setting has an effect.
Each check raises AssertionError with what was broken.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tailorbird import store
from tailorbird.customize import Compute, Job, customize
from tailorbird.errors import Interrupted
from tailorbird.techniques.base import Technique
from tailorbird.testing.tiny import make_tiny_base, tiny_rows
from tailorbird.types import Answer, Request, Train, Tuning

Report = Callable[[str], None]


@dataclass(frozen=True)
class Beside:
    """Another value of a setting, and the other settings beside which it has an effect."""

    value: Any
    settings: Mapping[str, Any]


def technique_contract(
    technique: Technique,
    folder: Path,
    *,
    overfit: Mapping[str, Any],
    changed: Mapping[str, Any],
    base: Path | None = None,
    compute: Compute | None = None,
    report: Report = lambda text: None,
) -> None:
    """Run every check of `technique`'s kind in `folder`.

    overfit: settings with which eight rows are learned by heart on a tiny base (trained techniques).
    changed: for each setting another value than the default, to show that it has an effect (`Beside`: where it has one
    only together with others).
    """
    bench = _Bench(
        technique, folder, base or make_tiny_base(folder / "base"), compute or Compute(checkpoint_steps=2), report
    )
    bench.every_setting_is_named(changed)
    if technique.trained:
        bench.overfits(overfit)
        bench.a_row_alone_equals_the_row_in_any_batch()
        bench.reopened_equals_live()
        bench.stopped_and_continued_equals_undisturbed()
    else:
        bench.repeats_itself()
        bench.shows_train_rows_only()
    bench.every_setting_has_an_effect(changed)
    bench.base_is_unchanged()


class _Bench:
    def __init__(self, technique: Technique, folder: Path, base: Path, compute: Compute, report: Report) -> None:
        from tailorbird import tasks
        from tailorbird.bases.facts import base_facts

        self.technique, self.folder, self.base, self.compute, self.report = technique, folder, base, compute, report
        self.facts = base_facts(base)
        self.before = {p.name: store.sha256_file(p) for p in base.iterdir() if p.is_file()}
        self.rows = tiny_rows(8)
        self.tuning = tiny_rows(14)[8:]
        self.task = tasks.build("classify", instruction="Name it.", labels=tasks.labels_in(self.rows))
        self.count = 0

    def job(self, asked: Mapping[str, Any], **changes: Any) -> Job:
        self.count += 1
        settings = self.technique.settings(asked, self.facts, len(self.rows)).model_dump()
        name = (
            self.technique.name
            if self.technique.__class__.__module__.startswith("tailorbird.")
            else (f"{type(self.technique).__module__}:{type(self.technique).__qualname__}")
        )
        job = Job(
            label="contract",
            technique=name,
            settings=settings,
            asked=dict(asked),
            base=self.facts,
            task=self.task,
            train=Train(self.rows),
            tuning=Tuning(self.tuning),
            seed=0,
            compute=self.compute,
            work=self.folder / f"work{self.count}",
        )
        return replace(job, **changes)

    def made(self, job: Job) -> Path:
        out = self.folder / f"made{self.count}"
        shutil.rmtree(out, ignore_errors=True)
        customize(job, out)
        return out

    def answers(self, out: Path, requests: list[Request]) -> list[Answer]:
        from tailorbird.answerers.opening import open_customization

        answerer = open_customization(out, self.base, device=self.compute.device, threads=self.compute.threads)
        return list(answerer.answer(requests))

    def every_setting_is_named(self, changed: Mapping[str, Any]) -> None:
        missing = set(self.technique.Settings.model_fields) - set(changed)
        assert not missing, f"no other value was given for the settings {sorted(missing)}"

    def overfits(self, settings: Mapping[str, Any]) -> None:
        self.trained = self.made(self.job(settings, tuning=Tuning([])))
        requests = [self.task.request(row) for row in self.rows]
        right = sum(
            a.label == row.label for a, row in zip(self.answers(self.trained, requests), self.rows, strict=True)
        )
        assert right == len(self.rows), f"learned {right} of {len(self.rows)} rows by heart"
        self.report("overfits eight rows")

    def a_row_alone_equals_the_row_in_any_batch(self) -> None:
        requests = [self.task.request(row) for row in self.rows]
        together = self.answers(self.trained, requests)
        alone = [self.answers(self.trained, [request])[0] for request in requests]
        for a, b in zip(together, alone, strict=True):
            assert a.scores is not None and b.scores is not None
            worst = max(abs(a.scores[label] - b.scores[label]) for label in a.scores)
            assert worst < 1e-4, f"row {a.id}: {worst:.2g} nats apart alone and in a batch"
        self.report("a row alone equals the row in any batch")

    def reopened_equals_live(self) -> None:
        """Opening compares the check rows, which the live model wrote; here with no tolerance for other machines."""
        from tailorbird.answerers.opening import open_customization
        from tailorbird.artifacts.manifest import read_manifest

        answerer = open_customization(self.trained, self.base, device=self.compute.device, threads=self.compute.threads)
        for row in read_manifest(self.trained).check_rows:
            ids, values = answerer.top_logits(row.ids, len(row.top_ids))
            assert ids == row.top_ids, "the largest logits are others after reopening"
            assert max(abs(a - b) for a, b in zip(values, row.top_logits, strict=True)) <= 1e-5
        self.report("reopened equals live")

    def stopped_and_continued_equals_undisturbed(self) -> None:
        asked = {"epochs": 3, "batch_rows": 3}
        whole = self.made(self.job(asked))
        for stop_after in (1, 4, 8):
            calls = 0

            def stop(limit: int = stop_after) -> bool:
                nonlocal calls
                calls += 1
                return calls > limit

            job = self.job(asked, stop=stop)
            out = self.folder / f"made{self.count}"
            try:
                customize(job, out)
                raise AssertionError("the stop flag was ignored")
            except Interrupted:
                pass
            customize(replace(job, stop=lambda: False), out)
            for file in sorted(whole.rglob("*.safetensors")):
                other = out / file.relative_to(whole)
                same = other.is_file() and store.sha256_file(file) == store.sha256_file(other)
                assert same, f"continued after {stop_after} steps, {file.name} differs"
        self.report("stopped and continued equals undisturbed")

    def repeats_itself(self) -> None:
        first, second = (self.made(self.job({})) for _ in range(2))
        assert store.sha256_file(first / "prompt.json") == store.sha256_file(second / "prompt.json")
        self.report("the search repeats itself")

    def shows_train_rows_only(self) -> None:
        prompt = store.read_json(self.made(self.job({})) / "prompt.json")
        train = {row.input_text for row in self.rows}
        shown = {m["content"] for e in prompt["examples"] for m in e["messages"] if m["role"] == "user"}
        assert shown <= train, f"the prompt shows rows that are not in Train: {sorted(shown - train)}"
        self.report("only Train rows stand in the prompt")

    def every_setting_has_an_effect(self, changed: Mapping[str, Any]) -> None:
        short = {"epochs": 2, "batch_rows": 4} if self.technique.trained else {}
        plain = self._payload(short)
        for name, value in changed.items():
            before, given = plain, short
            if isinstance(value, Beside):
                given, value = {**short, **value.settings}, value.value
                before = self._payload(given)
            other = self._payload({**given, name: value})
            assert other != before, f"the setting {name} = {value!r} changed nothing"
        self.report("every setting has an effect")

    def _payload(self, asked: Mapping[str, Any]) -> dict[str, str]:
        """Hashes of what was learned or found; not of adapter_config.json, where settings stand that nothing used."""
        out = self.made(self.job(asked))
        files = (*out.rglob("*.safetensors"), out / "prompt.json")
        found = {str(file.relative_to(out)): store.sha256_file(file) for file in files}
        log = self.folder / f"work{self.count}" / "log.jsonl"
        return {**found, "trajectory": store.sha256_file(log)}

    def base_is_unchanged(self) -> None:
        after = {p.name: store.sha256_file(p) for p in self.base.iterdir() if p.is_file()}
        assert after == self.before, "a file of the base was changed"
        self.report("the base is unchanged")
