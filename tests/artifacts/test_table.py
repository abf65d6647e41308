"""The prompt table: what is added stays as it was, whatever comes, goes, is killed or damaged beside it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tailorbird import store, tabling
from tailorbird.applying import by_task
from tailorbird.artifacts.manifest import read_manifest, with_hash
from tailorbird.artifacts.table import PromptTable, begin
from tailorbird.artifacts.version import Version, beside
from tailorbird.data import read_inputs
from tailorbird.errors import ArtifactError, ResourceError, SafetyError, SpecError, TailorbirdError
from tailorbird.reporting.table_list import rows as table_rows
from tailorbird.running.opening import in_table
from tailorbird.running.serving import serve
from tailorbird.testing import make_tiny_base
from tailorbird.types import Message, Request, Role

from .test_customization import make

ASKED = (Message(Role.USER, "red"),)
MADE = {"from": "run", "label": "l", "made_at": "2026-01-01T00:00:00+00:00", "added_at": "2026-01-02T00:00:00+00:00"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def made(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two soft prompts and an adapter."""
    return {
        "colours": make("prompt_tuning", base, tmp_path_factory.mktemp("a"), total_virtual_tokens=3),
        "others": make("prompt_tuning", base, tmp_path_factory.mktemp("b"), total_virtual_tokens=5, learning_rate=0.1),
        "lora": make("lora", base, tmp_path_factory.mktemp("c")),
        "zero_shot": make("zero_shot", base, tmp_path_factory.mktemp("d")),
    }


def add(path: Path, source: Path, base: Path, task: str) -> tuple[Version, bool]:
    return begin(path, read_manifest(source)).add(source, task, MADE)


def child(parent: Path, folder: Path) -> Path:
    """Another customization that says it was started from `parent`."""
    shutil.copytree(parent, folder)
    prompt = json.loads((folder / "prompt.json").read_text())
    (folder / "prompt.json").write_text(json.dumps({**prompt, "instruction": f"Name it, {folder.name}."}))
    was = read_manifest(parent)
    resealed(folder, parent={"label": was.label, "technique": was.technique, "identity": was.identity})
    return folder


def resealed(folder: Path, **changes: Any) -> None:
    """The manifest made anew over what lies there now, and added.json with it: all hashes right."""
    manifest = json.loads((folder / "manifest.json").read_text()) | changes
    manifest["files"] = {name: store.sha256_file(folder / name) for name in manifest["files"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    if (folder / "added.json").is_file():
        beside = {name: store.sha256_file(folder / name) for name in kept(folder / "added.json")["beside"]}
        rehashed(folder / "added.json", identity=read_manifest(folder).identity, beside=beside)


def kept(path: Path) -> dict[str, Any]:
    """What is in a file that holds a hash of its own content."""
    return {name: value for name, value in json.loads(path.read_text()).items() if name != "sha256"}


def rehashed(path: Path, **changes: Any) -> None:
    """Changed, and its own hash right."""
    path.write_text(json.dumps(with_hash(kept(path) | changes)))


def hashes(path: Path) -> dict[str, str]:
    files = (p for p in path.rglob("*") if p.is_file() and p.name != ".lock")
    return {p.relative_to(path).as_posix(): store.sha256_file(p) for p in files}


@pytest.fixture
def table(tmp_path: Path, base: Path, made: dict[str, Path]) -> Path:
    """One task in it."""
    add(tmp_path / "table", made["colours"], base, "colours")
    return tmp_path / "table"


def test_adding_a_task_leaves_every_byte_of_the_others(table: Path, base: Path, made: dict[str, Path]) -> None:
    before = hashes(table)
    version, new = add(table, made["others"], base, "others")
    after = hashes(table)
    assert new
    assert {name: digest for name, digest in after.items() if not name.startswith("prompt_table/others/")} == before
    assert (version.virtual_tokens, version.folder) == (5, table / "prompt_table" / "others")
    assert sorted(PromptTable.open(table).newest()) == ["colours", "others"]
    PromptTable.open(table).remove("others")
    assert hashes(table) == before


def test_the_same_again_changes_nothing(table: Path, base: Path, made: dict[str, Path]) -> None:
    before = hashes(table)
    version, new = add(table, made["colours"], base, "colours")
    assert (version.task, new) == ("colours", False)
    assert hashes(table) == before


def test_another_one_of_a_taken_name_is_refused(table: Path, base: Path, made: dict[str, Path]) -> None:
    before = hashes(table)
    with pytest.raises(SpecError, match="a task is called 'colours' already, and this one was not made from it"):
        add(table, made["others"], base, "colours")
    assert hashes(table) == before


def test_one_made_from_a_task_is_its_next_version_and_the_old_one_stays(
    table: Path, base: Path, made: dict[str, Path], tmp_path: Path
) -> None:
    before = hashes(table)
    first = PromptTable.open(table).find("colours")
    second, new = add(table, child(made["colours"], tmp_path / "next"), base, "colours")
    opened = PromptTable.open(table)
    assert (new, second.number) == (True, 2)
    assert second.folder.name == second.name == f"colours@{second.manifest.identity.removeprefix('sha256:')[:12]}"
    assert {name: digest for name, digest in hashes(table).items() if name in before} == before
    assert opened.find("colours") == second
    assert opened.find(first.name) == first
    third, _ = add(table, child(second.folder, tmp_path / "third"), base, "colours")
    assert third.number == 3
    assert opened.remove(first.name) == [first.name]
    assert opened.find("colours") == third
    assert opened.remove("colours") == [second.name, third.name]
    assert opened.versions() == []


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../up", "a/b", "a\\b", "Upper", "ümlaut", "a b", "-a", ".a", "a@b", "a:b", "a\n", "a\x00"),
        *("x" * 65, "con", "nul.txt", "com1", "a.", "base"),
    ],
)
def test_a_name_that_could_harm_or_mislead_is_refused(
    table: Path, base: Path, made: dict[str, Path], name: str
) -> None:
    before = hashes(table.parent)
    with pytest.raises(SpecError):
        add(table, made["others"], base, name)
    assert hashes(table.parent) == before


@pytest.mark.parametrize("which", ["lora", "zero_shot"])
def test_what_is_not_a_prompt_before_the_text_alone_is_refused(
    table: Path, base: Path, made: dict[str, Path], which: str
) -> None:
    with pytest.raises(SpecError, match="is more than a prompt before the text"):
        add(table, made[which], base, which)


def test_one_of_another_base_is_refused(table: Path, tmp_path: Path) -> None:
    other = make_tiny_base(tmp_path / "other", seed=1)
    before = hashes(table)
    with pytest.raises(ArtifactError, match="made for another base"):
        add(table, make("prompt_tuning", other, tmp_path / "made"), other, "foreign")
    assert hashes(table) == before


def test_a_folder_that_is_something_else_is_not_taken_for_a_table(
    tmp_path: Path, base: Path, made: dict[str, Path]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(SpecError, match="exists, and is no prompt table"):
        add(tmp_path / "mine", made["colours"], base, "colours")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["letter.txt"]
    with pytest.raises(ResourceError, match="there is no prompt table"):
        PromptTable.open(tmp_path / "mine")


def opened(table: Path, base: Path, task: str = "colours") -> Any:
    """As `load`, `apply` and `chat` open it."""
    return in_table(PromptTable.open(table), task, base).open()


def test_a_flipped_byte_in_any_file_of_a_table_is_refused(table: Path, base: Path) -> None:
    files = [p for p in sorted(table.rglob("*")) if p.is_file() and p.name != ".lock"]
    assert len(files) >= 8
    for file in files:
        good = file.read_bytes()
        place = good.index(b"sha256:") + 9 if file.suffix == ".json" and b"sha256:" in good else len(good) // 2
        broken = bytearray(good)
        broken[place] ^= 1
        file.write_bytes(bytes(broken))
        with pytest.raises(ArtifactError) as refused:
            opened(table, base)
        assert refused.value.exit_code == 4
        assert str(table) in str(refused.value), file
        file.write_bytes(good)
    opened(table, base)


@pytest.mark.parametrize("name", ["table.json", "prompt_table/colours/added.json"])
def test_a_flipped_bit_anywhere_in_what_the_table_wrote_is_refused_or_without_effect(table: Path, name: str) -> None:
    def read() -> tuple[PromptTable, Version]:
        opened = PromptTable.open(table)
        return opened, opened.verified(opened.find("colours"))

    good, wanted = (table / name).read_bytes(), read()
    for place in range(len(good)):
        for bit in (1, 32):
            broken = bytearray(good)
            broken[place] ^= bit
            (table / name).write_bytes(bytes(broken))
            try:
                assert read() == wanted
                assert json.loads(broken) == json.loads(good), place
            except ArtifactError as refused:
                assert str(table / name) in str(refused), place  # noqa: PT017 (or without effect)


def test_the_order_of_the_versions_cannot_be_changed(
    table: Path, base: Path, made: dict[str, Path], tmp_path: Path
) -> None:
    second, _ = add(table, child(made["colours"], tmp_path / "next"), base, "colours")
    for folder, its, other in ((table / "prompt_table" / "colours", 1, 2), (second.folder, 2, 1)):
        text = (folder / "added.json").read_text()
        (folder / "added.json").write_text(text.replace(f'"version": {its}', f'"version": {other}'))
    with pytest.raises(ArtifactError, match="not as it was written"):
        PromptTable.open(table).find("colours")


def test_a_table_of_an_earlier_layout_is_refused_with_what_to_do(table: Path) -> None:
    (table / "table.json").write_text(json.dumps(kept(table / "table.json") | {"schema": 1}))
    with pytest.raises(
        ArtifactError, match=r"schema 1 is not the one .*(\n.*)begin a new table and add the runs to it"
    ):
        PromptTable.open(table)


def test_its_scores_and_its_card_are_those_that_were_added(base: Path, made: dict[str, Path], tmp_path: Path) -> None:
    measured = shutil.copytree(made["colours"], tmp_path / "measured")
    store.write_json(measured / "scores.json", {"test": {"n": 100, "score": 0.32}})
    (measured / "README.md").write_text("A card.")
    add(tmp_path / "table", measured, base, "colours")
    opened(tmp_path / "table", base)
    folder = tmp_path / "table" / "prompt_table" / "colours"
    for name, text in (("scores.json", '{"test": {"n": 100, "score": 0.92}}'), ("README.md", "Another card.")):
        good = (folder / name).read_bytes()
        (folder / name).write_text(text)
        with pytest.raises(ArtifactError, match=f"{name}: not as it was added"):
            opened(tmp_path / "table", base)
        (folder / name).unlink()
        with pytest.raises(ArtifactError, match=f"{name}: not as it was added"):
            opened(tmp_path / "table", base)
        (folder / name).write_bytes(good)
    opened(tmp_path / "table", base)


def test_a_customization_without_check_rows_is_refused(table: Path, base: Path) -> None:
    resealed(table / "prompt_table" / "colours", check_rows=[])
    with pytest.raises(ArtifactError, match="no check rows"):
        opened(table, base)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {"prompt_embeddings": t * float("nan")}, "not finite"),
        (lambda t: {"prompt_embedding": t}, "prompt_embeddings"),
        (lambda t: {"other": t[:, :3].contiguous()}, "prompt_embeddings"),
        (lambda t: {"prompt_embeddings": t[:2].contiguous()}, "prompt"),
    ],
)
def test_a_wrong_tensor_is_refused_by_name_even_with_all_hashes_right(
    table: Path, base: Path, change: Callable[[Any], dict[str, Any]], message: str
) -> None:
    from safetensors.torch import load_file, save_file

    folder = table / "prompt_table" / "colours"
    path = folder / "adapter_model.safetensors"
    save_file(change(load_file(str(path))["prompt_embeddings"]), str(path))
    resealed(folder)
    with pytest.raises(ArtifactError, match=message):
        opened(table, base)


def test_a_missing_file_a_foreign_one_and_a_renamed_task_are_refused(
    table: Path, base: Path, made: dict[str, Path]
) -> None:
    add(table, made["others"], base, "others")
    below = table / "prompt_table"
    for name in ("adapter_model.safetensors", "prompt.json", "added.json", "manifest.json"):
        (below / "colours" / name).rename(table.parent / name)
        with pytest.raises(ArtifactError, match=name.replace(".", r"\.")):
            opened(table, base)
        (table.parent / name).rename(below / "colours" / name)
    (below / "colours").rename(below / "colors")
    with pytest.raises(ArtifactError, match="is not what was added as 'colours'"):
        opened(table, base, "colors")
    (below / "colors").rename(below / "colours")
    (below / "notes.txt").write_text("x")
    assert "does not belong to a prompt table" in str(PromptTable.open(table).damaged()["notes.txt@damaged"])
    assert PromptTable.open(table).remove("notes.txt@damaged") == ["notes.txt@damaged"]
    assert sorted(p.name for p in below.iterdir()) == ["colours", "others"]


@pytest.mark.parametrize("name", ["manifest.json", "added.json"])
def test_a_damaged_task_leaves_the_others_and_can_be_taken_out(
    table: Path, base: Path, made: dict[str, Path], name: str
) -> None:
    (table / "prompt_table" / "colours" / name).write_text("{")
    add(table, made["others"], base, "others")
    shut = PromptTable.open(table)
    assert sorted(shut.newest()) == ["others"]
    opened(table, base, "others")
    with pytest.raises(ArtifactError, match="is not readable JSON"):
        add(table, made["colours"], base, "colours")
    with pytest.raises(SpecError, match="no task is called 'coolers'"):
        shut.remove("coolers")
    assert list(shut.damaged()) == ["colours@damaged"]
    assert shut.remove("colours") == ["colours@damaged"]
    assert add(table, made["colours"], base, "colours")[1]


def written(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


def hashed_again(name: str, text: str) -> Callable[[Path], None]:
    """A file that is not what it should be, with all hashes right: as made elsewhere."""

    def plant(folder: Path) -> None:
        (folder / name).write_text(text)
        resealed(folder)

    return plant


def put_beside(name: str, text: Callable[[str], str]) -> Callable[[Path], None]:
    """As `hashed_again`, in what is no part of the identity."""

    def plant(folder: Path) -> None:
        path = folder / name
        path.write_text(text(path.read_text() if path.is_file() else ""))
        rehashed(folder / "added.json", beside=beside(folder))

    return plant


def scored(text: str) -> Callable[[Path], None]:
    return put_beside("scores.json", lambda _: text)


def measured_on(environment: dict[str, Any]) -> Callable[[Path], None]:
    return put_beside("manifest.json", lambda old: json.dumps({**json.loads(old), "environment": environment}))


@pytest.mark.parametrize(
    "plant",
    [
        *(
            written(name, "[" * 100_000)
            for name in ("manifest.json", "added.json", "scores.json", "adapter_config.json")
        ),
        *(written(name, '{"schema": ' + "9" * 6000 + "}") for name in ("manifest.json", "added.json", "prompt.json")),
        *(written("added.json", text) for text in ("[]", "{}", '{"sha256": NaN}')),
        *(hashed_again("adapter_config.json", text) for text in ("[]", '{"peft_type": "PROMPT_TUNING"}')),
        *(hashed_again("prompt.json", text) for text in ("[]", '{"instruction": null, "decode": {}}')),
        *(scored(text) for text in ("[]", '{"test": []}', '{"test": {"score": "0.9", "n": 4}}', '{"forgetting": 1}')),
        measured_on({}),
        measured_on({"device": "cpu", "threads": "many"}),
        lambda folder: (folder / "notes.pkl").write_bytes(b"") and None,
        lambda folder: rehashed(folder / "added.json", version="1"),
    ],
)
def test_whatever_is_planted_in_one_task_the_others_go_on_and_it_can_be_taken_out(
    table: Path, base: Path, made: dict[str, Path], tmp_path: Path, plant: Callable[[Path], None]
) -> None:
    """`colours` is the first in the alphabet, after whose device a table is opened."""
    add(table, made["others"], base, "others")
    plant(table / "prompt_table" / "colours")
    listed = tabling.listed(table)
    assert [row["task"] for row in listed["tasks"]] == ["others"]
    (damaged,) = listed["damaged"]
    assert damaged.startswith("colours@")
    list(table_rows(listed).columns)
    assert in_table(PromptTable.open(table), "others").device() == "cpu"
    with pytest.raises((ArtifactError, SafetyError)):
        in_table(PromptTable.open(table), "colours")
    (tmp_path / "in.csv").write_text("task,text\ncolours,red\nothers,blue\n")
    ask = by_task(serve(table, {}), tmp_path / "in.csv", None)
    assert [ask(row).problem is None for row in read_inputs(tmp_path / "in.csv")] == [False, True]
    assert add(table, made["others"], base, "third")[1]
    assert PromptTable.open(table).remove(damaged) == [damaged]
    assert sorted(PromptTable.open(table).newest()) == ["others", "third"]
    assert add(table, made["colours"], base, "colours")[1]


def test_an_older_version_does_not_answer_for_a_damaged_newer_one(
    table: Path, base: Path, made: dict[str, Path], tmp_path: Path
) -> None:
    first = PromptTable.open(table).find("colours")
    second, _ = add(table, child(made["colours"], tmp_path / "next"), base, "colours")
    (second.folder / "manifest.json").unlink()
    shut = PromptTable.open(table)
    assert shut.newest() == {}
    with pytest.raises(ArtifactError, match=r"there is no manifest\.json"):
        shut.find("colours")
    assert shut.find(first.name) == first
    assert shut.remove(second.folder.name) == [second.folder.name]
    assert shut.find("colours") == first


def test_a_table_copied_to_another_base_is_refused(table: Path, tmp_path: Path) -> None:
    other = make_tiny_base(tmp_path / "other", seed=1)
    with pytest.raises(ArtifactError, match="made for another base"):
        opened(table, other)
    rehashed(table / "table.json", schema=7)
    with pytest.raises(ArtifactError, match="schema 7 is not the one this version reads"):
        opened(table, other)


def test_a_table_finds_its_base_by_fingerprint_by_name_or_where_it_is_said_to_be(
    table: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another machine: no absolute path is handed on, and nothing there has met the base."""
    for file in (p for p in table.rglob("*") if p.is_file()):
        assert str(base).encode() not in file.read_bytes(), file
    monkeypatch.setenv("TAILORBIRD_HOME", str(tmp_path / "home"))
    moved = Path(shutil.copytree(base, tmp_path / "moved"))
    with pytest.raises(ResourceError, match="say where it lies now with --base FOLDER"):
        in_table(PromptTable.open(table), "colours").open()
    with pytest.raises(ArtifactError, match="made for another base"):
        serve(table, {}, make_tiny_base(tmp_path / "other", seed=1)).answer([("base", Request("0", ASKED))])
    served = serve(table, {}, moved)
    assert len(list(served.answer([("base", Request("0", ASKED, max_new_tokens=1))]))) == 1
    assert in_table(PromptTable.open(table), "colours").base_folder == moved.resolve()
    shutil.move(moved, tmp_path / base.name)
    monkeypatch.chdir(tmp_path)
    assert in_table(PromptTable.open(table), "colours").base_folder == tmp_path / base.name


def test_what_needs_no_base_does_not_look_for_it(
    table: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAILORBIRD_HOME", str(tmp_path / "home"))
    assert tabling.add(tmp_path / "mine", f"{table}:colours").new
    assert tabling.listed(tmp_path / "mine")["lora_bytes"] is None
    with pytest.raises(ResourceError, match="--base FOLDER"):
        tabling.continuation(table, "colours", table / "table.json")
    spec, _ = tabling.continuation(table, "colours", table / "table.json", base=base)
    assert spec.base is not None
    assert spec.base.name == str(base.resolve())


def test_a_second_writer_is_told_to_wait(table: Path, base: Path, made: dict[str, Path]) -> None:
    from tailorbird.artifacts.table import _lock

    with _lock(table), pytest.raises(ResourceError, match="this prompt table is locked by") as refused:
        add(table, made["others"], base, "others")
    assert refused.value.exit_code == 6
    assert sorted(PromptTable.open(table).newest()) == ["colours"]


WRITER = """
import sys
from pathlib import Path
from tailorbird.artifacts.manifest import read_manifest
from tailorbird.artifacts.table import PromptTable, begin
verb, table, source, base, task = sys.argv[1:]
MADE = {"from": "run", "label": "l", "made_at": None, "added_at": "now"}
if verb == "add":
    begin(Path(table), read_manifest(Path(source))).add(Path(source), task, MADE)
else:
    PromptTable.open(table).remove(task)
"""


def writing(verb: str, table: Path, source: Path, base: Path, fault: str = "", task: str = "others") -> int:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TAILORBIRD_FAULT": fault}
    command = [sys.executable, "-c", WRITER, verb, str(table), str(source), str(base), task]
    return subprocess.run(command, env=environment, capture_output=True, check=False).returncode


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
@pytest.mark.parametrize("first", [True, False])
def test_killed_at_any_instant_the_table_is_as_before_or_after(
    tmp_path: Path, base: Path, made: dict[str, Path], first: bool
) -> None:
    """Adding the first task of all, and one more; then the same command again ends as undisturbed."""
    killed = 0
    points = ["copy:1", "copy:4", "write:1", "rename:1", "publish:1"] + ["write:2", "rename:2"] * first
    for number, point in enumerate(points):
        path = tmp_path / f"table{number}"
        if not first:
            add(path, made["colours"], base, "colours")
        before = {name: digest for name, digest in hashes(path).items() if "/." not in name}
        killed += writing("add", path, made["others"], base, f"kill@{point}") == -signal.SIGKILL
        if PromptTable.is_at(path):
            names = sorted(PromptTable.open(path).newest())
            assert names in ([["others"], []] if first else [["colours"], ["colours", "others"]])
        assert before.items() <= hashes(path).items()
        assert writing("add", path, made["others"], base) == 0
        table = PromptTable.open(path)
        assert [table.verified(v).task for v in table.versions()] == ["colours"] * (not first) + ["others"]
        assert not [p for p in (path / "prompt_table").iterdir() if p.name.startswith(".")]
    assert killed == len(points)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_killed_while_removing_the_task_is_gone_or_whole(table: Path, base: Path, made: dict[str, Path]) -> None:
    add(table, made["others"], base, "others")
    assert writing("remove", table, made["others"], base, "kill@discard:1") == -signal.SIGKILL
    assert sorted(PromptTable.open(table).newest()) == ["colours"]
    assert writing("add", table, made["others"], base) == 0
    assert sorted(PromptTable.open(table).newest()) == ["colours", "others"]


def test_a_damaged_first_version_can_be_taken_out_alone(
    table: Path, base: Path, made: dict[str, Path], tmp_path: Path
) -> None:
    second, _ = add(table, child(made["colours"], tmp_path / "next"), base, "colours")
    (table / "prompt_table" / "colours" / "manifest.json").unlink()
    shut = PromptTable.open(table)
    with pytest.raises(ArtifactError):
        shut.find("colours")
    assert shut.remove("colours@damaged") == ["colours@damaged"]
    assert shut.find("colours") == second


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_killed_while_removing_several_versions_the_task_is_still_its_newest(
    table: Path, base: Path, made: dict[str, Path], tmp_path: Path
) -> None:
    second, _ = add(table, child(made["colours"], tmp_path / "next"), base, "colours")
    assert writing("remove", table, made["colours"], base, "kill@discard:1", task="colours") == -signal.SIGKILL
    assert PromptTable.open(table).versions() == [second]
    assert writing("remove", table, made["colours"], base, task="colours") == 0
    assert PromptTable.open(table).versions() == []


@pytest.mark.parametrize("point", ["copy:2", "write:1", "publish:1"])
def test_a_full_disk_leaves_the_table_as_it_was(
    table: Path, base: Path, made: dict[str, Path], monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    before = hashes(table)
    monkeypatch.setattr(store, "_passes", type(store._passes)())
    monkeypatch.setenv("TAILORBIRD_FAULT", f"full@{point}")
    with pytest.raises(TailorbirdError, match="the disk is full") as refused:
        add(table, made["others"], base, "others")
    assert refused.value.exit_code == 6
    assert hashes(table) == before
