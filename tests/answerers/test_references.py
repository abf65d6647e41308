"""The references: what knowing nothing scores, and what counting words scores."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from tailorbird.answerers.references import C_GRID, C_UNTUNED, Majority, Tfidf, text_of
from tailorbird.errors import DataError
from tailorbird.types import Message, Place, Request, Role, Row, Train, Tuning, Validation

LABELS = {"card": "card", "money": "money"}
CARD = ["my card is lost", "the card was stolen", "a new card please", "card does not work", "where is the card"]
MONEY = ["send money abroad", "the money is missing", "exchange money", "money transfer failed", "more money please"]


def row(text: str, label: str, weight: float = 1.0) -> Row:
    messages = (Message(Role.USER, text), Message(Role.ASSISTANT, label))
    return Row(text, messages, (False, True), Place("f", 1), label=label, weight=weight)


def train(card: int = 5, money: int = 5) -> Train:
    return Train([row(t, "card") for t in CARD[:card]] + [row(t, "money") for t in MONEY[:money]])


def request(text: str) -> Request:
    return Request(text, (Message(Role.USER, text),), tuple(LABELS))


def test_majority_says_the_commonest_label_of_train_with_its_share() -> None:
    answers = list(Majority(train(card=3, money=1), LABELS).answer([request("a"), request("b")]))
    assert [a.id for a in answers] == ["a", "b"]
    assert {(a.label, a.text, a.confidence) for a in answers} == {("card", "card", 0.75)}
    assert answers[0].scores == pytest.approx({"card": math.log(0.75), "money": math.log(0.25)})


def test_of_equally_common_labels_the_first_of_the_task_is_said() -> None:
    assert Majority(train(2, 2), LABELS).label == "card"
    assert Majority(train(2, 2), {"money": "", "card": ""}).label == "money"


def test_weights_count() -> None:
    rows = [row("a", "card", weight=3.0), row("b", "money"), row("c", "money")]
    assert Majority(Train(rows), LABELS).label == "card"


def test_a_label_without_training_rows_has_a_finite_score() -> None:
    scores = Majority(train(money=0), LABELS).scores
    assert scores["money"] == math.log(1e-9)


def test_tfidf_learns_which_words_go_with_which_label() -> None:
    model = Tfidf(train(), LABELS, Tuning([row("lost card", "card"), row("money sent", "money")]))
    answers = list(model.answer([request("i lost my card"), request("send more money abroad")]))
    assert [a.label for a in answers] == ["card", "money"]
    for answer in answers:
        assert answer.scores is not None
        assert sum(math.exp(s) for s in answer.scores.values()) == pytest.approx(1.0)
        assert max(answer.scores, key=lambda label: answer.scores[label]) == answer.label  # type: ignore[index]
        assert answer.confidence == pytest.approx(math.exp(answer.scores[answer.label or ""]))
    assert model.settings["C"] in C_GRID
    assert model.settings["C_chosen_on"] == "tuning"


def test_without_tuning_rows_c_is_the_documented_one() -> None:
    for tuning in (None, Tuning([])):
        assert Tfidf(train(), LABELS, tuning).settings == {"C": C_UNTUNED, "C_chosen_on": None, "analyzer": "word"}


def test_tfidf_is_scikit_learns_own_pipeline() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    pipeline = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=C_UNTUNED, max_iter=1000)
    ).fit(CARD + MONEY, ["card"] * 5 + ["money"] * 5)
    texts = ["my money and my card", "new card please", "abroad"]
    for answer, wanted in zip(
        Tfidf(train(), LABELS).answer(map(request, texts)), pipeline.predict_log_proba(texts), strict=True
    ):
        assert list((answer.scores or {}).values()) == pytest.approx(list(wanted), abs=1e-3)


def test_the_same_rows_give_the_same_answers_alone_or_together() -> None:
    model, again = Tfidf(train(), LABELS), Tfidf(train(), LABELS)
    together = list(model.answer(map(request, CARD + MONEY)))
    assert together == list(again.answer(map(request, CARD + MONEY)))
    assert together == [next(model.answer([request(t)])) for t in CARD + MONEY]
    assert list(model.answer([])) == []


def test_what_it_costs_is_counted_from_its_arrays() -> None:
    model = Tfidf(Train([row("red apple", "card"), row("green pear", "money")]), LABELS)
    terms = ("red", "apple", "red apple", "green", "pear", "green pear")
    # two labels share one weight vector and one intercept; single precision
    assert model.cost_facts() == {
        "prompt_tokens": None,
        "flops_per_request": 2.0 * 3,  # three terms a row
        "deployed_bytes": (6 + 1) * 4 + 6 * 4 + sum(len(term) + 1 for term in terms),
        "trainable_parameters": 7,
    }
    assert Majority(train(), LABELS).cost_facts()["flops_per_request"] == 0.0


def test_texts_without_any_word_of_two_letters_are_read_by_characters() -> None:
    rows = [row("好", "card"), row("坏", "money"), row("好 好", "card"), row("坏 坏", "money")]
    model = Tfidf(Train(rows), LABELS)
    assert model.settings["analyzer"] == "char_wb"
    assert [a.label for a in model.answer([request("坏"), request("好")])] == ["money", "card"]


def test_an_unknown_label_of_the_task_is_never_said_and_its_score_is_finite() -> None:
    model = Tfidf(train(), {**LABELS, "new": "new"})
    answer = next(model.answer([request("card")]))
    assert answer.scores is not None
    assert answer.scores["new"] == math.log(1e-9)


def test_one_label_only_is_refused() -> None:
    with pytest.raises(DataError) as error:
        Tfidf(train(money=0), LABELS)
    assert str(error.value) == (
        "train: tfidf needs training rows of at least two labels, there is one\n"
        "  → add rows of another label, or leave tfidf out of the contestants"
    )


def test_rows_held_out_are_refused_by_type() -> None:
    with pytest.raises(TypeError, match="learns from Train, not from Validation"):
        Majority(Validation([row("a", "card")]), LABELS)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="chosen on Tuning, not on Validation"):
        Tfidf(train(), LABELS, Validation([row("a", "card")]))  # type: ignore[arg-type]


def test_every_turn_is_read_but_the_systems() -> None:
    turns = (Message(Role.SYSTEM, "s"), Message(Role.USER, "u"), Message(Role.ASSISTANT, "a"), Message(Role.USER, "v"))
    assert text_of(turns) == "u\na\nv"


def test_scikit_learn_is_imported_only_when_it_is_needed() -> None:
    code = "import sys, tailorbird.answerers.references; print({'sklearn', 'scipy', 'numpy'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"
