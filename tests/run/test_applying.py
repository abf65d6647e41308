"""`apply`: each row once, in order, with its own columns; kills, thresholds, unreadable rows, refusals."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tailorbird.applying import CLASSIFY, WINDOW, WRITE, Applied, Ask, alone, apply
from tailorbird.errors import DataError, Interrupted, SpecError
from tailorbird.types import Answer, Request, Stop


class Length:
    """Labels a text by its length; refuses texts with `huge` as too long."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        requests = list(requests)
        if any("huge" in r.input_text for r in requests):
            raise DataError("too long for the context")
        for request in requests:
            self.asked.append(request.input_text)
            long = len(request.input_text) > 10
            label = "long" if long else "short"
            if request.candidates:
                yield Answer(request.id, label, label, None, 0.9 if long else 0.4, Stop.SCORED)
            else:
                yield Answer(request.id, request.input_text.upper(), stop=Stop.END)


def applied(folder: Path, out: str = "out.csv", answerer: Length | None = None, **more: Any) -> Applied:
    asked = {"labels": ["short", "long"], "max_new_tokens": 0, **more}
    labels = tuple(asked.pop("labels"))
    ask = Ask(labels, asked["max_new_tokens"])
    return apply(
        lambda: alone(answerer or Length()),
        "sha256:1",
        folder / "in.csv",
        folder / out,
        ask=lambda row: ask,
        columns=CLASSIFY if labels else WRITE,
        **asked,
    )


def read(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(folder: Path, *rows: str, header: str = "text") -> None:
    (folder / "in.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


def test_each_row_once_in_order_with_the_user_s_columns(tmp_path: Path) -> None:
    write(tmp_path, "a,hi", "b,a much longer text", header="id,text")
    assert applied(tmp_path) == Applied(rows=2, problems=0, abstained=0, resumed=0)
    assert read(tmp_path / "out.csv") == [
        {"id": "a", "text": "hi", "label": "short", "confidence": "0.4", "abstain": "false", "problem": ""},
        {
            "id": "b",
            "text": "a much longer text",
            "label": "long",
            "confidence": "0.9",
            "abstain": "false",
            "problem": "",
        },
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.csv", "out.csv"]


def test_a_column_can_be_said_where_it_cannot_be_told(tmp_path: Path) -> None:
    write(tmp_path, "a much longer text,hi", header="ticket,colour")
    with pytest.raises(DataError) as refused:
        applied(tmp_path)
    assert "--column prompt=COLUMN" in str(refused.value.remedy)
    applied(tmp_path, named={"prompt": "ticket"})
    assert [row["label"] for row in read(tmp_path / "out.csv")] == ["long"]


def test_below_the_threshold_it_abstains(tmp_path: Path) -> None:
    write(tmp_path, "hi", "a much longer text")
    assert applied(tmp_path, threshold=0.5).abstained == 1
    assert [(r["label"], r["abstain"]) for r in read(tmp_path / "out.csv")] == [("", "true"), ("long", "false")]


def test_a_row_that_cannot_be_answered_stands_there_with_its_problem(tmp_path: Path) -> None:
    write(tmp_path, "hi", "huge", '""', "hello")
    assert applied(tmp_path).problems == 2
    rows = read(tmp_path / "out.csv")
    assert [r["label"] for r in rows] == ["short", "", "", "short"]
    assert rows[1]["problem"] == "too long for the context"
    assert rows[2]["problem"]


def test_text_answers_and_jsonl(tmp_path: Path) -> None:
    write(tmp_path, "grüß")
    applied(tmp_path, "out.jsonl", labels=[], max_new_tokens=5)
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [{"text": "grüß", "answer": "GRÜSS", "stop": "end", "problem": None}]


def test_cells_that_a_spreadsheet_would_run_are_quoted_and_numbers_are_not(tmp_path: Path) -> None:
    write(tmp_path, '"=HYPERLINK(""http://x"")",-5', "@x,+1", header="text,amount")
    applied(tmp_path)
    assert [(r["text"], r["amount"]) for r in read(tmp_path / "out.csv")] == [
        ('\'=HYPERLINK("http://x")', "-5"),
        ("'@x", "+1"),
    ]


def test_a_stopped_apply_goes_on_with_the_rows_that_are_left(tmp_path: Path) -> None:
    write(tmp_path, *(f"row {n}" for n in range(3 * WINDOW)))
    stops = iter([False, False, True])
    with pytest.raises(Interrupted, match=f"after {2 * WINDOW} rows"):
        applied(tmp_path, stop=lambda: next(stops))
    assert not (tmp_path / "out.csv").exists()
    rest = Length()
    assert applied(tmp_path, answerer=rest).resumed == 2 * WINDOW
    assert len(rest.asked) == WINDOW
    assert [r["text"] for r in read(tmp_path / "out.csv")] == [f"row {n}" for n in range(3 * WINDOW)]


def test_an_unreadable_file_leaves_nothing_that_stands_in_the_way_of_the_mended_one(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes("text\ncaf\u00e9\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        applied(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["in.csv"]
    write(tmp_path, "caf\u00e9")
    assert applied(tmp_path).rows == 1


@pytest.mark.parametrize("change", [{"threshold": 0.5}, {"text": "other"}])
def test_an_unfinished_output_is_not_mixed_with_another(tmp_path: Path, change: dict[str, Any]) -> None:
    write(tmp_path, *(f"row {n}" for n in range(WINDOW + 1)))
    stops = iter([False, True])
    with pytest.raises(Interrupted):
        applied(tmp_path, stop=lambda: next(stops))
    if text := change.pop("text", None):
        write(tmp_path, text)
    with pytest.raises(SpecError, match="an unfinished output is there, made with another"):
        applied(tmp_path, **change)


@pytest.mark.parametrize(
    ("out", "more", "message"),
    [
        ("out.txt", {}, r"must end in \.csv or \.jsonl"),
        ("in.csv", {}, "is the input itself"),
        ("there.csv", {}, "is there already"),
        ("out.csv", {"threshold": 0.5, "labels": []}, "a threshold is for labels"),
        ("out.csv", {"threshold": 1.5}, "between 0 and 1"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_read(
    tmp_path: Path, out: str, more: dict[str, Any], message: str
) -> None:
    write(tmp_path, "a")
    (tmp_path / "there.csv").write_text("mine")
    with pytest.raises(SpecError, match=message):
        applied(tmp_path, out, **more)
    assert (tmp_path / "there.csv").read_text() == "mine"
