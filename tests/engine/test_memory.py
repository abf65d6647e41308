"""The largest micro-batch is found and tried; what does not fit is cut, then recomputed, then refused."""

from __future__ import annotations

import gc
import shutil
import time
import weakref
from dataclasses import replace
from pathlib import Path
from types import MethodType, SimpleNamespace
from typing import Any

import pytest
import torch

from tailorbird import store, tasks, techniques
from tailorbird.answerers.opening import open_bare, release
from tailorbird.bases.facts import base_facts
from tailorbird.bases.model import load_model
from tailorbird.customize import Compute, Job, customize
from tailorbird.engine import memory
from tailorbird.engine import rehearse_memory as rehearsing
from tailorbird.engine.batches import Batch, Encoded, RowSource
from tailorbird.engine.kernels import cross_entropy
from tailorbird.engine.kernels.layers import Layer
from tailorbird.engine.memory import RESET, PeakMemory, killed_for_memory, more_killed, out_of_memory
from tailorbird.engine.model import Model
from tailorbird.engine.train import Trainable
from tailorbird.errors import Interrupted, ResourceError
from tailorbird.plan.memory import logit_bytes
from tailorbird.techniques.lora import Lora
from tailorbird.testing import tiny_rows
from tailorbird.types import Train, Tuning

from .test_packing import encoded


def test_the_largest_micro_batch_of_all_steps_is_found() -> None:
    source = RowSource(encoded(), batch_rows=3, micro_batch_tokens=20, seed=0)

    def size(batch: Any) -> int:
        lengths = [end - start + 1 for start, end in zip(batch.packed.starts, batch.packed.ends, strict=True)]
        return sum(lengths) + len(lengths) * max(lengths)

    found = rehearsing.largest_batch(source, 6)
    assert size(found) == max(size(batch) for step in range(6) for batch in source.next(step))


def test_a_shared_head_is_not_what_makes_a_micro_batch_large() -> None:
    """Twelve rows of 4 own tokens (48, and 48 padded), or three of which one has 18 (26, and 54 padded)."""
    head = tuple(range(30))
    rows = [Encoded((*head, *range(100 + n, 104 + n)), (False,) * 33 + (True,), 1.0) for n in range(12)]
    long = [Encoded((*head, *range(200 + n, 200 + n + size)), (False,) * 33 + (True,) * (size - 3), 1.0)
            for n, size in ((0, 18), (50, 4), (60, 4))]  # fmt: skip
    source = RowSource([*rows, *long], batch_rows=15, micro_batch_tokens=48, seed=0)
    assert source.head == 30
    source.order = lambda epoch: list(range(15))  # type: ignore[method-assign]
    assert [len(group) for group in source.groups(0)] == [12, 3]
    assert len(rehearsing.largest_batch(source, 1).packed.starts) == 12
    longer = [replace(long[0], ids=(*long[0].ids, *range(300, 312)), supervised=(*long[0].supervised, *[True] * 12))]
    source = RowSource([*rows, *longer, *long[1:]], batch_rows=15, micro_batch_tokens=48, seed=0)
    source.order = lambda epoch: list(range(15))  # type: ignore[method-assign]
    assert len(rehearsing.largest_batch(source, 1).packed.starts) == 3  # 38 tokens, 90 padded


def test_what_the_optimizer_will_hold_is_counted_to_the_byte() -> None:
    """1000 in fp32: moments 8000, and sums 4000 of several micro-batches; 10 in bf16: the same, a master, and the room
    for its gradient in fp32: 200. L2-SP: the start, 4040 more."""
    parameters = {"a": torch.nn.Parameter(torch.zeros(1000)), "b": torch.nn.Parameter(torch.zeros(10).bfloat16())}
    assert rehearsing.optimizer_bytes(Trainable(parameters), several=False) == 8_000 + 160
    assert rehearsing.optimizer_bytes(Trainable(parameters), several=True) == 12_000 + 200
    assert rehearsing.optimizer_bytes(Trainable(parameters), several=True, l2_to_start=1.0) == 16_000 + 240


@pytest.mark.parametrize(("device", "held"), [("cpu", 0), ("meta", 8_000)])
def test_an_accelerator_holds_what_the_optimizer_will_hold_while_it_is_tried(
    monkeypatch: pytest.MonkeyPatch, device: str, held: int
) -> None:
    """`meta` stands for one."""
    weight = torch.nn.Parameter(torch.zeros(1000))
    made: list[torch.Tensor] = []
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: made.append(empty(*a, **k)) or made[-1])

    def loss(model: Any, batch: Any) -> torch.Tensor:
        assert [(tensor.nbytes, tensor.device.type) for tensor in made] == [(held, device)]
        gone.append(weakref.ref(made.pop()))
        assert gone[0]() is not None
        return weight.sum()

    gone: list[Any] = []
    model: Any = SimpleNamespace(device=torch.device(device))
    rehearsing.rehearse_memory(model, Trainable({"a": weight}), loss, None, several=False)  # type: ignore[arg-type]
    assert gone[0]() is None and weight.grad is None


def test_errors_that_mean_out_of_memory_are_known() -> None:
    assert out_of_memory(MemoryError())
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert out_of_memory(raised.value)
    assert not out_of_memory(RuntimeError("shapes do not match"))


@pytest.fixture
def job(base: Path, tmp_path: Path) -> Job:
    rows = tiny_rows(10)
    facts = base_facts(base)
    task = tasks.build("classify", instruction="Name it.", labels=tasks.labels_in(rows))
    settings = techniques.get("lora").settings({"epochs": 1, "batch_rows": 8}, facts, 8).model_dump()
    compute = Compute(threads=1, micro_batch_tokens=4096)
    return Job(
        "lora", "lora", settings, {}, facts, task, Train(rows[:8]), Tuning(rows[8:]), 0, compute, tmp_path / "work"
    )  # fmt: skip


def tried(monkeypatch: pytest.MonkeyPatch, megabytes: Any) -> list[int]:
    """`rehearse_memory` told what it finds: a function of the micro-batch's rows, which are noted."""
    rows: list[int] = []

    def rehearse(model: Any, trainable: Any, loss: Any, batch: Any, **_: Any) -> float:
        rows.append(len(batch.packed.starts))
        found = megabytes(rows[-1], model)
        if isinstance(found, BaseException):
            raise found
        return float(found)

    monkeypatch.setattr(rehearsing, "rehearse_memory", rehearse)
    return rows


@pytest.mark.parametrize("error", [None, MemoryError(), torch.OutOfMemoryError("out of memory")])
def test_a_micro_batch_that_is_too_large_is_halved_before_step_1_and_said(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException | None
) -> None:
    whole = customize(replace(job, work=tmp_path / "whole"), tmp_path / "made")
    rows = tried(monkeypatch, lambda count, _: (error or 900.0) if count > 2 else 90.0)
    cut = replace(job, compute=replace(job.compute, memory_bytes=100 * 2**20))
    facts = customize(cut, tmp_path / "cut")
    assert rows[0] == 8 and rows[-1] <= 2 and rows == sorted(rows, reverse=True)
    assert facts["micro_batch_tokens"] < whole["micro_batch_tokens"] and not facts["recompute"]
    assert any("cut to" in note for note in facts["notes"])
    logs = [store.read_jsonl(folder / "log.jsonl") for folder in (tmp_path / "whole", job.work)]
    for a, b in zip(*logs, strict=True):  # the same step, in other pieces
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-5)


def test_the_choice_is_kept_and_said_again_when_the_training_goes_on(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried(monkeypatch, lambda count, _: 900.0 if count > 2 else 90.0)
    cut = replace(job, compute=replace(job.compute, memory_bytes=100 * 2**20))
    first = customize(cut, tmp_path / "cut")
    rows = tried(monkeypatch, lambda count, _: 900.0)
    again = customize(replace(cut, notes=[]), tmp_path / "again")
    assert rows == []
    assert (again["micro_batch_tokens"], again["notes"]) == (first["micro_batch_tokens"], first["notes"])


def test_a_lower_limit_is_heeded_when_the_training_goes_on(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried(monkeypatch, lambda count, _: 90.0 if count > 2 else 40.0)
    customize(replace(job, compute=replace(job.compute, memory_bytes=100 * 2**20)), tmp_path / "first")
    rows = tried(monkeypatch, lambda count, _: 90.0 if count > 2 else 40.0)
    lower = replace(job, compute=replace(job.compute, memory_bytes=50 * 2**20), notes=[])
    facts = customize(lower, tmp_path / "second")
    assert rows and rows[-1] <= 2
    assert any("takes about 0.1 GB: cut to" in note for note in facts["notes"])


@pytest.mark.parametrize("when", ["while it was tried", "while it trained"])
def test_after_a_kill_for_lack_of_memory_it_goes_on_with_less(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """The kernel's count of such kills rose between one start and the next; a kill by hand changes nothing."""

    class Killed(BaseException):
        pass

    kills = [3]
    monkeypatch.setattr("tailorbird.engine.memory.killed_for_memory", lambda: {"machine": kills[0]})
    if when == "while it was tried":
        tried(monkeypatch, lambda count, _: Killed())
    else:
        tried(monkeypatch, lambda count, _: 90.0)
        monkeypatch.setattr("tailorbird.customize.training.hand_over", lambda *a, **k: (_ for _ in ()).throw(Killed()))
    with pytest.raises(Killed):
        customize(job, tmp_path / "made")
    before = store.read_json(job.work / "memory.json")["micro_batch_tokens"]
    monkeypatch.undo()
    monkeypatch.setattr("tailorbird.engine.memory.killed_for_memory", lambda: {"machine": kills[0]})
    rows = tried(monkeypatch, lambda count, _: 90.0)
    by_hand = customize(replace(job, work=shutil.copytree(job.work, tmp_path / "copy"), notes=[]), tmp_path / "by_hand")
    assert by_hand["micro_batch_tokens"] == before and set(rows) <= {8}
    kills[0] = 4
    facts = customize(replace(job, notes=[]), tmp_path / "again")
    assert facts["micro_batch_tokens"] < before
    assert any("the kernel stopped a process for it" in note for note in facts["notes"])


def test_what_is_killed_after_a_stop_was_not_this_training(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three steps, stopped after one; meanwhile the kernel kills another program: what results is the undisturbed."""
    kills = [3]
    monkeypatch.setattr("tailorbird.engine.memory.killed_for_memory", lambda: {"machine": kills[0]})
    job = replace(job, settings={**job.settings, "epochs": 3})
    customize(replace(job, work=tmp_path / "undisturbed"), tmp_path / "whole")
    asked = iter((False, True))
    with pytest.raises(Interrupted):
        customize(replace(job, stop=lambda: next(asked)), tmp_path / "stopped")
    kills[0] = 4
    again = iter((False, True))
    with pytest.raises(Interrupted):
        customize(replace(job, notes=[], stop=lambda: next(again)), tmp_path / "stopped")
    facts = customize(replace(job, notes=[]), tmp_path / "made")
    assert facts["notes"] == [] and facts["micro_batch_tokens"] == 4096
    assert store.read_json(job.work / "memory.json")["killed"] == {"machine": 4}  # of the last start
    logs = [store.read_jsonl(folder / "log.jsonl") for folder in (tmp_path / "undisturbed", job.work)]
    assert logs[0] == logs[1]


class Files:
    """`killed_for_memory` told by files made by hand below `root`, as the kernel lays them out."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        names = {"MACHINE_EVENTS": "vmstat", "OWN_GROUPS": "cgroup", "GROUPS": "groups"}
        for name, file in names.items():
            monkeypatch.setattr(memory, name, root / file)

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


EVENTS = "low 0\noom 5\noom_kill {}\noom_group_kill 9\n"


@pytest.mark.parametrize(
    ("groups", "file", "text"),
    [
        ("0::/user.slice/run.scope\n", "groups/user.slice/run.scope/memory.events", EVENTS),
        ("0::/user.slice/run.scope\n", "groups/user.slice/memory.events", EVENTS),  # it has no counter itself
        ("0::/\n", "groups/memory.events", EVENTS),  # in a container
        (
            "5:cpu:/\n4:hugetlb,memory:/jobs/1\n0::/\n",
            "groups/memory/jobs/1/memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n",
        ),
    ],
)
def test_kills_of_other_programs_are_not_this_training_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str, file: str, text: str
) -> None:
    files = Files(tmp_path, monkeypatch)
    files.write("vmstat", "pgfault 7\noom_kill 40\n")
    files.write("cgroup", groups)
    files.write(file, text.format(2))
    before = killed_for_memory()
    assert list(before.values()) == [2, 40]
    files.write("vmstat", "oom_kill 41\n")  # in another control group
    assert not more_killed(before, killed_for_memory())
    files.write(file, text.format(3))
    assert more_killed(before, killed_for_memory())


def test_where_no_control_group_counts_the_machine_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = Files(tmp_path, monkeypatch)
    assert killed_for_memory() == {} and not more_killed({}, {})
    files.write("vmstat", "oom_kill 40\n")
    files.write("cgroup", "0::/user.slice\n")
    before = killed_for_memory()
    assert before == {"machine": 40}
    files.write("vmstat", "oom_kill 41\n")
    assert more_killed(before, killed_for_memory())


def test_in_another_control_group_the_machine_s_count_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container that was killed and started again counts from 0."""
    files = Files(tmp_path, monkeypatch)
    files.write("vmstat", "oom_kill 40\n")
    files.write("cgroup", "0::/first\n")
    files.write("groups/first/memory.events", EVENTS.format(0))
    before = killed_for_memory()
    files.write("cgroup", "0::/second\n")
    files.write("groups/second/memory.events", EVENTS.format(0))
    assert not more_killed(before, killed_for_memory())
    files.write("vmstat", "oom_kill 41\n")
    assert more_killed(before, killed_for_memory())


@pytest.fixture(params=["reset", "sampled"])
def peaks(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways in which a peak is found: the kernel's mark, where it can be reset, and a look now and then."""
    if request.param == "sampled":
        monkeypatch.setattr(memory, "RESET", tmp_path / "proc" / "clear_refs")  # not there
    elif not RESET.exists():
        pytest.skip("the mark cannot be reset here")


def hold_256_mb() -> None:
    large = torch.ones(64 << 20)
    time.sleep(0.2)
    del large


def test_a_stretch_within_another_does_not_lower_the_outer_peak(peaks: None) -> None:
    with PeakMemory() as outer:
        hold_256_mb()
        with PeakMemory() as inner:
            pass
    assert outer.megabytes > inner.megabytes + 200


def test_a_peak_is_that_of_its_stretch_whatever_stood_before(peaks: None) -> None:
    """Else one micro-batch that was too large makes every smaller one too large as well."""
    with PeakMemory() as before:
        hold_256_mb()
    with PeakMemory() as after:
        pass
    assert 0 < after.megabytes < before.megabytes - 200


def test_the_smaller_try_after_one_too_large_is_not_measured_by_it(peaks: None) -> None:
    """As `fit_memory` tries them, one after another in one process."""
    weight = torch.nn.Parameter(torch.zeros(1000))
    model: Any = SimpleNamespace(device=torch.device("cpu"))

    def trying(megabytes: int) -> float:
        def loss(model: Any, batch: Any) -> torch.Tensor:
            held = torch.ones(megabytes << 18)
            time.sleep(0.2)
            return weight.sum() + held[0]

        trainable = Trainable({"a": weight})
        return rehearsing.rehearse_memory(model, trainable, loss, None, several=False)  # type: ignore[arg-type]

    large, small = trying(300), trying(100)
    assert 150 < large - small < 250


def test_when_the_longest_row_alone_is_too_large_layers_are_computed_again(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def recomputes(model: Any) -> bool:
        return not isinstance(model.layers[0].forward, Layer | MethodType)

    rows = tried(monkeypatch, lambda count, model: 90.0 if recomputes(model) else 900.0)
    facts = customize(replace(job, compute=replace(job.compute, memory_bytes=100 * 2**20)), tmp_path / "made")
    assert rows[-2:] == [1, 1]
    assert facts["recompute"] is True


def test_what_does_not_fit_at_all_is_refused_with_what_would_do(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried(monkeypatch, lambda count, _: 900.0)
    with pytest.raises(ResourceError, match=r"training lora takes about 0\.9 GB .* and 0\.1 GB may be used") as raised:
        customize(replace(job, compute=replace(job.compute, memory_bytes=100 * 2**20)), tmp_path / "made")
    assert raised.value.exit_code == 6
    assert "raise limits.memory_gb" in str(raised.value)


def test_out_of_memory_later_says_what_to_set(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tailorbird.engine.optimizer import Optimizer

    def step(self: Optimizer, rate: float, scale: float) -> None:
        raise MemoryError

    monkeypatch.setattr(Optimizer, "step", step)
    with pytest.raises(ResourceError, match="lora ran out of memory") as raised:
        customize(job, tmp_path / "made")
    assert raised.value.remedy == (
        "give the same command again with limits.memory_gb set to less than the machine has free: micro-batches are "
        "then cut smaller (a finished contestant is kept unless its own are cut: it is then made again)"
    )


def test_what_ran_out_of_memory_while_it_trained_goes_on_with_less(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rehearsal finds nothing; in the training more than two rows at once are too many: 8, 4, 2."""
    tried(monkeypatch, lambda count, _: 1.0)
    loss = Lora.loss

    def full(self: Lora, model: Model, batch: Batch) -> torch.Tensor:
        if len(batch.packed.starts) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return loss(self, model, batch)

    monkeypatch.setattr(Lora, "loss", full)
    for _ in range(2):
        with pytest.raises(ResourceError, match="lora ran out of memory"):
            customize(replace(job, notes=[]), tmp_path / "made")
    facts = customize(replace(job, notes=[]), tmp_path / "made")
    assert [note.rpartition(" takes ")[2].partition(":")[0] for note in facts["notes"]] == [
        "more memory than there is"
    ] * 2
    assert facts["micro_batch_tokens"] < 100 and not store.read_json(job.work / "memory.json")["ran_out"]


def test_a_refusal_is_tried_again(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What filled the memory may have been another program."""
    cut = replace(job, compute=replace(job.compute, memory_bytes=100 * 2**20))
    tried(monkeypatch, lambda count, _: MemoryError())
    with pytest.raises(ResourceError, match="with the longest row"):
        customize(cut, tmp_path / "made")
    kept = job.work / "memory.json"
    store.write_json(kept, store.read_json(kept) | {"ran_out": True})
    rows = tried(monkeypatch, lambda count, _: 90.0)
    with pytest.raises(ResourceError, match="with the longest row"):
        customize(cut, tmp_path / "made")
    assert customize(replace(cut, notes=[]), tmp_path / "made")["recompute"]
    assert rows == [1]


def test_the_rehearsal_learns_nothing_and_leaves_no_gradient(job: Job, tmp_path: Path) -> None:
    facts = customize(job, tmp_path / "made")
    assert facts["micro_batch_tokens"] == 4096 and facts["recompute"] is False
    kept = store.read_json(job.work / "memory.json")
    assert kept["said"] == [] and (kept["peak_memory_mb"] is None or kept["peak_memory_mb"] > 0)


def test_no_other_base_is_held_while_one_is_trained(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that zero_shot was measured on: kept for the next answerer, and let go of before a training."""
    monkeypatch.setattr("tailorbird.engine.memory.LARGE", 1)
    answering = weakref.ref(open_bare(job.base.folder).model)
    assert answering() is not None
    held: list[Any] = []
    loss = Lora.loss

    def watched(self: Lora, model: Model, batch: Batch) -> torch.Tensor:
        held.append(answering())
        return loss(self, model, batch)

    monkeypatch.setattr(Lora, "loss", watched)
    customize(job, tmp_path / "made")
    assert held and not any(held)


def test_a_prompt_is_searched_on_the_base_that_is_there(job: Job, tmp_path: Path) -> None:
    base = open_bare(job.base.folder).model
    settings = techniques.get("few_shot").settings({"draws": 1}, job.base, 8).model_dump()
    customize(replace(job, technique="few_shot", settings=settings), tmp_path / "made")
    assert open_bare(job.base.folder).model is base
    release()


def test_a_large_model_is_let_go_of_when_it_is_on_disk(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without waiting for Python's own collector, which is switched off here."""
    monkeypatch.setattr("tailorbird.engine.memory.LARGE", 1)

    def held() -> int:
        return sum(o.numel() for o in gc.get_objects() if isinstance(o, torch.Tensor))

    gc.collect()
    gc.disable()
    try:
        before = held()
        customize(job, tmp_path / "made")
        assert held() == before
    finally:
        gc.enable()


@pytest.mark.parametrize("positions", [10, 200, 600])
def test_the_plan_counts_the_logits_that_the_cross_entropy_holds(
    base: Path, monkeypatch: pytest.MonkeyPatch, positions: int
) -> None:
    """The largest chunk in bf16, and the largest part of it in fp32 with its probabilities."""
    model = Model(load_model(base, dtype="bfloat16"))
    chunks, parts = [0], [0]
    losses, widened = cross_entropy._losses, cross_entropy.at_least_float32

    def watched(logits: torch.Tensor, *rest: Any) -> torch.Tensor:
        chunks.append(logits.nbytes)
        return losses(logits, *rest)

    def watched_part(logits: torch.Tensor) -> torch.Tensor:
        wide = widened(logits)
        parts.append(2 * wide.nbytes)
        return wide

    monkeypatch.setattr(cross_entropy, "_losses", watched)
    monkeypatch.setattr(cross_entropy, "at_least_float32", watched_part)
    hidden = torch.zeros(positions, model.hidden_size, dtype=torch.bfloat16, requires_grad=True)
    model.cross_entropy(hidden, torch.zeros(positions, dtype=torch.long))
    assert logit_bytes(positions, model.vocabulary, 2) == max(chunks) + max(parts)


def test_the_open_stretch_tells_what_stood_so_far() -> None:
    assert PeakMemory.so_far() == 0.0
    with PeakMemory() as peak:
        held = torch.ones(50 << 18)  # 50 MB
        del held
        so_far = PeakMemory.so_far()
        assert so_far > 50
    assert peak.megabytes >= so_far
