"""What the store promises: old content or new, never a mixture; one writer; steps that know when they are done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tailorbird import store
from tailorbird.errors import ArtifactError, DataError, ResourceError

KILLED = -9


def child(code: str, folder: Path, fault: str | None = None) -> int:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    if fault:
        environment["TAILORBIRD_FAULT"] = fault
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, check=False).returncode


def test_a_written_value_is_read_back(tmp_path: Path) -> None:
    value = {"ä": [1, 0.1, None, "\u2028"], "b": True}
    store.write_json(tmp_path / "deep" / "file.json", value)
    assert store.read_json(tmp_path / "deep" / "file.json") == value


def test_rows_are_read_back_in_order(tmp_path: Path) -> None:
    store.write_jsonl(tmp_path / "rows.jsonl", ({"n": n} for n in range(3)))
    assert store.read_jsonl(tmp_path / "rows.jsonl") == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_a_torn_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": 1')
    with pytest.raises(ArtifactError, match=r"x\.json"):
        store.read_json(tmp_path / "x.json")


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
@pytest.mark.parametrize("point", ["write", "rename"])
def test_a_kill_while_writing_leaves_the_old_content(tmp_path: Path, point: str) -> None:
    store.write_json(tmp_path / "x.json", {"old": 1})
    code = "from tailorbird import store; store.write_json('x.json', {'new': 1})"
    assert child(code, tmp_path, f"kill@{point}:1") == KILLED
    assert store.read_json(tmp_path / "x.json") == {"old": 1}
    store.sweep(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_an_exception_while_writing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), store.atomic(tmp_path / "x") as file:
        file.write(b"half")
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_resource_error_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write_text(tmp_path / "x", "old")
    monkeypatch.setenv("TAILORBIRD_FAULT", "full@write:1")
    store._passes.clear()
    with pytest.raises(ResourceError, match="disk is full") as raised:
        store.write_text(tmp_path / "x", "new")
    assert raised.value.exit_code == 6
    assert (tmp_path / "x").read_text() == "old"


def test_a_folder_is_published_whole_and_replaces_a_leftover(tmp_path: Path) -> None:
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "leftover").write_text("half")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "file").write_text("whole")
    store.publish_folder(tmp_path / "new", tmp_path / "final")
    assert [p.name for p in (tmp_path / "final").iterdir()] == ["file"]
    assert [p.name for p in tmp_path.iterdir()] == ["final"]


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
@pytest.mark.parametrize("point", ["publish", "publish-between"])
def test_a_kill_while_publishing_never_shows_half_a_folder(tmp_path: Path, point: str) -> None:
    for name in ("new", "final"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    code = "from tailorbird import store; store.publish_folder('new', 'final')"
    assert child(code, tmp_path, f"kill@{point}:1") == KILLED
    final = tmp_path / "final" / "file"
    assert not final.exists() or final.read_text() == "final"


def test_equal_values_have_equal_keys_and_different_ones_do_not() -> None:
    assert store.key({"a": 1, "b": 0.1}) == store.key({"b": 0.1, "a": 1})
    assert len({store.key(1), store.key("1"), store.key([1]), store.key(1, 1), store.key(1.5)}) == 5
    with pytest.raises(ValueError, match="Out of range"):
        store.key(float("nan"))


def test_a_step_is_done_only_after_finish(tmp_path: Path) -> None:
    step = store.Steps(tmp_path).step("measure", {"rows": ["a", "b"]})
    step.begin()
    assert not step.done
    step.finish({"score": 0.5})
    again = store.Steps(tmp_path).step("measure", {"rows": ["a", "b"]})
    assert again.done
    assert again.result() == {"score": 0.5}
    assert store.read_json(step.folder / "inputs.json")["inputs"] == {"rows": ["a", "b"]}


@pytest.mark.parametrize("change", [{"inputs": {"rows": ["b", "a"]}}, {"revision": 2}, {"name": "other"}])
def test_anything_that_determines_a_step_changes_its_key(tmp_path: Path, change: dict) -> None:
    asked = {"name": "measure", "inputs": {"rows": ["a", "b"]}, "revision": 1}
    steps = store.Steps(tmp_path)
    assert steps.step(**asked).key != steps.step(**{**asked, **change}).key


def test_a_log_goes_on_after_a_torn_last_line_wherever_it_was_torn(tmp_path: Path) -> None:
    whole = b'{"n":1}\n{"n":2}\n'
    last = b'{"n":3,"text":"\xc3\xa4"}\n'
    for cut in range(len(last)):
        path = tmp_path / f"log{cut}.jsonl"
        path.write_bytes(whole + last[:cut])
        with store.AppendLog(path) as log:
            assert log.records == [{"n": 1}, {"n": 2}]
            log.append({"n": 3})
        assert store.read_jsonl(path) == [{"n": 1}, {"n": 2}, {"n": 3}]


def test_a_log_damaged_in_the_middle_is_refused_by_line(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b'{"n":1}\n{"n":\n{"n":3}\n')
    with pytest.raises(DataError, match="log:2"):
        store.AppendLog(tmp_path / "log")


def test_a_second_process_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    code = (
        "from tailorbird import store, errors\n"
        "try:\n    store.RunLock('.').__enter__()\n"
        "except errors.ResourceError as error:\n    print(error); raise SystemExit(6)"
    )
    with store.RunLock(tmp_path):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        run = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert run.returncode == 6
        assert f"locked by pid {os.getpid()}" in run.stdout
    assert child(code, tmp_path) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    code = "import os, signal; from tailorbird import store; store.RunLock('.').__enter__(); os.kill(os.getpid(), 9)"
    assert child(code, tmp_path) == KILLED
    assert json.loads((tmp_path / ".lock").read_text())["pid"]
    with store.RunLock(tmp_path):
        pass


def test_without_system_locks_a_reused_pid_counts_as_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_lock", lambda file: False)
    parent = os.getppid()
    (tmp_path / ".lock").write_text(json.dumps({"pid": parent, "started": "another boot:1"}))
    with store.RunLock(tmp_path):
        pass
    (tmp_path / ".lock").write_text(json.dumps({"pid": parent, "started": store.process_start(parent)}))
    with pytest.raises(ResourceError, match=f"locked by pid {parent}"), store.RunLock(tmp_path):
        pass


def test_home_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILORBIRD_HOME", str(tmp_path))
    assert store.home() == tmp_path
