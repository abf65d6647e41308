"""Collections and replay from spec to report: what is trained on, what is shown, what is refused."""

from __future__ import annotations

import csv
import json
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tailorbird import spec as specs
from tailorbird import store
from tailorbird.bases.renderer import RenderError
from tailorbird.bases.template import DEFAULT_TEMPLATE
from tailorbird.checking import plan_of, replay_told, sources_told
from tailorbird.errors import SpecError
from tailorbird.measure.forgetting import load_retention
from tailorbird.plan import Plan
from tailorbird.running.material import Material, read_material
from tailorbird.types import Role

from .conftest import BASE, FILLER, World

SOURCES = (
    "[{path: rows.csv, name: bank, instruction: [Say the topic., What is it about?], share: 0.5},"
    " {path: more.csv, instruction: Answer., share: 0.5}]"
)


def write_talk(path: Path, count: int = 60, extra: tuple[str, ...] = ()) -> None:
    rng = random.Random(5)
    with path.open("w", encoding="utf-8") as file:
        for n in range(count):
            asked = extra[n] if n < len(extra) else " ".join([*rng.sample(FILLER, 9), f"talk{n}"])
            turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": f"well {n}"}]
            file.write(json.dumps({"messages": turns}) + "\n")


@pytest.fixture
def wide(scripted: World) -> World:
    """The scripted world with a second data set and general talk."""
    with (scripted.folder / "more.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        rng = random.Random(9)
        for n in range(40):
            writer.writerow(
                [" ".join([*rng.sample(FILLER, 7), f"m{n}", "card" if n % 2 else "cash"]), ["card", "cash"][1 - n % 2]]
            )
    write_talk(scripted.folder / "talk.jsonl")
    return scripted


def material(world: World, **overrides: str) -> Material:
    return read_material(specs.load(world.spec_path, [f"{k.replace('__', '.')}={v}" for k, v in overrides.items()]))


def test_what_a_collection_says_reaches_rows_splits_and_check(wide: World) -> None:
    wide.write("[zero_shot, lora]", data=f"{{examples: {SOURCES}, retention: fast}}", split="{train: 60}")
    found = material(wide)
    assert Counter(row.source for row in found.splits.train) == {"bank": 30, "more": 30}
    assert len({row.id for row in found.splits.train if row.source == "more"}) < 30  # too few: met again
    assert {m.content for row in found.splits.train for m in row.messages if m.role is Role.SYSTEM} == {
        "Say the topic.", "What is it about?", "Answer.",
    }  # fmt: skip
    assert found.task.instruction is None  # each source says what is asked
    told = dict(sources_told(found.split_facts))
    assert told["bank"].startswith("train 30, tuning")
    assert "50.0 % of Train, a random part of" in told["bank"]
    assert "times" in told["more"]
    assert plan_of(found.spec, found).splits["train"] == 60
    assert (
        "".join(text for text, _ in found.rendered()[0]).count("topic")
        + "".join(text for text, _ in found.rendered()[0]).count("about")
        == 1
    )


def test_a_task_s_own_instruction_stands_before_the_sources(wide: World) -> None:
    task = "{kind: classify, instruction: You work for a bank.}"
    wide.write("[zero_shot]", data=f"{{examples: {SOURCES}, retention: fast}}", task=task)
    shown = ["".join(text for text, _ in tokens) for tokens in material(wide).rendered()]
    assert len(shown) == 2  # one of each source
    assert all("You work for a bank." in text for text in shown)
    assert "Answer." in shown[1]


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ("[{path: a.csv, shre: 0.5}]", r"try.yaml: line 2: data.examples.0.shre: no such field; did you mean `share`"),
        ("[{instruction: x}]", r"data.examples.0.path: is needed"),
        ("[{path: a.csv, share: 0}]", r"data.examples.0.share: must be > 0, is 0"),
        ("[{path: a.csv, share: 0.5}, {path: b.csv, share: 0.4}]", r"the shares are 0.9 in all, and must be 1"),
        ("[{path: a.csv, share: 1}, b.csv]", r"the shares are 1 in all, which leaves nothing for the sources without"),
        ("[{path: x/a.csv, share: 0.5}, y/a.csv]", r"two sources are called a: give each its own `name`"),
        ("[{path: a.csv, instruction: []}]", r"data.examples.0.instruction"),
        ("[5]", r"data.examples.0: "),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_collection_is_said_at_its_place(wide: World, examples: str, message: str) -> None:
    wide.write("[zero_shot]", data=f"{{examples: {examples}}}")
    with pytest.raises(SpecError, match=message):
        specs.load(wide.spec_path)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("test: rows.csv", "test: is split off in a collection, source by source; leave it out"),
        ("slices: source", "slices: `source` is taken"),
    ],
)
def test_what_a_collection_cannot_have_is_refused(wide: World, more: str, message: str) -> None:
    wide.write("[zero_shot]", data=f"{{examples: {SOURCES}, {more}}}")
    with pytest.raises(SpecError, match=message):
        specs.load(wide.spec_path)


def test_shares_add_up_as_they_are_written_not_as_doubles(wide: World) -> None:
    parts = ", ".join(
        f"{{path: {name}.csv, share: {share}}}" for name, share in zip("abc", (0.1, 0.2, 0.7), strict=True)
    )
    wide.write("[zero_shot]", data=f"{{examples: [{parts}]}}")
    assert [source.name for source in specs.load(wide.spec_path).data.sources] == ["a", "b", "c"]


def test_scores_stand_by_source_in_json_and_page(wide: World) -> None:
    wide.write("[majority, zero_shot, lora]", data=f"{{examples: {SOURCES}, retention: fast}}")
    finished = wide.run()
    for row in finished.comparison["rows"]:
        assert set(row["slices"]["sources"]) == {"bank", "more"}
        assert sum(one["n"] for one in row["slices"]["sources"].values()) == row["test"]["n"]
    page = (finished.folder / "report.html").read_text(encoding="utf-8")
    assert "<h3>By source</h3>" in page
    assert 'scope="col">bank<small>' in page


REPLAY = "{examples: rows.csv, retention: fast, replay: {path: talk.jsonl, share: 0.2}}"


def test_only_what_is_trained_meets_replay_and_each_as_much_as_it_says(
    wide: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: dict[str, Any] = {}
    from tailorbird import customize

    made = customize.customize
    monkeypatch.setattr(
        "tailorbird.customize.customize", lambda job, out: jobs.update({job.label: job}) or made(job, out)
    )
    contestants = "[zero_shot, few_shot, lora, {sft: {}, label: plain, replay: 0}, {sft: {}, label: half, replay: 0.5}]"
    wide.write(contestants, data=REPLAY, split="{train: 40}")
    finished = wide.run()
    assert {label: len(job.replay) for label, job in jobs.items()} == {
        "zero_shot": 0, "few_shot": 0, "lora": 10, "plain": 0, "half": 40,
    }  # fmt: skip
    assert {row.label for row in jobs["lora"].replay} == {None}
    assert {row.id for row in jobs["lora"].replay} < {row.id for row in jobs["half"].replay}
    assert all(len(job.train) == 40 for job in jobs.values())
    assert finished.comparison["splits"]["train"] == 40
    effective = {row["label"]: row["settings"]["effective"].get("replay") for row in finished.comparison["rows"]}
    assert effective == {"zero_shot": None, "few_shot": None, "lora": 0.2, "plain": 0.0, "half": 0.5}
    assert store.read_json(finished.folder / "data" / "facts.json")["replay"]["usable"] == 60
    assert "replay" in (finished.folder / "report.html").read_text(encoding="utf-8")


def test_another_share_makes_its_contestant_anew_and_no_other(wide: World) -> None:
    wide.write("[zero_shot, lora, {sft: {}, replay: 0.1}]", data=REPLAY)
    wide.run()
    wide.write("[zero_shot, lora, {sft: {}, replay: 0.3}]", data=REPLAY)
    wide.run()
    assert [label for label, stage in wide.stages() if stage == "customize"] == ["sft"]


def test_replay_rows_that_forgetting_is_measured_on_are_left_out_and_counted(wide: World) -> None:
    short = sorted(load_retention("fast").texts, key=len)[:2]
    write_talk(wide.folder / "talk.jsonl", extra=(*short, "word " * 3000))
    wide.write("[zero_shot, lora]", data=REPLAY)
    found = material(wide)
    assert found.replayed is not None
    assert found.replayed.left_out == {"too_long": 1, "held_out": 0, "measured_on": 2}
    assert len(found.replayed.rows) == 57
    assert "1 left out: they are longer than the context" in replay_told(found)
    assert "2 left out: they share words with what forgetting is measured on" in replay_told(found)
    assert not set(short) & {row.input_text for row in found.replay_for(0.5)}


def test_of_general_talk_too_the_last_answer_alone_is_learned_where_that_is_said(wide: World) -> None:
    """With a template that writes earlier answers differently from how they are generated nothing else can be."""
    base = Path(shutil.copytree(BASE, wide.folder / "base"))
    (base / "chat_template.jinja").write_text("{{ messages | length }}" + DEFAULT_TEMPLATE, encoding="utf-8")
    says = [("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four")]
    turns = [{"role": role, "content": f"{text} of it"} for role, text in says]
    (wide.folder / "talk.jsonl").write_text(json.dumps({"messages": turns}) + "\n", encoding="utf-8")
    wide.write("[zero_shot, lora]", base=str(base), data=REPLAY)
    found = material(wide, data__supervise="last")
    assert next(row.supervised for row in found.replay_for(0.5)) == (False, False, False, True)
    with pytest.raises(RenderError, match="supervise the last answer only"):
        material(wide)


@pytest.mark.parametrize(
    ("contestants", "data", "message"),
    [
        ("[zero_shot, few_shot]", REPLAY, "data.replay.path: has no effect here: no contestant is trained on it"),
        ("[zero_shot, {lora: {}, replay: 0}]", REPLAY, "data.replay.path: has no effect here"),
        ("[zero_shot, {few_shot: {}, replay: 0.1}, lora]", REPLAY, "only what is trained meets data.replay"),
        ("[zero_shot, {lora: {}, replay: 0.1}]", "{examples: rows.csv}", "data.replay is not given"),
        ("[zero_shot, {technique: majority, replay: 0.1}, lora]", REPLAY, "only what is trained here meets"),
    ],
)  # fmt: skip
def test_replay_that_nobody_would_meet_is_refused(wide: World, contestants: str, data: str, message: str) -> None:
    wide.write(contestants, data=data)
    found = material(wide)
    with pytest.raises(SpecError, match=message):
        plan_of(found.spec, found)


def test_the_plan_is_read_back_equal(wide: World) -> None:
    data = f"{{examples: {SOURCES}, retention: fast, replay: {{path: talk.jsonl, share: 0.1}}}}"
    wide.write("[zero_shot, lora]", data=data)
    found = material(wide)
    plan = plan_of(found.spec, found)
    assert Plan.from_dict(json.loads(json.dumps(plan.as_dict()))) == plan


def test_lengths_are_those_of_the_rows_as_they_are_mixed(wide: World) -> None:
    """Tokens of the very rows that a training encodes, and the beginning that the engine finds in them."""
    from tailorbird.artifacts.parts import Prompt
    from tailorbird.bases.renderer import Renderer
    from tailorbird.customize.training import encode, encode_replay
    from tailorbird.engine.batches import shared_head

    examples = SOURCES.replace("share: 0.5", "share: 0.9", 1).replace("share: 0.5", "share: 0.1", 1)
    data = f"{{examples: {examples}, retention: fast, replay: {{path: talk.jsonl, share: 0.5}}}}"
    task = "{kind: classify, instruction: You work for a bank.}"
    wide.write("[zero_shot, lora]", data=data, split="{train: 60}", task=task)
    found = material(wide)
    renderer = Renderer.from_folder(BASE)
    rows = [encode(renderer, found.task, Prompt(found.task.instruction), row, 512) for row in found.splits.train]
    talk = [encode_replay(renderer, row, 512) for row in found.replay_for(0.5)]
    plain, both = (found.facts(torch=False).of_training(share).lengths for share in (0, 0.5))
    assert plain.head == shared_head(rows) > both.head == shared_head([*rows, *talk])
    for lengths, met in ((plain, rows), (both, [*rows, *talk])):
        assert lengths.prompt + lengths.answer == pytest.approx(sum(len(row.ids) for row in met) / len(met))
        assert lengths.answer == pytest.approx(sum(sum(row.supervised) for row in met) / len(met))
    assert plain.prompt != found.lengths.prompt  # of all rows, which are of no shares


def test_other_replay_talk_is_other_data(wide: World) -> None:
    from tailorbird.running.inputs import inputs_of

    wide.write("[zero_shot, lora]", data=REPLAY)
    before = inputs_of(specs.load(wide.spec_path))
    write_talk(wide.folder / "talk.jsonl", count=61)
    after = inputs_of(specs.load(wide.spec_path))
    assert before.data["rows.csv"] == after.data["rows.csv"]
    assert before.data["talk.jsonl"] != after.data["talk.jsonl"]


def test_replay_is_trained_on_as_it_stands_behind_the_rows(tmp_path: Path, wide: World) -> None:
    """The training meets the row under the task's instruction, and the talk without it."""
    from tailorbird.artifacts.parts import Prompt
    from tailorbird.bases.renderer import Renderer
    from tailorbird.customize.training import encode, encode_replay

    wide.write("[zero_shot, lora]", data=REPLAY)
    found = material(wide)
    renderer = Renderer.from_folder(BASE)
    row, talk = found.splits.train[0], found.replay_for(0.2)[0]
    text = renderer.decode(list(encode(renderer, found.task, Prompt("Topic?"), row, 512).ids))
    assert "Topic?" in text
    encoded = encode_replay(renderer, talk, 512)
    assert "Topic?" not in renderer.decode(list(encoded.ids))
    learned = [i for i, wanted in zip(encoded.ids, encoded.supervised, strict=True) if wanted]
    assert learned == renderer.answer(talk.answer)
