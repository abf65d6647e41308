"""The shapes that people have are understood without being told; a mapping goes before any guess."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tailorbird.data import Dataset, detect
from tailorbird.errors import DataError

Read = Callable[..., Dataset]


def turns(data: Dataset) -> list[list[tuple[str, str]]]:
    return [[(m.role.value, m.content) for m in row.messages] for row in data.rows]


SHAPES: dict[str, tuple[dict[str, Any], str, list[tuple[str, str]]]] = {
    "prompt/completion": ({"prompt": "p", "completion": "c"}, "prompt_completion", [("user", "p"), ("assistant", "c")]),
    "input/output": ({"input": "p", "output": "c"}, "prompt_completion", [("user", "p"), ("assistant", "c")]),
    "article/summary": ({"article": "p", "summary": "c"}, "prompt_completion", [("user", "p"), ("assistant", "c")]),
    "with a system column": (
        {"system": "s", "prompt": "p", "completion": "c"},
        "prompt_completion",
        [("system", "s"), ("user", "p"), ("assistant", "c")],
    ),
    "alpaca with input": (
        {"instruction": "i", "input": "x", "output": "o"},
        "alpaca",
        [("user", "i\n\nx"), ("assistant", "o")],
    ),
    "alpaca without": ({"instruction": "i", "input": "", "output": "o"}, "alpaca", [("user", "i"), ("assistant", "o")]),
    "dolly": (
        {"instruction": "i", "context": "x", "response": "o", "category": "qa"},
        "alpaca",
        [("user", "i\n\nx"), ("assistant", "o")],
    ),
    "question/answer": ({"question": "q", "answer": "a"}, "question_answer", [("user", "q"), ("assistant", "a")]),
    "question over passages": (
        {"QUESTION": "q", "CONTEXTS": ["c", "d"], "final_decision": "yes"},
        "question_answer",
        [("user", "c\nd\n\nq"), ("assistant", "yes")],
    ),
    "text/label": ({"text": "t", "label": "l"}, "text_label", [("user", "t"), ("assistant", "l")]),
    "text/label id": ({"text": "t", "label": 3}, "text_label", [("user", "t"), ("assistant", "3")]),
    "utterance/intent": ({"Utterance": "t", "Intent": " l "}, "text_label", [("user", "t"), ("assistant", "l")]),
    "query/category": ({"query": "t", "category": "l"}, "text_label", [("user", "t"), ("assistant", "l")]),
    "messages": (
        {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]},
        "messages",
        [("user", "u"), ("assistant", "a")],
    ),
    "ShareGPT": (
        {
            "conversations": [
                {"from": "system", "value": "s"},
                {"from": "human", "value": "u"},
                {"from": "gpt", "value": "a"},
            ]
        },
        "messages",
        [("system", "s"), ("user", "u"), ("assistant", "a")],
    ),
    "ShareGPT by other names": (
        {"conversation": [{"speaker": "Human", "text": "u"}, {"speaker": "ChatGPT", "text": "a"}]},
        "messages",
        [("user", "u"), ("assistant", "a")],
    ),
    "ShareGPT with the field's names": (
        {"conversations": [{"from": "user", "value": "u"}, {"from": "assistant", "content": "a"}]},
        "messages",
        [("user", "u"), ("assistant", "a")],
    ),
    "messages in parts": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "u"}]},
                {"role": "assistant", "content": "a"},
            ]
        },
        "messages",
        [("user", "u"), ("assistant", "a")],
    ),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_a_shape_is_understood(kind: str, read_bytes: Read) -> None:
    record, shape, expected = SHAPES[kind]
    data = read_bytes("rows.jsonl", json.dumps(record).encode())
    assert data.facts.shape == shape
    assert turns(data) == [expected]


def test_every_assistant_turn_is_supervised_but_those_of_weight_0(read_bytes: Read) -> None:
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "weight": 0},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d"},
    ]
    data = read_bytes("rows.jsonl", json.dumps({"messages": messages}).encode())
    assert data.rows[0].supervised == (False, False, False, False, True)
    assert data.rows[0].input_text == "c"


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        ("a.json", b'[{"prompt": "a", "completion": "b"},\n {"prompt": "c", "completion": "d"}]', [1, 2]),
        ("a.jsonl", b'[{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]', [1, 1]),
        ("a.json", b'{"data": [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]}', [1, 1]),
        (
            "a.json",
            b'{\n "version": {"n": [1]},\n "data": [\n  {"prompt": "a",\n   "completion": "b"},\n'
            b'  {"prompt": "c", "completion": "d"}\n ],\n "x": 1}',
            [4, 6],
        ),
        ("a.json", b'{"prompt": "a", "completion": "b"}\n{"prompt": "c", "completion": "d"}', [1, 2]),
        (
            "a.jsonl",
            b'\xef\xbb\xbf{"prompt": "a", "completion": "b"}\r\n\r\n{"prompt": "c", "completion": "d"}',
            [1, 3],
        ),
        ("a.csv", b'\xef\xbb\xbfprompt,completion\r\na,b\r\n"c",d', [2, 3]),
        ("a.csv", b"prompt,completion\ra,b\rc,d\r", [2, 3]),
        ("a.csv", b'{"prompt": "a", "completion": "b"}\n{"prompt": "c", "completion": "d"}', [1, 2]),
        ("a.tsv", b"prompt\tcompletion\na\tb\nc\td\n", [2, 3]),
    ],
)
def test_a_format_is_told_by_its_content_and_lines_are_right(
    name: str, content: bytes, lines: list[int], read_bytes: Read
) -> None:
    data = read_bytes(name, content)
    assert turns(data) == [[("user", "a"), ("assistant", "b")], [("user", "c"), ("assistant", "d")]]
    assert [row.place.line for row in data.rows] == lines
    assert not data.rejected


def test_repairs_are_counted(read_bytes: Read) -> None:
    lines = ['{"text": "a\u202eb\\u0000", "label": "x"}', "", '{"text": "<|im_end|> and </s>", "label": "y"}']
    lines += ['{"text": "twice", "label": "x"}'] * 3
    data = read_bytes("rows.jsonl", b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    # D04: mark of the beginning, CRLF, one blank line; D26: one row cleaned; D27: one row with special tokens; D31
    assert data.facts.fixed == {"D04": 3, "D26": 1, "D27": 1, "D31": 2}
    assert data.facts.special_tokens == {"<|im_end|>": 1, "</s>": 1}
    assert data.rows[0].input_text == "ab"
    assert data.rows[1].input_text == "<|im_end|> and </s>", "only counted here"
    assert (data.facts.rows, data.facts.accepted, data.facts.duplicates) == (5, 3, 2)


def test_composed_and_decomposed_spellings_are_one_row_and_keep_their_own_characters(read_bytes: Read) -> None:
    data = read_bytes(
        "rows.jsonl", '{"text": "cafe\u0301", "label": "x"}\n{"text": "caf\u00e9", "label": "x"}'.encode()
    )
    assert data.facts.duplicates == 1
    assert data.rows[0].input_text == "cafe\u0301"


def test_one_input_with_two_labels_is_listed(read_bytes: Read) -> None:
    data = read_bytes("rows.csv", b"text,label\nWhere is it?,a\nwhere is IT,b\nelse,a\n")
    assert data.facts.contradictions == (
        {"input": "Where is it?", "labels": ["a", "b"], "places": ["rows.csv:2", "rows.csv:3"]},
    )
    assert "1 input(s) stand with different answers (D32), first: rows.csv:2, rows.csv:3" in data.facts.warnings


def test_what_is_odd_about_labels_is_said(read_bytes: Read) -> None:
    rows = "".join(f"text {i},common\n" for i in range(399)) + "one more,Rare One\n"
    facts = read_bytes("rows.csv", f"text,label\n{rows}".encode()).facts
    assert "99.8 % of the rows have the label 'common' (D36): look at recall by label" in facts.warnings
    facts = read_bytes("rows.csv", b"text,label\na,card lost\nb,Card_Lost\n").facts
    assert (
        "the labels 'Card_Lost' and 'card lost' differ only in case or separators (D35): are they one?"
        in facts.warnings
    )


def test_columns_that_nothing_reads_are_said(read_bytes: Read) -> None:
    data = read_bytes("rows.csv", b"text,label,colour\na,x,red\nb,y,blue\n")
    assert "columns that nothing reads (D18): colour (2)" in data.facts.warnings
    assert read_bytes("rows.csv", b"text,label,colour\na,x,red\nb,y,\n", slices=["colour"]).rows[1].slices == {
        "colour": "(none)"
    }


def test_a_mapping_goes_before_any_guess(read_bytes: Read) -> None:
    content = b"text,label,reference,ticket,customer,importance\na,x,y,17,c1,2.5\n"
    columns = {"prompt": "text", "answer": "reference", "id": "ticket", "weight": "importance"}
    row = read_bytes("rows.csv", content, columns=columns, group="customer").rows[0]
    assert (row.answer, row.label, row.key, row.weight, row.group) == ("y", None, "17", 2.5, "c1")
    row = read_bytes("rows.csv", content, columns={"label": "reference"}).rows[0]
    assert (row.input_text, row.label) == ("a", "y")


def test_preferred_answers_can_be_trained_on_by_saying_so(read_bytes: Read) -> None:
    content = b'{"prompt": "a", "chosen": "b", "rejected": "c"}'
    data = read_bytes("rows.jsonl", content, columns={"prompt": "prompt", "answer": "chosen"})
    assert turns(data) == [[("user", "a"), ("assistant", "b")]]


def test_a_mapping_to_a_column_that_is_not_there_names_the_nearest(read_bytes: Read) -> None:
    with pytest.raises(DataError) as error:
        read_bytes("rows.csv", b"text,label\na,x\n", columns={"prompt": "txet"})
    assert str(error.value) == "rows.csv: there is no column 'txet' (D16)\n  → did you mean 'text'?"


def test_a_missing_group_is_a_bad_row(read_bytes: Read) -> None:
    data = read_bytes("rows.csv", b"text,label,who\na,x,g\nb,y,\n", group="who")
    assert [(r.field, r.code) for r in data.rejected] == [("who", "D16")]


def test_the_answer_is_the_label_when_the_task_is_to_classify(read_bytes: Read) -> None:
    data = read_bytes("rows.jsonl", b'{"question": "q", "answer": " yes"}', classify=True)
    assert (data.rows[0].label, data.rows[0].answer) == ("yes", "yes")


def test_init_sees_what_a_file_looks_like(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("id,utterance,intent,note\n1,a,x,n\n")
    shape = detect("rows.csv", root=tmp_path)
    assert shape.as_dict() == {
        "shape": "text_label",
        "columns": {"prompt": "utterance", "label": "intent", "id": "id"},
        "unused": ["note"],
        "format": "csv",
    }


def test_the_same_content_has_the_same_id_wherever_it_stands(read_bytes: Read) -> None:
    one = read_bytes("one.csv", b"text,label\nother,y\na,x\n").rows[1]
    two = read_bytes("two.jsonl", b'{"label": "x", "text": "a", "id": 9}').rows[0]
    assert one.id == two.id
    assert one.id != read_bytes("three.csv", b"text,label\na,y\n").rows[0].id


LONG = {
    "messages": [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "first answer"},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "last answer"},
    ]
}


def test_all_answers_of_a_conversation_are_learned_or_the_last_alone(read_bytes: Read) -> None:
    content = json.dumps(LONG).encode()
    every, last = read_bytes("rows.jsonl", content), read_bytes("rows.jsonl", content, supervise="last")
    assert every.rows[0].supervised == (False, True, False, True)
    assert last.rows[0].supervised == (False, False, False, True)
    assert every.rows[0].messages == last.rows[0].messages
    assert every.rows[0].id != last.rows[0].id  # what is learned is part of what a row is


@pytest.mark.parametrize(
    ("turn", "field", "reason"),
    [
        ({"from": "alien", "value": "x"}, "conversations[0].from", "unknown role 'alien'"),
        ({"from": "observation", "value": "x"}, "conversations[0].from", "turns of tools are not read"),
        ({"from": "human", "value": " "}, "conversations[0].value", "is empty or holds nothing visible"),
        ({"from": "human"}, "conversations[0]", "'value' is missing"),
    ],
)
def test_a_fault_in_a_sharegpt_turn_has_its_own_name(turn: Any, field: str, reason: str, read_bytes: Read) -> None:
    rows = [{"conversations": [{"from": "human", "value": f"q{n}"}, {"from": "gpt", "value": "a"}]} for n in range(3)]
    bad = {"conversations": [turn, {"from": "gpt", "value": "a"}]}
    data = read_bytes("rows.jsonl", "\n".join(map(json.dumps, [*rows, bad])).encode())
    (rejected,) = data.rejected
    assert rejected.field == field
    assert reason in rejected.reason
