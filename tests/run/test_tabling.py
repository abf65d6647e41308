"""A run's soft prompts in a table: opened, applied row by row, trained on, exported; each as it is in its own run."""

from __future__ import annotations

import csv
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tailorbird import loading, store, tabling
from tailorbird.answerers.opening import release
from tailorbird.applying import BOTH, Applied, apply, by_task
from tailorbird.artifacts.table import PromptTable
from tailorbird.checking import plan_of
from tailorbird.errors import ArtifactError, DataError, Interrupted, SpecError, TailorbirdError
from tailorbird.exporting import export_embeddings
from tailorbird.running import run_spec
from tailorbird.running.material import read_material
from tailorbird.running.opening import choose
from tailorbird.running.serving import serve
from tailorbird.testing import make_tiny_base

from .conftest import BASE, World, write_rows

SOFT = "epochs: 1, batch_rows: 16, learning_rate: 0.1"
CONTESTANTS = (
    f"[zero_shot, {{label: words, prompt_tuning: {{{SOFT}, total_virtual_tokens: 3}}}}, "
    f"{{label: more, prompt_tuning: {{{SOFT}, total_virtual_tokens: 5}}}}, {{lora: {{epochs: 1, rank: 2}}}}]"
)
SPLIT = "{train: 32, tuning: 8, validation: 12, test: 12}"
TEXTS = ["the chip of my card", "a euro rate today", "notes from the machine", "plastic", "late currency", "cash"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two soft prompts and an adapter, and a table of the two."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAILORBIRD_HOME", str(folder / "home"))
        patch.setattr("tailorbird.running.machine.probed", lambda machine: {"float32": 100.0, "bfloat16": 100.0})
        write_rows(folder / "rows.csv")
        world = World(folder)
        world.write(CONTESTANTS, split=SPLIT)
        world.run()
        for label in ("words", "more"):
            assert tabling.add(folder / "table", f"{folder}/runs/try:{label}").new
    return folder


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("TAILORBIRD_HOME", str(folder / "home"))
    monkeypatch.setattr("tailorbird.running.machine.probed", lambda machine: {"float32": 100.0, "bfloat16": 100.0})


def test_what_is_listed_is_what_was_measured(folder: Path) -> None:
    found = tabling.listed(folder / "table")
    rows = {row["task"]: row for row in found["tasks"]}
    comparison = store.read_json(folder / "runs" / "try" / "comparison.json")
    for row in comparison["rows"]:
        if row["label"] in rows:
            mine = rows[row["label"]]
            assert (mine["score"], mine["low"], mine["n"]) == tuple(row["test"][k] for k in ("score", "low", "n"))
            assert mine["forgetting"] == row["forgetting"]["bits_per_byte"]["change"]
            assert mine["made_at"] == comparison["recommendation"]["sealed_at"]
    assert {task: row["virtual_tokens"] for task, row in rows.items()} == {"words": 3, "more": 5}
    # stories260k: hidden 64, 8 query and 4 key heads of 8, MLP 172, 5 layers; A and B of rank 16, fp32
    layer = 2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 172)
    assert found["lora_bytes"] == 4 * 16 * 5 * layer


def test_a_task_answers_as_the_contestant_that_it_was(folder: Path) -> None:
    own = loading.load(f"{folder}/runs/try:words").classify(TEXTS)
    there = loading.load(f"{folder}/table:words").classify(TEXTS)
    assert [(a, a.scores) for a in own] == [(b, b.scores) for b in there]
    with pytest.raises(SpecError, match="no task is called 'word'; did you mean `words`"):
        loading.load(f"{folder}/table:word")
    with pytest.raises(SpecError, match="is a prompt table") as refused:
        loading.load(folder / "table")
    assert f"{folder}/table:more, {folder}/table:words" in str(refused.value)


def test_a_table_in_memory_answers_for_many_tasks_and_others_beside_it(folder: Path) -> None:
    run = f"{folder}/runs/try"
    table = loading.load_table(folder / "table", beside={"adapter": f"{run}:lora"})
    assert table.tasks == ["more", "words", "adapter"]
    tasks = ["words", "more", "adapter", "words", "adapter", "more"]
    found = table.classify(TEXTS, tasks)
    alone = {t: loading.load(f"{run}:{label}") for t, label in zip(table.tasks, ("more", "words", "lora"), strict=True)}
    for text, task, label in zip(TEXTS, tasks, found, strict=True):
        (wanted,) = alone[task].classify([text])
        assert label == wanted
        assert label.scores == pytest.approx(wanted.scores, abs=1e-4)
    scored = table.score(TEXTS[:3], ["card"] * 3, tasks[:3])
    assert scored == pytest.approx([alone[t].score([x], ["card"])[0] for x, t in zip(TEXTS, tasks[:3])], abs=1e-4)
    (told,) = table.generate(["Once upon a time"], "base", max_new_tokens=4)
    assert told.tokens <= 4
    with pytest.raises(SpecError, match="base has no labels"):
        table.classify(TEXTS, "base")
    with pytest.raises(DataError, match="6 texts and 2 tasks"):
        table.classify(TEXTS, ["words", "more"])
    with pytest.raises(SpecError, match="'words' is in the table already"):
        loading.load_table(folder / "table", beside={"words": f"{run}:lora"})


def test_who_cannot_be_mixed_is_refused_each_time_and_leaves_the_others_as_they_are(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tailorbird.answerers import mixed

    class Mixed(mixed.MixedAnswerer):
        def __init__(self, members: Any) -> None:
            if "adapter" in members:
                raise ArtifactError("cannot be mixed with others: it is whole weights", where="adapter")
            super().__init__(members)

    monkeypatch.setattr(mixed, "MixedAnswerer", Mixed)
    table = loading.load_table(folder / "table", beside={"adapter": f"{folder}/runs/try:lora"})
    for _ in range(2):
        with pytest.raises(ArtifactError, match="whole weights"):
            table.classify(TEXTS[:1], "adapter")
    assert len(table.classify(TEXTS[:2], ["words", "more"])) == 2


def test_a_file_of_which_no_row_can_be_asked_says_why_of_each(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("id,task,text\n1,nobody,plastic\n2,word,cash\n", encoding="utf-8")
    assert applied(folder, tmp_path / "in.csv", tmp_path / "out.csv") == Applied(2, 2, 0, 0)
    assert "did you mean `words`" in (tmp_path / "out.csv").read_text(encoding="utf-8")
    assert loading.load_table(folder / "table").classify([], []) == []


def test_what_is_refused_begins_no_table(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="is more than a prompt"):
        tabling.add(tmp_path / "table", f"{folder}/runs/try:lora")
    with pytest.raises(SpecError, match="cannot be a task's name"):
        tabling.add(tmp_path / "table", f"{folder}/runs/try:words", "../words")
    assert not (tmp_path / "table").exists()


def test_training_on_keeps_the_settings_that_a_search_had_chosen(folder: Path) -> None:
    version = PromptTable.open(folder / "table").find("words")
    asked, _ = tabling.continuation(folder / "table", "words", folder / "rows.csv")
    own = next(c for c in asked.contestants or () if c.label == "words")
    began = {"initialization", "initialization_text"}  # of a new table; this one is there
    kept = {name: value for name, value in version.manifest.settings_effective.items() if name not in began}
    assert {**kept, "total_virtual_tokens": 3} == own.settings


@pytest.mark.parametrize("name", ["zero_shot", "before", "words"])
def test_a_task_may_be_called_as_what_it_is_compared_with(folder: Path, tmp_path: Path, name: str) -> None:
    table = tmp_path / "table"
    tabling.add(table, f"{folder}/table:words", name)
    write_rows(tmp_path / "later.csv", seed=9)
    asked, label = tabling.continuation(table, name, tmp_path / "later.csv", [f"split={SPLIT}"])
    assert label == name
    entrants = plan_of(asked, read_material(asked)).entrants
    assert [e.technique for e in entrants] == ["zero_shot", None, "prompt_tuning"]
    assert entrants[2].label == name


def write_queue(path: Path, count: int, header: str = "id,task,text") -> None:
    tasks = ["words", "more", "", "base", "words", "nobody"]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header.split(","))
        writer.writerows([n, tasks[n % 6], f"{TEXTS[n % 6]} {n}"] for n in range(count))


def applied(folder: Path, path: Path, out: Path, **more: Any) -> Applied:
    served = serve(folder / "table", {})
    wanted = {"ask": by_task(served, path, 3), "columns": BOTH, "max_new_tokens": 3, "window": 4, **more}
    return apply(lambda: served.answer, served.identity, path, out, **wanted)


def test_a_file_whose_rows_name_their_task_is_answered_row_by_row_and_goes_on(folder: Path, tmp_path: Path) -> None:
    write_queue(tmp_path / "in.csv", 11)
    whole = applied(folder, tmp_path / "in.csv", tmp_path / "whole.csv")
    assert whole == Applied(rows=11, problems=1, abstained=0, resumed=0)
    stops = iter([False, False, True])
    with pytest.raises(Interrupted, match="after 8 rows"):
        applied(folder, tmp_path / "in.csv", tmp_path / "out.csv", stop=lambda: next(stops))
    assert applied(folder, tmp_path / "in.csv", tmp_path / "out.csv").resumed == 8
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    with open(tmp_path / "out.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["id"]) for row in rows] == list(range(11))
    own = {task: loading.load(f"{folder}/table:{task}") for task in ("words", "more")}
    for row in rows:
        if row["task"] in own:
            assert row["label"] == own[row["task"]].classify([row["text"]])[0]
            assert not row["answer"]
        elif row["task"] == "nobody":
            assert row["problem"].startswith("no task is called 'nobody'")
        else:
            assert row["stop"] in ("end", "length")
            assert not row["label"]


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "manifest.json"])
def test_a_damaged_task_is_the_problem_of_its_rows_alone(folder: Path, tmp_path: Path, name: str) -> None:
    """`more` comes first in the alphabet, before the task that answers and beside the untouched base."""
    shutil.copytree(folder / "table", tmp_path / "table")
    damaged = tmp_path / "table" / "prompt_table" / "more" / name
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    write_queue(tmp_path / "in.csv", 6)
    assert applied(tmp_path, tmp_path / "in.csv", tmp_path / "out.csv") == Applied(6, 2, 0, 0)
    with open(tmp_path / "out.csv", encoding="utf-8", newline="") as file:
        problems = {row["task"]: row["problem"] for row in csv.DictReader(file)}
    assert sorted(task for task, problem in problems.items() if problem) == ["more", "nobody"]
    with pytest.raises(SpecError, match="'more' is in the table already"):
        serve(tmp_path / "table", {"more": f"{folder}/runs/try:lora"})


def test_an_option_that_no_row_reads_is_refused_before_anything_is_answered(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("task,text\nwords,plastic\nmore,cash\nnobody,x\n", encoding="utf-8")
    (tmp_path / "texts.csv").write_text("task,text\n,Once\nbase,upon\n", encoding="utf-8")
    table, out = str(folder / "table"), str(tmp_path / "out.csv")
    code, said = command("apply", table, str(tmp_path / "labels.csv"), "-o", out, "--max-new-tokens", "3")
    assert (code, "--max-new-tokens has no effect here" in said) == (2, True)
    code, said = command("apply", table, str(tmp_path / "texts.csv"), "-o", out, "--threshold", "0.5")
    assert (code, "a threshold is for labels" in said) == (2, True)
    assert not (tmp_path / "out.csv").exists()
    assert command("apply", table, str(tmp_path / "labels.csv"), "-o", out, "--threshold", "0.5")[0] == 0


def test_a_file_without_the_column_is_refused_before_anything_is_answered(folder: Path, tmp_path: Path) -> None:
    write_queue(tmp_path / "in.csv", 3, header="id,topic,text")
    with pytest.raises(DataError, match="there is no column `task`; the columns are id, topic, text"):
        applied(folder, tmp_path / "in.csv", tmp_path / "out.csv")


def command(*words: str) -> tuple[int, str]:
    """A command in this process: its exit code, and what it wrote to stdout or said of its error."""
    from typer.testing import CliRunner

    from tailorbird.cli import app

    done = CliRunner().invoke(app, list(words))
    if isinstance(done.exception, TailorbirdError):
        return done.exception.exit_code, str(done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout


def test_the_commands(folder: Path, tmp_path: Path) -> None:
    table, run = tmp_path / "table", f"{folder}/runs/try"
    code, out = command("table", "add", str(table), f"{run}:words", "--as", "topics")
    assert (code, out.strip()) == (0, str(table / "prompt_table" / "topics"))
    assert command("table", "add", str(table), f"{run}:words", "--as", "topics")[0] == 0
    assert command("table", "add", str(table), f"{run}:more", "--as", "topics")[0] == 2
    assert command("table", "add", str(table), f"{run}:lora")[0] == 2
    code, out = command("table", "list", str(table), "--json")
    (row,) = json.loads(out)["tasks"]
    assert (row["task"], row["virtual_tokens"], row["n"]) == ("topics", 3, 12)
    assert row["identity"].removeprefix("sha256:")[:12] in command("table", "list", str(table))[1]
    write_queue(tmp_path / "in.csv", 6)
    answers = ("-o", str(tmp_path / "out.jsonl"), "--beside", f"words={run}:lora", "--max-new-tokens", "2")
    assert command("apply", str(table), str(tmp_path / "in.csv"), *answers)[0] == 0
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [bool(line["problem"]) for line in lines] == [False, True, False, False, False, True]
    assert command("export", f"{table}:topics", str(tmp_path / "peft"))[0] == 0
    assert (tmp_path / "peft" / "adapter_config.json").is_file()
    assert not (tmp_path / "peft" / "added.json").exists()
    assert command("export", f"{table}:topics", str(tmp_path / "e"), "--prompt-embeds", "--merge")[0] == 2
    assert (
        "--base is for --merge and" in command("export", f"{table}:topics", str(tmp_path / "e"), "--base", str(BASE))[1]
    )
    assert command("chat", f"{table}:topics", "--base", str(BASE))[0] == 0
    assert "no base and no folder called 'nowhere'" in command("chat", f"{table}:topics", "--base", "nowhere")[1]
    tensors = table / "prompt_table" / "topics" / "adapter_model.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"x")
    code, out = command("table", "list", str(table), "--json")
    assert (code, json.loads(out)["tasks"]) == (4, [])
    ((name, why),) = json.loads(out)["damaged"].items()
    assert name == row["name"]
    assert "adapter_model.safetensors is not the file that was measured" in why
    assert command("table", "list", str(table))[0] == 4
    assert command("chat", f"{table}:topics")[0] == 4
    assert command("table", "remove", str(table), "words")[0] == 2
    assert command("table", "remove", str(table), "topics")[0] == 0
    assert command("apply", str(table), str(tmp_path / "in.csv"), "-o", str(tmp_path / "no.csv"))[0] == 2


def test_a_task_is_trained_on_and_what_comes_out_is_its_next_version(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "table"
    tabling.add(table, f"{folder}/table:words")
    first = PromptTable.open(table).find("words")
    write_rows(tmp_path / "later.csv", seed=9)
    overrides = [f"split={SPLIT}", "contestants.words.epochs=1", "limits.threads=1", "data.retention=fast"]
    spec, label = tabling.continuation(table, "words", tmp_path / "later.csv", overrides)
    assert {c.label: c.after for c in spec.contestants or ()}[label] == str(first.folder.resolve())
    finished = run_spec(spec, runs=tmp_path / "runs")
    rows = {row["label"]: row for row in finished.comparison["rows"]}
    assert rows["before"]["state"] == "done"
    added = tabling.go_on(table, "words", finished, label)
    assert (added.new, added.version.number) == (True, 2)
    assert added.version.manifest.parent is not None
    assert added.version.manifest.parent["identity"] == first.manifest.identity
    assert tabling.go_on(table, "words", finished, label).new is False
    for file in (p for p in added.version.folder.rglob("*") if p.is_file()):  # nobody's business elsewhere
        assert str(tmp_path).encode() not in file.read_bytes(), file
    assert PromptTable.open(table).find(first.name) == first
    release()


def bytes_of(table: Path) -> dict[str, str]:
    files = (p for p in table.rglob("*") if p.is_file() and p.name != ".lock")
    return {p.relative_to(table).as_posix(): store.sha256_file(p) for p in files}


@pytest.mark.parametrize(
    ("technique", "settings"),
    [
        ("prompt_tuning", ""),
        ("p_tuning", ", encoder: mlp, encoder_hidden_size: 16"),
        ("p_tuning", ", encoder: lstm, encoder_hidden_size: 16"),
        ("prefix_tuning", ""),
    ],
    ids=["prompt tuning", "p-tuning, MLP", "p-tuning, LSTM", "prefix tuning"],
)
def test_training_others_in_a_table_and_on_leaves_a_task_s_bytes_and_answers(
    folder: Path, tmp_path: Path, technique: str, settings: str
) -> None:
    """Another task is trained on the same base and put in, and then trained on, as a user does both."""
    from tailorbird.running import run_spec

    table = tmp_path / "table"
    tabling.add(table, f"{folder}/table:words")
    before = bytes_of(table), [(a, a.scores) for a in loading.load(f"{table}:words").classify(TEXTS)]

    def unchanged() -> bool:
        now = {name: digest for name, digest in bytes_of(table).items() if not name.startswith("prompt_table/other")}
        answers = [(a, a.scores) for a in loading.load(f"{table}:words").classify(TEXTS)]
        return (now, answers) == before

    write_rows(tmp_path / "rows.csv", seed=5)
    write_rows(tmp_path / "later.csv", seed=9)
    other = World(tmp_path, "other.yaml")
    other.write(f"[{{label: other, {technique}: {{{SOFT}, total_virtual_tokens: 3{settings}}}}}]", split=SPLIT)
    other.run()
    first = tabling.add(table, f"{tmp_path}/runs/other:other").version
    assert unchanged()

    overrides = [f"split={SPLIT}", "contestants.other.epochs=1", "limits.threads=1", "data.retention=fast"]
    spec, label = tabling.continuation(table, "other", tmp_path / "later.csv", overrides)
    added = tabling.go_on(table, "other", run_spec(spec, runs=tmp_path / "runs"), label)
    assert (added.new, added.version.number) == (True, 2)
    assert (added.version.manifest.parent or {})["identity"] == first.manifest.identity
    tensors = [(version.folder / "adapter_model.safetensors").read_bytes() for version in (first, added.version)]
    assert tensors[0] != tensors[1]  # it was trained
    assert unchanged()
    release()


def test_a_spec_trains_on_with_its_contestant_of_the_task_s_technique(folder: Path, tmp_path: Path) -> None:
    """What the task's table fixes, its three virtual tokens, the spec need not say."""
    table, spec = tmp_path / "table", folder / "next.yaml"
    tabling.add(table, f"{folder}/table:words")
    World(folder, "next.yaml").write(
        "[zero_shot, {label: on, prompt_tuning: {epochs: 1, batch_rows: 16}}]", split=SPLIT
    )
    asked, label = tabling.continuation(table, "words", spec)
    finished = run_spec(asked, runs=tmp_path / "runs")
    assert {row["label"]: row["state"] for row in finished.comparison["rows"]} == {"zero_shot": "done", "on": "done"}
    added = tabling.go_on(table, "words", finished, label)
    assert (added.new, added.version.virtual_tokens) == (True, 3)
    release()
    table = folder / "table"
    World(folder, "next.yaml").write("[zero_shot, {label: on, prompt_tuning: {epochs: 2}}, lora]")
    asked, label = tabling.continuation(table, "words", spec)
    after = str(PromptTable.open(table).find("words").folder.resolve())
    assert (label, [c.after for c in asked.contestants or ()]) == ("on", [None, after, None])
    assert ("contestants", "on", "after") in set(asked.given())
    assert asked.path("rows.csv") == folder / "rows.csv"
    World(folder, "next.yaml").write("[zero_shot, lora]")
    with pytest.raises(SpecError, match="is prompt_tuning, and the spec has 0 contestants of that technique"):
        tabling.continuation(table, "words", spec)


def test_the_embeddings_that_a_client_sends_give_the_same_logits(folder: Path, tmp_path: Path) -> None:
    """transformers alone, on what `client.py` makes of the exported folder, against our engine on the customization."""
    import torch
    from transformers import AutoModelForCausalLM

    from tailorbird.types import Message, Role

    chosen = choose(f"{folder}/table:words")
    done = export_embeddings(chosen.folder, tmp_path / "embeds", base_folder=BASE)
    assert {"README.md", "client.py", "client.json", "prompt_embeds.safetensors", "tokenizer.json"} <= set(done.files)
    loaded = importlib.util.spec_from_file_location("client", tmp_path / "embeds" / "client.py")
    assert loaded is not None
    assert loaded.loader is not None
    client = importlib.util.module_from_spec(loaded)
    loaded.loader.exec_module(client)
    sent = client.embeddings(str(BASE), "the chip of my card")
    network = AutoModelForCausalLM.from_pretrained(str(BASE), dtype=torch.float32)
    with torch.no_grad():
        logits = network(inputs_embeds=sent.unsqueeze(0), use_cache=False).logits[0, -1]
    answerer = chosen.open()
    prompt = answerer.prompt([Message(Role.USER, "the chip of my card")])
    assert sent.shape == (3 + len(prompt), answerer.model.hidden_size)
    places, values = answerer.top_logits(prompt, 16)
    assert logits[places].tolist() == pytest.approx(values, abs=1e-4)
    texts = ["stop </s> here", "</s>", " <s></s>  ends ", "a\U000f0000</s>\U000f0001b", "", "\n", "naïve 🦜 "]
    for text in texts:
        assert client.token_ids(text) == answerer.prompt([Message(Role.USER, text)]), text
    with pytest.raises(SystemExit, match="not the base that this soft prompt was made on"):
        client.embeddings(str(make_tiny_base(tmp_path / "other")), "plastic")
    body = client.request(str(BASE), "the chip of my card")
    assert json.loads(json.dumps(body))["prompt_embeds"]
    readme = (tmp_path / "embeds" / "README.md").read_text()
    assert "3 x 64 in fp32" in readme
    assert "{" not in readme
    with pytest.raises(SpecError, match="is no soft prompt alone"):
        export_embeddings(choose(f"{folder}/runs/try:lora").folder, tmp_path / "no", base_folder=BASE)
