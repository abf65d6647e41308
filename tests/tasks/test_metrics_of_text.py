"""SQuAD's exact match and token F1, ROUGE-L, chrF: worked by hand, against plain Python, and against their packages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.tasks.chrf import chrf
from tailorbird.tasks.rouge_l import common_subsequence, rouge_l, tokens
from tailorbird.tasks.squad import exact_match, normalize_answer, token_f1

WORDS = st.lists(st.sampled_from(["a", "b", "c", "the"]), max_size=12)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Eiffel Tower.", "eiffel tower"),
        ("an apple, a day", "apple day"),
        ("U.S.A.", "usa"),
        ("theatre", "theatre"),  # "the" goes only as a word
        ("...", ""),
    ],
)
def test_squad_normalization_drops_case_punctuation_and_articles(text: str, normal: str) -> None:
    assert normalize_answer(text) == normal


def test_exact_match_looks_through_normalization_only() -> None:
    assert exact_match("The Eiffel Tower", "eiffel tower!") == 1.0
    assert exact_match("Eiffel Tower", "Tower Eiffel") == 0.0


def test_token_f1_is_the_harmonic_mean_of_precision_and_recall() -> None:
    # said 4 tokens, 2 of the 3 wanted among them: precision 1/2, recall 2/3, F1 = 2 * (1/2 * 2/3) / (1/2 + 2/3) = 4/7
    assert token_f1("red big car", "big red old house") == pytest.approx(4 / 7)
    assert token_f1("yes", "no") == 0.0
    assert token_f1("the", "a") == 1.0  # both empty after normalization, as in the script of SQuAD 2.0
    assert token_f1("", "something") == 0.0


def test_a_token_said_twice_counts_as_often_as_it_is_wanted() -> None:
    assert token_f1("x y", "x x") == pytest.approx(0.5)  # one in common: precision 1/2, recall 1/2


def test_rouge_l_by_hand() -> None:
    # LCS of "police killed the gunman" and "police kill the gunman" is 3 of 4 and 4
    assert rouge_l("police killed the gunman", "police kill the gunman") == pytest.approx(0.75)
    # Lin's second candidate: LCS "the gunman", 2 of 4
    assert rouge_l("police killed the gunman", "the gunman kill police") == pytest.approx(0.5)


def test_rouge_l_of_empty_texts() -> None:
    assert rouge_l("", "") == 1.0
    assert rouge_l("one", "") == 0.0
    assert rouge_l("", "one") == 0.0


def test_rouge_l_reads_scripts_beyond_ascii() -> None:
    assert rouge_l("Größe zählt", "größe zählt") == 1.0
    assert rouge_l("кот спит", "кот ест") == pytest.approx(0.5)
    assert tokens("东京塔 tower") == ["东", "京", "塔", "tower"]


def plain_lcs(a: list[str], b: list[str]) -> int:
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


@given(WORDS, WORDS)
def test_the_bit_parallel_subsequence_equals_the_table(a: list[str], b: list[str]) -> None:
    assert common_subsequence(a, b) == plain_lcs(a, b)


@given(st.text(alphabet="abc. -'Z9", max_size=40), st.text(alphabet="abc. -'Z9", max_size=40))
def test_rouge_l_equals_rouge_score_on_ascii(expected: str, given_text: str) -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    if tokens(expected) or tokens(
        given_text
    ):  # without any token rouge-score says 0, we say that nothing equals nothing
        theirs = scorer.score(expected, given_text)["rougeL"].fmeasure
        assert rouge_l(expected, given_text) == pytest.approx(theirs)


def test_chrf_is_sacrebleus_sentence_chrf_as_a_share() -> None:
    import sacrebleu

    expected, said = "the cat sat on the mat", "the cat is on a mat"
    assert chrf(expected, said) == pytest.approx(sacrebleu.sentence_chrf(said, [expected]).score / 100)
    assert chrf("same", "same") == pytest.approx(1.0)
    assert chrf("something", "") == 0.0
    assert chrf("", "") == 1.0


@given(st.text(max_size=30), st.text(max_size=30))
def test_every_likeness_lies_in_0_to_1(expected: str, said: str) -> None:
    for metric in (exact_match, token_f1, rouge_l):
        assert 0.0 <= metric(expected, said) <= 1.0
        assert metric(expected, expected) == 1.0
