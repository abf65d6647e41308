"""A file of answers: found by id or by the input text; what is missing is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailorbird.answerers.answers_file import AnswersFile
from tailorbird.errors import DataError
from tailorbird.tasks import build
from tailorbird.types import Message, Place, Request, Role, Row, Stop


def request(text: str, key: str | None = None) -> Request:
    return Request(f"content-{text}", (Message(Role.USER, text),), ("x", "y"), key=key)


def write(folder: Path, content: str) -> Path:
    path = folder / "today.csv"
    path.write_text(content, encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_answers_are_found_by_id_or_by_exact_input(tmp_path: Path) -> None:
    by_id = AnswersFile(write(tmp_path, "id,label\n7,x\n8,y\n"))
    assert [a.label for a in by_id.answer([request("b", "8"), request("a", "7")])] == ["y", "x"]
    by_text = AnswersFile(write(tmp_path, "text,label\na,x\nb,y\n"))
    answers = list(by_text.answer([request("b"), request("a")]))
    assert [(a.id, a.label, a.stop) for a in answers] == [
        ("content-b", "y", Stop.GIVEN),
        ("content-a", "x", Stop.GIVEN),
    ]


def test_latency_confidence_and_cost_are_taken_along(tmp_path: Path) -> None:
    path = write(tmp_path, "text,label,score,latency_ms,cost\na,x,0.9,120,0.01\nb,y,0.8,80,0.02\n")
    file = AnswersFile(path)
    first = next(file.answer([request("a")]))
    assert (first.confidence, first.seconds) == (0.9, pytest.approx(0.12))
    list(file.answer([request("b")]))
    assert file.cost_facts() == {"money": pytest.approx(0.03)}


def test_without_a_price_for_every_row_money_is_not_known(tmp_path: Path) -> None:
    file = AnswersFile(write(tmp_path, "text,label,cost\na,x,0.01\nb,y,\n"))
    list(file.answer([request("a"), request("b")]))
    assert file.cost_facts() == {"money": None}


def test_missing_rows_are_named_the_first_ten_and_how_many(tmp_path: Path) -> None:
    path = write(tmp_path, "text,label\na,x\n")
    file = AnswersFile(path)
    with pytest.raises(DataError) as error:
        file.check([request("a"), *(request(f"q{i}") for i in range(12))])
    named = "\n".join(f"    q{i}" for i in range(10))
    assert str(error.value) == (
        f"{path}: no answer for 12 of 13 rows:\n{named}\n    and 2 more\n"
        "  → `tailorbird check SPEC --rows FILE` writes the inputs that need an answer"
    )


def test_one_missing_row_stops_before_the_first_answer(tmp_path: Path) -> None:
    file = AnswersFile(write(tmp_path, "text,label\na,x\n"))
    with pytest.raises(DataError, match=r"no answer for 1 of 2 rows:\n    id 9: b c$"):
        try:
            next(file.answer([request("a"), request("b\nc", "9")]))
        except DataError as error:
            raise DataError(error.what) from None


def test_a_label_that_the_task_does_not_have_is_a_wrong_answer(tmp_path: Path) -> None:
    task = build("classify", labels={"x": "x", "y": "y"})
    row = Row("content-a", (Message(Role.USER, "a"), Message(Role.ASSISTANT, "x")), (False, True), Place("f", 1), "x")
    answer = next(AnswersFile(write(tmp_path, "text,label\na,something else\n")).answer([task.request(row)]))
    assert (task.outcome(row, answer).score, task.outcome(row, answer).given) == (0.0, "something else")
