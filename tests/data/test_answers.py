"""Answers that the user brings: found by id or exact input; nothing is guessed, nothing left out silently."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailorbird.data import inputs_to_answer, read, read_answers
from tailorbird.errors import DataError, SafetyError
from tailorbird.types import Answer, Message, Request, Role, Stop


def request(text: str, key: str | None = None, identity: str = "r1") -> Request:
    return Request(identity, (Message(Role.SYSTEM, "s"), Message(Role.USER, text)), key=key)


def written(folder: Path, content: str, name: str = "today.csv") -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def test_an_answer_is_found_by_the_exact_input_text(tmp_path: Path) -> None:
    answers = read_answers(written(tmp_path, 'text,label\n"Where, then?",lost\nhow,other\n'))
    assert answers.lookup(request("Where, then?")) == Answer(id="r1", text="lost", label="lost", stop=Stop.GIVEN)
    assert answers.lookup(request("where, then?")) is None
    assert answers.columns == {"input": "text", "label": "label"}


def test_an_answer_is_found_by_the_rows_own_id_or_its_content_id(tmp_path: Path) -> None:
    answers = read_answers(written(tmp_path, '{"id": 7, "answer": "a"}\n{"id": "0f", "answer": "b"}', "today.jsonl"))
    assert answers.lookup(request("x", key="7")) == Answer(id="r1", text="a", stop=Stop.GIVEN)
    found = answers.lookup(request("x", identity="0f"))
    assert found is not None
    assert found.text == "b"
    assert answers.lookup(request("x", key="8")) is None


def test_numbers_beside_an_answer_are_kept(tmp_path: Path) -> None:
    content = "id,label,score,latency_ms,cost\n1,a,0.9,250,0.002\n2,b,0.5,,\n"
    answers = read_answers(written(tmp_path, content))
    first = answers.lookup(request("x", key="1"))
    assert first is not None
    assert (first.confidence, first.seconds, answers.cost(request("x", key="1"))) == (0.9, 0.25, 0.002)
    second = answers.lookup(request("x", key="2"))
    assert second is not None
    assert (second.confidence, second.seconds, answers.cost(request("x", key="2"))) == (0.5, None, None)


def test_scores_outside_0_to_1_are_no_confidence(tmp_path: Path) -> None:
    found = read_answers(written(tmp_path, "id,label,score\n1,a,12.5\n")).lookup(request("x", key="1"))
    assert found is not None
    assert found.confidence is None


REFUSED = {
    "id,note\n1,a\n": "today.csv: no column with the answers; the columns are id, note (D16)\n"
    "  → call it `answer`, or `label` for a classification",
    "label,note\na,b\n": "today.csv: no column says which row an answer belongs to; the columns are label, note (D16)\n"
    "  → add a column `id` (the rows' own ids) or `text` (the exact input)",
    "id,label\n1,a\n2,\n": "today.csv:3: label: the answer is empty (D30)\n"
    "  → give an answer, or leave the line out so that the row is named as missing",
    "id,label\n1,a\n1,b\n": "today.csv:3: another answer to the same id stands in line 2\n  → leave one of them out",
    "text,label\nx,a\ny,a\nx,b\n": "today.csv:4: another answer to the same input text stands in line 2\n"
    "  → leave one of them out, or add a column `id`",
    "id,label\n1,a,b\n": "today.csv:2: 3 cells, the header has 2 (comma-separated) (D43)\n"
    "  → mend this line: an answers file is taken whole or not at all",
    "id,label,confidence\n1,a,1.5\n": "today.csv:2: confidence: a number from 0 to 1 is needed (D17)\n"
    "  → correct it or leave it empty",
    "id,label\n": "today.csv: there are no answers in the file (D02)\n  → put a line for each row into it",
}


@pytest.mark.parametrize("content", REFUSED)
def test_a_file_that_is_not_clear_is_refused(content: str, tmp_path: Path) -> None:
    written(tmp_path, content)
    with pytest.raises(DataError) as error:
        read_answers("today.csv", root=tmp_path)
    assert str(error.value) == REFUSED[content]


def test_the_same_answer_twice_is_no_contradiction(tmp_path: Path) -> None:
    assert read_answers(written(tmp_path, "text,label\nx,a\nx,a\n")).lookup(request("x")) is not None


def test_one_input_text_may_have_two_answers_when_ids_tell_the_rows_apart(tmp_path: Path) -> None:
    answers = read_answers(written(tmp_path, "id,text,label\n1,x,a\n2,x,b\n"))
    assert [getattr(answers.lookup(request("x", key=k)), "label", None) for k in ("1", "2")] == ["a", "b"]


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    written(tmp_path, "text,label\nx,a\n")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "today.csv").symlink_to(tmp_path / "today.csv")
    with pytest.raises(SafetyError):
        read_answers("today.csv", root=tmp_path / "root")


def test_rows_written_to_be_answered_are_found_again(tmp_path: Path) -> None:
    """What `check --rows` writes, answered line by line, gives an answer to each row."""
    import json

    written(tmp_path, 'text,label,id\n"one\nline",a,\ntwo\u202e,b,k2\n', "rows.csv")
    rows = read(["rows.csv"], root=tmp_path).rows
    asked = list(inputs_to_answer(rows))
    assert asked == [{"id": rows[0].id, "input": "one\nline"}, {"id": "k2", "input": "two"}]
    content = "\n".join(json.dumps({**record, "label": str(i)}) for i, record in enumerate(asked))
    answers = read_answers(written(tmp_path, content, "answers.jsonl"))
    for i, row in enumerate(rows):
        found = answers.lookup(Request(row.id, row.prompt, key=row.key))
        assert found is not None
        assert found.label == str(i)


def test_an_input_is_matched_after_the_same_cleaning_as_rows(tmp_path: Path) -> None:
    assert read_answers(written(tmp_path, "text,label\ntwo\u202e,b\n")).lookup(request("two")) is not None
