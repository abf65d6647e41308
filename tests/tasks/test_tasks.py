"""Tasks: a row becomes a request without its label, an answer is judged, words and labels are read back."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.errors import DataError, SpecError
from tailorbird.tasks import build, default_instruction, labels_in, words
from tailorbird.tasks.labels import LabelReader, label_words
from tailorbird.types import Answer, Message, Place, Role, Row, Stop

LABELS = {"card_arrival": "card arrival", "Refund_not_showing_up": "refund not showing up"}


def row(answer: str, label: str | None = None, **more) -> Row:  # type: ignore[no-untyped-def]
    messages = (Message(Role.USER, "Where is my card?"), Message(Role.ASSISTANT, answer))
    return Row("r1", messages, (False, True), Place("a.csv", 2), label=label, **more)


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("Refund_not_showing_up", "refund not showing up"),
        ("card-arrival", "card arrival"),
        ("CardArrival", "card arrival"),
        ("URGENT", "urgent"),
        ("reverted_card_payment?", "reverted card payment?"),
        ("yes", "yes"),
        ("4", "4"),
        ("__", "__"),  # never empty words
    ],
)
def test_default_words_of_a_label(label: str, said: str) -> None:
    assert words(label) == said


@given(st.text(min_size=1).filter(str.strip))
def test_words_are_never_empty(label: str) -> None:
    assert words(label).strip()


def test_labels_whose_default_words_clash_keep_their_ids() -> None:
    assert label_words(["a_1", "a-1", "b_2"]) == {"a_1": "a_1", "a-1": "a-1", "b_2": "b 2"}


def test_given_words_that_clash_are_refused_naming_both() -> None:
    with pytest.raises(SpecError) as error:
        label_words(["x", "y"], {"x": "same", "y": "same"})
    assert str(error.value) == (
        "task.labels: labels 'x' and 'y' have the same words: 'same'\n"
        "  → give each label its own words under task.labels"
    )


def test_a_request_holds_the_prompt_and_the_candidates_and_never_the_label() -> None:
    task = build("classify", labels=LABELS)
    request = task.request(row("card arrival", "card_arrival", key="77"))
    assert request.messages == (Message(Role.USER, "Where is my card?"),)
    assert request.candidates == ("card_arrival", "Refund_not_showing_up")
    assert (request.id, request.key, request.input_text) == ("r1", "77", "Where is my card?")


@pytest.mark.parametrize(
    "answer",
    [
        Answer("r1", "card arrival", "card_arrival"),
        Answer("r1", "card_arrival"),
        Answer("r1", " Card Arrival. "),
        Answer("r1", "x", "card arrival"),  # an outside system may give the words as its label
    ],
)
def test_classify_reads_an_id_or_the_words_of_a_label(answer: Answer) -> None:
    outcome = build("classify", labels=LABELS).outcome(row("card arrival", "card_arrival"), answer)
    assert (outcome.score, outcome.given) == (1.0, "card_arrival")


@pytest.mark.parametrize("text", ["card", "card arrival and refund not showing up", "I think card arrival", "", "none"])
def test_classify_never_guesses_a_label_from_a_longer_text(text: str) -> None:
    outcome = build("classify", labels=LABELS).outcome(row("card arrival", "card_arrival"), Answer("r1", text))
    assert (outcome.score, outcome.given) == (0.0, text)


def test_an_id_goes_before_the_words_of_another_label() -> None:
    read = LabelReader({"a": "b", "b": "c"})
    assert (read("a"), read("b"), read("c")) == ("a", "b", "b")
    assert read("B") is None  # folded, it is an id and another's words: it names both


def test_classify_reports_calibration_only_when_every_row_has_a_confidence() -> None:
    task = build("classify", labels={"x": "x", "y": "y"})
    sure = [task.outcome(row("x", "x"), Answer("r1", "x", "x", confidence=0.8)) for _ in range(4)]
    unsure = [*sure, task.outcome(row("y", "y"), Answer("r1", "x", "x"))]
    assert task.metrics(sure) == pytest.approx({"macro_f1": 1.0, "ece": 0.2, "coverage_at_90": 1.0, "recall:x": 1.0})
    assert set(task.metrics(unsure)) == {"macro_f1", "recall:x", "recall:y"}


def test_an_outcome_keeps_what_measuring_needs() -> None:
    task = build("answer", max_new_tokens=8)
    answer = Answer("r1", "Paris", stop=Stop.LENGTH, confidence=0.5, prompt_tokens=9, answer_tokens=8)
    outcome = task.outcome(row("paris", group="g", slices={"language": "fr"}), answer)
    assert (outcome.row, outcome.score, outcome.expected, outcome.given) == ("r1", 1.0, "paris", "Paris")
    assert (outcome.group, outcome.slices, outcome.stop) == ("g", {"language": "fr"}, Stop.LENGTH)
    assert (outcome.confidence, outcome.prompt_tokens, outcome.answer_tokens) == (0.5, 9, 8)


def test_the_main_metric_is_the_rows_score_and_the_others_stand_beside_it() -> None:
    exact, f1 = build("answer"), build("answer", metric="token_f1")
    said = Answer("r1", "red car", stop=Stop.END)
    strict, lenient = exact.outcome(row("red big car"), said), f1.outcome(row("red big car"), said)
    assert (strict.score, lenient.score) == (0.0, pytest.approx(0.8))
    assert exact.metrics([strict]) == {"token_f1": pytest.approx(0.8), "stop_rate": 1.0}
    assert f1.metrics([lenient]) == {"exact_match": 0.0, "stop_rate": 1.0}


def test_stop_rate_counts_generated_answers_only() -> None:
    task = build("write")
    stops = [Stop.END, Stop.LENGTH, Stop.LENGTH, Stop.GIVEN]
    outcomes = [task.outcome(row("a b"), Answer("r1", "a b", stop=stop)) for stop in stops]
    assert task.metrics(outcomes)["stop_rate"] == pytest.approx(1 / 3)
    assert "stop_rate" not in task.metrics(outcomes[3:])


def test_labels_of_rows_are_sorted_and_take_given_words() -> None:
    rows = [row("b", "b_b"), row("a", "a"), row("b", "b_b")]
    assert labels_in(rows, {"a": "first"}) == {"a": "first", "b_b": "b b"}


def test_a_row_without_a_label_is_named() -> None:
    with pytest.raises(DataError) as error:
        labels_in([row("x")])
    assert str(error.value) == (
        "a.csv:2: the row has no label\n"
        "  → a classify task needs one label a row; name its column under data.columns.label"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"kind": "clasify"},
            "task.kind: unknown kind 'clasify'; did you mean 'classify'?\n  → choose one of: classify, answer, write",
        ),
        (
            {"kind": "write", "metric": "rouge"},
            "task.metric: 'rouge' is not a main metric of write; did you mean 'rouge_l'?\n"
            "  → choose one of: rouge_l, chrf",
        ),
        (
            {"kind": "classify", "labels": {"x": "x"}},
            "task.labels: classify needs at least two labels, there is one\n"
            "  → name the label column under data.columns, or use kind: answer",
        ),
        (
            {"kind": "write", "labels": {"x": "x"}},
            "task.labels: labels have no effect for kind write\n  → use kind: classify",
        ),
        (
            {"kind": "classify", "labels": LABELS, "max_new_tokens": 3},
            "task.max_new_tokens: max_new_tokens has no effect for classify: a label is scored, not written\n"
            "  → leave it out",
        ),
        (
            {"kind": "answer", "max_new_tokens": 0},
            "task.max_new_tokens: 0 is not a number of tokens\n  → 1 or more",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_its_remedy(arguments: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(SpecError) as error:
        build(**arguments)
    assert str(error.value) == message


def test_instructions_have_defaults_and_can_be_switched_off() -> None:
    assert build("classify", labels={"yes": "yes", "no": "no"}).instruction == "Label the text with one of: yes, no."
    assert default_instruction("classify", {str(i): str(i) for i in range(77)}) == "You label texts with one topic."
    assert build("write", instruction="").instruction is None
    assert build("answer", instruction="Be brief.").instruction == "Be brief."


def test_tasks_import_neither_torch_nor_numpy_nor_scikit_learn() -> None:
    code = "import sys, tailorbird.tasks; print({'torch', 'numpy', 'sklearn', 'sacrebleu'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"
