"""A command as a contestant: JSON lines in and out, a limit that ends the whole group, every fault named."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from pathlib import Path

import pytest

from tailorbird.answerers.command import Command
from tailorbird.errors import DataError, SpecError
from tailorbird.tasks import build
from tailorbird.types import Message, Place, Request, Role, Row

HEAD = "import json, sys\nrows = [json.loads(line) for line in sys.stdin]\n"
REQUESTS = [
    Request("r1", (Message(Role.SYSTEM, "s"), Message(Role.USER, "grüße")), ("x", "y"), key="1"),
    Request("r2", (Message(Role.USER, "b"),), ("x", "y"), key="2"),
]


def command(folder: Path, code: str, timeout: float = 20) -> Command:
    script = folder / "rules.py"
    script.write_text(HEAD + code, encoding="utf-8")
    return Command(shlex.join([sys.executable, str(script)]), timeout)


def refused(answerer: Command) -> str:
    with pytest.raises(DataError) as error:
        list(answerer.answer(REQUESTS))
    return str(error.value).replace(answerer.command, "CMD")


def test_rows_go_in_as_json_lines_and_answers_come_back_in_any_order(tmp_path: Path) -> None:
    code = f"""
json.dump(rows, open({str(tmp_path / "seen.json")!r}, "w"))
for row in reversed(rows):
    print(json.dumps({{"id": row["id"], "label": "x" if row["id"] == "r1" else "y", "confidence": 0.5}}))
"""
    answers = list(command(tmp_path, code).answer(REQUESTS))
    assert [(a.id, a.label, a.confidence) for a in answers] == [("r1", "x", 0.5), ("r2", "y", 0.5)]
    assert json.loads((tmp_path / "seen.json").read_text()) == [
        {
            "id": "r1",
            "text": "grüße",
            "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "grüße"}],
            "labels": ["x", "y"],
        },
        {"id": "r2", "text": "b", "messages": [{"role": "user", "content": "b"}], "labels": ["x", "y"]},
    ]


def test_free_text_comes_back_as_the_answer(tmp_path: Path) -> None:
    code = 'for r in rows: print(json.dumps({"id": r["id"], "answer": r["text"].upper(), "score": 7}))'
    answers = list(command(tmp_path, code).answer(REQUESTS))
    assert [(a.text, a.label, a.confidence) for a in answers] == [("GRÜSSE", None, None), ("B", None, None)]


def test_a_label_outside_the_candidates_is_a_wrong_answer(tmp_path: Path) -> None:
    task = build("classify", labels={"x": "x", "y": "y"})
    row = Row("r1", (Message(Role.USER, "a"), Message(Role.ASSISTANT, "x")), (False, True), Place("f", 1), label="x")
    code = 'for r in rows: print(json.dumps({"id": r["id"], "label": "zebra"}))'
    outcome = task.outcome(row, next(command(tmp_path, code).answer([task.request(row)])))
    assert (outcome.score, outcome.given) == (0.0, "zebra")


def test_it_runs_in_the_specs_folder_and_without_a_shell(tmp_path: Path) -> None:
    (tmp_path / "rules.py").write_text(
        HEAD + 'import os\nfor r in rows: print(json.dumps({"id": r["id"], "answer": os.getcwd() + sys.argv[1]}))'
    )
    answerer = Command(f"{shlex.quote(sys.executable)} rules.py '$HOME; echo *'", 20, folder=tmp_path)
    assert next(answerer.answer(REQUESTS)).text == f"{tmp_path.resolve()}$HOME; echo *"


def test_no_requests_start_no_process() -> None:
    assert list(Command("there-is-no-such-program", 1).answer([])) == []


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            'print(json.dumps({"id": "r1", "label": "x"}))',
            "CMD: no answer for 1 row(s):\n    id 2: b\n  → every row needs one",
        ),
        (
            'for r in [*rows, rows[0]]: print(json.dumps({"id": r["id"], "label": "x"}))',
            "CMD: more than one answer for 1 row(s):\n    id 1: grüße\n  → write one line for each row",
        ),
        (
            'for i in ("r1", "r2", "r9"): print(json.dumps({"id": i, "label": "x"}))',
            "CMD: answers to rows that were not asked: 1 row(s):\n    r9\n  → copy `id` as it came",
        ),
        (
            'print(json.dumps({"id": "r1", "label": "x"})); print("loading model...")',
            "CMD: output line 2: is not JSON (Expecting value: line 1 column 1 (char 0)): loading model...\n"
            "  → one JSON object a line; messages go to stderr",
        ),
        (
            'print(json.dumps({"id": "r1"}))',
            'CMD: output line 1: has neither a "label" nor an "answer" that is text\n'
            '  → write {"id": ..., "label": "..."}',
        ),
        (
            'print(json.dumps({"label": "x"}))',
            'CMD: output line 1: has no "id"\n  → write {"id": ..., "label": ...}',
        ),
        (
            'print(json.dumps({"id": "r1", "label": "x", "confidence": 70}))',
            'CMD: output line 1: "confidence" 70 is not in 0 to 1\n  → call it score, or scale it',
        ),
        (
            'print(json.dumps({"id": "r1", "label": "x", "score": float("nan")}))',
            'CMD: output line 1: "score" is nan, not a number\n  → leave score out if unknown',
        ),
        (
            'print("cannot find model.bin", file=sys.stderr); sys.exit(3)',
            "CMD: ended with exit code 3; it said:\n    cannot find model.bin\n"
            "  → run it by hand on one line; it must end with 0 after the last line",
        ),
    ],
)
def test_every_fault_is_named(tmp_path: Path, code: str, message: str) -> None:
    assert refused(command(tmp_path, code)) == message


def test_at_the_limit_the_command_and_its_children_are_ended(tmp_path: Path) -> None:
    mark = tmp_path / "child"
    code = f"""
import subprocess, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open({str(mark)!r}, "w").write(str(child.pid))
print("waiting", file=sys.stderr, flush=True)
time.sleep(60)
"""
    start = time.monotonic()
    told = refused(command(tmp_path, code, timeout=1.5))
    assert time.monotonic() - start < 15
    assert told == (
        "CMD: ran past its limit of 1.5 s for 2 rows and was ended; it said:\n    waiting\n"
        "  → raise the contestant's timeout_seconds, or make it faster"
    )
    assert gone(int(mark.read_text()))


def test_a_child_that_is_left_behind_does_not_hold_the_run(tmp_path: Path) -> None:
    code = """
import subprocess
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
for r in rows: print(json.dumps({"id": r["id"], "label": "x"}))
"""
    start = time.monotonic()
    assert "ran past its limit" in refused(command(tmp_path, code, timeout=2))
    assert time.monotonic() - start < 15


def test_output_without_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailorbird.answerers.command._BYTES_A_ROW", 50_000)
    start = time.monotonic()
    assert "wrote more than" in refused(command(tmp_path, 'while True: print("x" * 1000)'))
    assert time.monotonic() - start < 15


def test_much_input_and_much_output_at_once_do_not_block(tmp_path: Path) -> None:
    big = [Request(f"r{i}", (Message(Role.USER, "x" * 20_000),), key=str(i)) for i in range(50)]
    script = tmp_path / "echo.py"
    script.write_text(
        "import json, sys\n"
        "for line in sys.stdin:\n"
        "    r = json.loads(line)\n"
        "    print(json.dumps({'id': r['id'], 'answer': r['text']}), flush=True)\n"
        "    print('e' * 5000, file=sys.stderr, flush=True)\n"
    )
    answers = list(Command(shlex.join([sys.executable, str(script)]), 20).answer(big))
    assert [len(a.text) for a in answers] == [20_000] * 50


def test_a_command_that_does_not_read_its_input_is_judged_by_its_answers(tmp_path: Path) -> None:
    script = tmp_path / "deaf.py"
    script.write_text('import json\nfor i in ("r1", "r2"): print(json.dumps({"id": i, "label": "x"}))')
    assert [a.label for a in Command(shlex.join([sys.executable, str(script)]), 20).answer(REQUESTS)] == ["x", "x"]


def test_equal_rows_are_asked_once(tmp_path: Path) -> None:
    code = 'for r in rows: print(json.dumps({"id": r["id"], "label": str(len(rows))}))'
    assert [a.label for a in command(tmp_path, code).answer([REQUESTS[0], REQUESTS[0]])] == ["1", "1"]


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("", "contestants: the command is empty"),
        ("python 'x", "python 'x: cannot be parted into words: No closing quotation"),
        ("there-is-no-such-program", "there-is-no-such-program: cannot be started: No such file or directory"),
    ],
)
def test_a_command_that_cannot_run_is_the_specs_fault(words: str, what: str) -> None:
    with pytest.raises(SpecError) as error:
        list(Command(words, 1).answer(REQUESTS))
    assert str(error.value).split("\n")[0] == what


def gone(pid: int) -> bool:
    """Ended, perhaps not yet collected by its new parent."""
    for _ in range(50):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        stat = Path(f"/proc/{pid}/stat")
        if stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.1)
    return False
