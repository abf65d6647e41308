"""What holds for every source file: imports go one way, nothing unsafe, sizes that can be read."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "tailorbird"
FILES = sorted(SOURCE.rglob("*.py"))
# Their users run without torch, and `--help` and `check` must start at once: torch only inside functions.
LAZY = (
    "cli",
    "api",
    "running",
    "applying",
    "checking",
    "exporting",
    "initialize",
    "loading",
    "tabling",
    "doctoring",
    "plan",
    "techniques",
    "bases",
    "data",
    "tasks",
    "spec",
    "store",
    "types",
    "measure",
    "reporting",
)
HEAVY = {"torch", "transformers", "peft", "sklearn", "scipy", "sacrebleu"}


def top_level_imports(tree: ast.Module) -> Iterator[str]:
    """Packages imported when the file is; `if TYPE_CHECKING:` does not count."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    """Dotted name and node of every call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_nothing_unsafe(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = []
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    found += [
        f"import {name}"
        for name in imported & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
    ]
    for name, call in calls(tree):
        keywords = {k.arg: k.value for k in call.keywords}
        if name in {
            "eval",
            "exec",
            "compile",
            "os.system",
            "os.popen",
            "torch.load",
            "torch.save",
            "yaml.load",
            "__import__",
        }:
            found.append(name)
        for flag in ("shell", "trust_remote_code"):
            value = keywords.get(flag)
            if value is not None and not (isinstance(value, ast.Constant) and value.value is False):
                found.append(f"{name}({flag}=...)")
        if name.startswith(("requests.", "httpx.")) and name.split(".")[1] in {"get", "post", "request"}:
            found += [] if "timeout" in keywords else [f"{name} without timeout"]
        if name.endswith("urlopen") and "timeout" not in keywords:
            found.append(f"{name} without timeout")
    assert not found, f"{path.relative_to(ROOT)}: {', '.join(found)}"


@pytest.mark.parametrize("part", LAZY)
def test_nothing_heavy_at_module_level(part: str) -> None:
    for path in FILES:
        inside = path.relative_to(SOURCE)
        if inside.parts[0].removesuffix(".py") == part:
            heavy = HEAVY & set(top_level_imports(ast.parse(path.read_text(encoding="utf-8"))))
            assert not heavy, f"{inside} imports {', '.join(sorted(heavy))} at module level"


def test_imports_go_one_way() -> None:
    program = shutil.which("lint-imports", path=str(Path(sys.executable).parent)) or shutil.which("lint-imports")
    if program is None:
        pytest.skip("import-linter is not installed (extra dev)")
    done = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


def test_files_can_be_read_in_one_sitting() -> None:
    long = {str(p.relative_to(ROOT)): n for p in FILES if (n := len(p.read_text(encoding="utf-8").splitlines())) > 500}
    assert not long, f"more than 500 lines; which second subject lives here? {long}"


def test_the_tests_that_hold_a_promise_are_there() -> None:
    """docs/architecture.md, "Promises": `file.py::test` or, for the file named before it, `::test`."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page[page.index("| promise | test |") :].partition("\n\n")[0]
    named, file = [], ""
    for path, test in re.findall(r"`([\w/]+\.py)?(?:::(\w+))?`", table):
        file = path or file
        named.append((file, test))
    assert len(named) > 20
    texts = {path: (ROOT / "tests" / path).read_text(encoding="utf-8") for path, _ in named}
    missing = [f"{path}::{test}" for path, test in named if test and f"def {test}(" not in texts[path]]
    assert not missing


def test_committed_files_name_no_machine() -> None:
    """No absolute path of a developer's machine, no note to each other, in anything that is published."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, timeout=30)
    if tracked.returncode != 0:
        pytest.skip("not a git checkout")
    mark = re.compile(
        r"(?<![\w.*}])/(work|home|Users|root)/\w|C:\\\\?Users|joints[.]md|shared/\w+[.]md|\bissue \d|\bH-[a-z]+\b"
    )
    found = []
    for name in filter(None, tracked.stdout.decode().split("\0")):
        path = ROOT / name
        if path.suffix in {".png", ".safetensors", ".jsonl", ".csv"} or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        found += [f"{name}: {hit[0]}" for hit in mark.finditer(text)]
    assert not found, "\n".join(found)
