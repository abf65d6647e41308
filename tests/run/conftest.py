"""A small world for runs: rows that words decide, a tiny base, and, for the flow alone, scripted techniques."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tailorbird import spec as specs
from tailorbird import store
from tailorbird.engine.divergence import Walk
from tailorbird.events import Events
from tailorbird.running import Finished, run_spec
from tailorbird.types import Answer, Request, Stop

if TYPE_CHECKING:
    from .made_by_formula import Maker

BASE = Path(__file__).parents[1] / "fixtures" / "stories260k"
WORDS = {
    "card": ["card", "plastic", "chip"],
    "cash": ["cash", "notes", "machine"],
    "rate": ["rate", "euro", "currency"],
}
FILLER = "the bank told me that I should ask about this thing today because it was late and nobody knew".split()


def write_rows(path: Path, count: int = 120, seed: int = 0) -> None:
    """Rows whose label one word gives away; no two alike."""
    rng = random.Random(seed)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for n in range(count):
            label = sorted(WORDS)[n % 3]
            words = [*rng.sample(FILLER, 6), rng.choice(WORDS[label]), f"nr{rng.randrange(10**6)}"]
            rng.shuffle(words)
            writer.writerow([" ".join(words), label])


@dataclass
class World:
    """One user's folder. `run` runs its spec; `events` are those of the last run."""

    folder: Path
    name: str = "try.yaml"
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def spec_path(self) -> Path:
        return self.folder / self.name

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def write(self, contestants: str, **more: str) -> None:
        fields = {
            "base": str(BASE),
            "data": "{examples: rows.csv, retention: fast}",
            "task": "{kind: classify}",
            "dtype": "float32",
            "limits": "{threads: 1}",
            "contestants": contestants,
            **more,
        }
        text = "".join(f"{name}: {value}\n" for name, value in fields.items())
        self.spec_path.write_text(text, encoding="utf-8")

    def run(self, *overrides: str, stop: Callable[[], bool] = lambda: False, fork: bool = False) -> Finished:
        self.events = []
        spec = specs.load(self.spec_path, overrides)
        return run_spec(spec, runs=self.runs, fork=fork, events=Events(self.events.append), stop=stop)

    def stages(self) -> list[tuple[str | None, str]]:
        return [(e["label"], e["stage"]) for e in self.events if e["kind"] == "stage_started"]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("TAILORBIRD_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("tailorbird.running.machine.probed", lambda machine: {"float32": 100.0, "bfloat16": 100.0})
    write_rows(tmp_path / "rows.csv")
    return World(tmp_path)


class Scripted:
    """An answerer without a model: right on the share of rows its label says, chosen by the row's id."""

    def __init__(self, right: float, labels: dict[str, str]) -> None:
        self.right, self.labels = right, labels

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        for request in requests:
            words = request.input_text.split()
            true = next(label for label in sorted(WORDS) if set(WORDS[label]) & set(words))
            wrong = next(label for label in sorted(WORDS) if label != true)
            hit = int(store.key(request.id), 16) % 1000 < 1000 * self.right
            label = true if hit else wrong
            yield Answer(request.id, label, label, None, 0.9 if hit else 0.6, Stop.SCORED, 10)

    def bits(self, texts: Iterable[str]) -> Iterator[float]:
        for text in texts:
            yield 2.0 * len(text) + (1.0 - self.right)

    def walks(self, conversations: Iterable[Any], *, max_new_tokens: int) -> list[Walk]:
        return [Walk((1,) * (4 + n % 3), 3) for n, _ in enumerate(conversations)]

    def kl(self, walks: Iterable[Walk], base: Any) -> Iterator[float]:
        yield from (0.5 * (1.0 - self.right) * walk.positions for walk in walks)

    def cost_facts(self) -> dict[str, Any]:
        return {"prompt_tokens": 10.0, "flops_per_request": 1e9, "deployed_bytes": 1000, "trainable_parameters": 10}


RIGHT = {"zero_shot": 0.4, "few_shot": 0.6, "prompt_tuning": 0.8, "lora": 0.95, "sft": 0.97}


@pytest.fixture
def scripted(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The same world, but techniques are made and opened without torch: the flow is what is looked at."""

    def customize(job: Any, out: Path) -> dict[str, Any]:
        if job.stop():
            from tailorbird.errors import Interrupted

            raise Interrupted("stopped")
        store.write_json(out / "prompt.json", {"label": job.label, "technique": job.technique, "seed": job.seed})
        return {"train_seconds": 1.0, "train_tokens": 10, "peak_memory_mb": 10.0, "notes": [], "steps": 1}

    def rehearse(job: Any, work: Path) -> None:
        if job.settings.get("learning_rate") == 0.0666:
            raise RuntimeError("the rehearsal fell over")

    def opened(shop: Any, work: Any) -> Scripted:
        return Scripted(RIGHT.get(work.entrant.technique, 0.5), dict(shop.task.labels))

    monkeypatch.setattr("tailorbird.customize.customize", customize)
    monkeypatch.setattr("tailorbird.customize.rehearse", rehearse)
    monkeypatch.setattr("tailorbird.running.workshop.Workshop._open_local", opened)
    monkeypatch.setattr("tailorbird.running.workshop.Workshop.open_base", lambda shop: Scripted(1.0, {}))
    return world


@pytest.fixture
def maker(scripted: World, monkeypatch: pytest.MonkeyPatch) -> Maker:
    """Techniques that are made by formula, and answer the better the more rows they learned from."""
    from .made_by_formula import Maker as Made
    from .made_by_formula import Shaky

    made = Made()
    monkeypatch.setattr("tailorbird.customize.customize", made)

    def opened(shop: Any, work: Any) -> Shaky:
        assert work.artifact is not None
        return Shaky(store.read_json(work.artifact / "prompt.json"))

    monkeypatch.setattr("tailorbird.running.workshop.Workshop._open_local", opened)
    return made
