"""The commands as a user meets them: what they print where, how they fail, how fast they start."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

STORIES = Path(__file__).parents[1] / "fixtures" / "stories260k"
LINES = [
    ("I lost my card yesterday", "lost"),
    ("Where is my money", "transfer"),
    ("My card was stolen in Rome", "lost"),
    ("The transfer has not arrived", "transfer"),
    ("Somebody took my wallet", "lost"),
    ("It was sent on Monday", "transfer"),
]


def tailorbird(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "TAILORBIRD_HOME": str(folder / "home"),
        "COLUMNS": "100",
        **environment,
    }
    return subprocess.run(
        [sys.executable, "-m", "tailorbird", *words],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )


def write_data(folder: Path, count: int = 120) -> None:
    rows = [f'"{text}, case {n}",{label}' for n in range(count) for text, label in [LINES[n % len(LINES)]]]
    (folder / "rows.csv").write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")


def write_spec(folder: Path, more: str = "") -> None:
    write_data(folder)
    text = f"base: {STORIES}\ndata: rows.csv\ntask: {{kind: classify}}\n{more}"
    (folder / "try.yaml").write_text(text, encoding="utf-8")


def assert_refused(done: subprocess.CompletedProcess[str], code: int, *parts: str) -> None:
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in done.stderr


def test_help_names_every_verb_and_is_there_at_once(tmp_path: Path) -> None:
    done = tailorbird(tmp_path, "--help")
    verbs = ("demo", "init", "check", "run", "show", "chat", "apply", "export", "bases", "doctor")
    assert all(f"  {verb} " in done.stdout for verb in verbs)
    times = []
    for _ in range(3):
        begun = time.monotonic()
        tailorbird(tmp_path, "--help")
        times.append(time.monotonic() - begun)
    assert min(times) < 0.6  # 0.15 s on a quiet machine


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["bases", "get", "--help"], ["--version"]])
def test_help_of_every_kind_ends_well(tmp_path: Path, words: list[str]) -> None:
    assert tailorbird(tmp_path, *words).returncode == 0


@pytest.mark.parametrize(
    "module", ["tailorbird", "tailorbird.cli", "tailorbird.checking", "tailorbird.running.material"]
)
def test_importing_loads_no_torch(module: str) -> None:
    code = (
        f"import sys, {module}; heavy = {{'torch', 'transformers', 'sklearn', 'scipy', 'numpy'}} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, check=True
    )


def test_init_writes_a_spec_that_check_accepts(tmp_path: Path) -> None:
    write_data(tmp_path)
    made = tailorbird(tmp_path, "init", "rows.csv", "--base", str(STORIES))
    assert made.returncode == 0, made.stderr
    assert made.stdout == "rows.yaml\n"
    assert "next: tailorbird check rows.yaml" in made.stderr
    text = (tmp_path / "rows.yaml").read_text(encoding="utf-8")
    assert "kind: classify" in text
    assert "instruction: " in text
    assert "    lost: lost" in text
    checked = tailorbird(tmp_path, "check", "rows.yaml")
    assert checked.returncode == 0, checked.stderr
    again = tailorbird(tmp_path, "init", "rows.csv")
    assert_refused(again, 2, "rows.yaml: is there already", "nothing is overwritten")


def test_init_for_a_base_that_is_not_there_says_so(tmp_path: Path) -> None:
    write_data(tmp_path)
    for base, said in (("nosuch", "nosuch"), ("smollm2-135m", "run: tailorbird bases get smollm2-135m")):
        made = tailorbird(tmp_path, "init", "rows.csv", "--base", base, "-o", f"{base}.yaml")
        assert made.returncode == 0, made.stderr
        (note,) = [line for line in made.stderr.split("\nnext:") if "note: " in line]
        assert said in note.partition("note: ")[2]
    here = tailorbird(tmp_path, "init", "rows.csv", "--base", str(STORIES), "-o", "here.yaml")
    assert "note: " not in here.stderr


def test_check_shows_data_rows_and_plan_without_torch(tmp_path: Path) -> None:
    write_spec(tmp_path)
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nclass No:\n    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('torch', 'transformers'):\n            raise ImportError('not here: ' + name)\n"
        "sys.meta_path.insert(0, No())\n"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = tailorbird(tmp_path, "check", "try.yaml", PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    for part in (
        "rows.csv: 120 rows",
        "2: lost 60, transfer 60",
        "overlap 0",
        "⟦ ",
        "majority",
        "few_shot",
        "sft",
        "About",
    ):
        assert part in done.stdout
    assert "next: tailorbird run try.yaml" in done.stderr


def test_the_first_line_of_check_comes_within_a_second(tmp_path: Path) -> None:
    write_spec(tmp_path)
    times = []
    for _ in range(3):
        begun = time.monotonic()
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TAILORBIRD_HOME": str(tmp_path)}
        words = [sys.executable, "-m", "tailorbird", "check", "try.yaml"]
        with subprocess.Popen(
            words, cwd=tmp_path, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
        ) as process:
            assert process.stderr is not None
            process.stderr.readline()
            times.append(time.monotonic() - begun)
            process.stderr.read()
    assert statistics.median(times) < 1


def test_check_of_data_alone_and_as_json(tmp_path: Path) -> None:
    write_data(tmp_path)
    done = tailorbird(tmp_path, "check", "rows.csv", "--base", str(STORIES), "--json")
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert value["data"]["accepted"] == 120
    assert value["plan"]["task"]["kind"] == "classify"


def test_check_writes_the_rows_that_a_file_of_answers_must_answer(tmp_path: Path) -> None:
    write_spec(tmp_path, "split: {validation: 20, test: 20}\n")
    done = tailorbird(tmp_path, "check", "try.yaml", "--rows", "ask.jsonl")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "ask.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 40
    assert all(set(row) == {"id", "input"} for row in rows)


def test_the_rows_to_answer_are_json_lines_and_overwrite_nothing(tmp_path: Path) -> None:
    write_spec(tmp_path)
    assert_refused(tailorbird(tmp_path, "check", "try.yaml", "--rows", "ask.csv"), 2, "must end in .jsonl")
    (tmp_path / "ask.jsonl").write_text("mine", encoding="utf-8")
    assert_refused(tailorbird(tmp_path, "check", "try.yaml", "--rows", "ask.jsonl"), 2, "is there already")
    assert (tmp_path / "ask.jsonl").read_text(encoding="utf-8") == "mine"


def test_check_refuses_what_a_run_would_refuse_at_once(tmp_path: Path) -> None:
    write_spec(tmp_path, "contestants: [zero_shot, {label: today, answers: today.csv}]\n")
    assert_refused(tailorbird(tmp_path, "check", "try.yaml"), 2, "contestant today", "no such file")
    (tmp_path / "today.csv").write_text("text,answer\nno row of ours,x\n", encoding="utf-8")
    assert_refused(tailorbird(tmp_path, "check", "try.yaml"), 2, "no answer for")
    assert tailorbird(tmp_path, "check", "try.yaml", "--rows", "ask.jsonl").returncode == 0


def test_what_to_type_next_has_the_overrides_that_were_planned_with(tmp_path: Path) -> None:
    write_spec(tmp_path)
    done = tailorbird(tmp_path, "run", "try.yaml", "seed=1", "--dry-run")
    assert "next: tailorbird run try.yaml seed=1" in done.stderr + done.stdout


def test_rows_given_as_a_spec_lead_to_init(tmp_path: Path) -> None:
    write_spec(tmp_path)
    assert_refused(tailorbird(tmp_path, "run", "rows.csv"), 2, "not a mapping of fields", "tailorbird init")


def test_dry_run_shows_the_plan_and_makes_no_folder(tmp_path: Path) -> None:
    write_spec(tmp_path)
    done = tailorbird(tmp_path, "run", "try.yaml", "seed=3", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "seed 3" in done.stdout
    assert not (tmp_path / "runs").exists()


def test_three_typos_are_reported_at_once_with_their_lines(tmp_path: Path) -> None:
    write_spec(tmp_path, "contestnts: [lora]\nrequirements: {margn: 0.1}\nsplit: {trian: 10}\n")
    done = tailorbird(tmp_path, "run", "try.yaml")
    assert_refused(
        done, 2, "3 problems", "line 4: contestnts: no such field; did you mean `contestants`?",
        "line 5: requirements.margn: no such field; did you mean `margin`?",
        "line 6: split.trian: no such field; did you mean `train`?",
    )  # fmt: skip
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        (["run", "none.yaml"], 2, ["none.yaml: there is no such file", "tailorbird init DATA"]),
        (["run"], 2, ["Missing argument", "tailorbird run --help"]),
        (["run", "try.yaml", "--frok"], 2, ["No such option"]),
        (["run", "try.yaml", "margin"], 2, ["is not of the form key=value"]),
        (["run", "try.yaml", "contestants.lorra.rank=1"], 2, ["no contestant is called `lorra`"]),
        (["run", "try.yaml", "base=smollm2-135m"], 6, ["not on this machine", "tailorbird bases get smollm2-135m"]),
        (["run", "try.yaml", "data=gone.csv"], 2, ["gone.csv"]),
        (["show", "nothing"], 6, ["nothing: there is no such run"]),
        (["check", "try.yaml", "contestants.lora.rnk=1", "sed=1"], 2, ["2 problems", "`rank`", "`seed`"]),
        (["apply", "nothing", "rows.csv", "-o", "out.csv"], 6, ["there is no such run"]),
        (["bases", "get", "smolm2"], 2, ["did you mean 'smollm2-135m'?"]),
        (["init", "gone.csv"], 2, ["gone.csv"]),
    ],
)
def test_a_user_s_mistake_gets_a_message_and_its_exit_code(
    tmp_path: Path, words: list[str], code: int, parts: list[str]
) -> None:
    write_spec(tmp_path, "contestants: [zero_shot, lora]\n")
    assert_refused(tailorbird(tmp_path, *words), code, *parts)
    assert not (tmp_path / "runs" / "try" / "steps").exists()


def test_hostile_yaml_is_refused_with_exit_7(tmp_path: Path) -> None:
    write_spec(tmp_path, "name: !!python/object/apply:os.system [touch canary]\n")
    assert_refused(tailorbird(tmp_path, "run", "try.yaml"), 7, "tags are not allowed")
    assert not (tmp_path / "canary").exists()


def test_debug_shows_where(tmp_path: Path) -> None:
    done = tailorbird(tmp_path, "run", "none.yaml", "--debug")
    assert "Traceback" in done.stderr


def test_bases_lists_what_is_known(tmp_path: Path) -> None:
    done = tailorbird(tmp_path, "bases", "--json")
    assert "smollm2-135m" in {base["name"] for base in json.loads(done.stdout)}
    table = tailorbird(tmp_path, "bases")
    assert "Apache-2.0" in table.stdout


def test_no_color_is_honoured(tmp_path: Path) -> None:
    write_spec(tmp_path)
    done = tailorbird(tmp_path, "check", "try.yaml", NO_COLOR="1")
    assert "\x1b[" not in done.stdout + done.stderr


def test_a_type_of_merged_weights_needs_merging(tmp_path: Path) -> None:
    done = tailorbird(tmp_path, "export", "run:lora", "out", "--dtype", "bfloat16")
    assert_refused(done, 2, "--dtype is the type of merged weights", "→ add --merge")
