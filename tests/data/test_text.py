"""The folding by which texts count as the same, and the repairs that change a text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.data import normalize, shingles
from tailorbird.data.text import character_shingles, clean, content_id, is_blank, printable, special_tokens, suggest


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("  Where's  my CARD?! ", "where s my card"),
        ("ﬁne ① Ｆｕｌｌ", "fine 1 full"),  # compatibility forms
        ("Straße", "strasse"),
        ("cafe\u0301", "café"),
        ("top-up", "top up"),
        ("3+4 - 5", "3 + 4 - 5"),
        ("Pay $5, not £5!", "pay 5 not 5"),
        ("x<=-2", "x < = - 2"),
        ("snake_case", "snake case"),
        ("???", "???"),
        ("...", "..."),
        (" \n ", ""),
        ("残高は？", "残高は"),
    ],
)
def test_normalize(text: str, folded: str) -> None:
    assert normalize(text) == folded


@given(st.text())
def test_normalizing_twice_is_normalizing_once(text: str) -> None:
    assert normalize(normalize(text)) == normalize(text)


@given(st.text())
def test_case_and_punctuation_around_do_not_matter(text: str) -> None:
    if any(c.isalnum() for c in normalize(text)):
        assert normalize(f" ({text})! ") == normalize(text)


def test_word_shingles_by_hand() -> None:
    assert shingles("One two, three four!", 3) == {"one two three", "two three four"}
    assert shingles("one two") == {"one two"}
    assert shingles("one 2 three four five six seven eight") == {"one 2 three four five six seven eight"}
    assert shingles(" ") == frozenset()


def test_character_shingles_by_hand() -> None:
    assert character_shingles("abcdefg") == {"abcde", "bcdef", "cdefg"}
    assert character_shingles("ab") == {"ab"}


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("plain\ttext\r\n", "plain\ttext\r\n"),
        ("a\x00b\x1bc\x7f", "abc"),
        ("a\x0bb\x0cc\x85d", "a b c d"),
        ("user\u202eadmin\u2066", "useradmin"),
        ("emoji \U0001f600 e\u0301 \u200d", "emoji \U0001f600 e\u0301 \u200d"),
    ],
)
def test_clean_removes_controls_and_nothing_else(text: str, cleaned: str) -> None:
    assert clean(text) == (cleaned, cleaned != text)


def test_blank_texts() -> None:
    assert all(is_blank(t) for t in ["", " \n", "\u200b\u00ad", "\ufeff\u2060 "])
    assert not any(is_blank(t) for t in ["a", ".", "\U0001f600", "\u0301"])


def test_special_tokens_are_found_as_they_are_spelt() -> None:
    assert special_tokens("a <|im_end|> b </s><s> [INST] <end_of_turn>") == [
        "<|im_end|>",
        "</s>",
        "<s>",
        "[INST]",
        "<end_of_turn>",
    ]
    assert special_tokens("a < b, [1], <b>bold</b>, im_end") == []


def test_content_ids_depend_on_what_is_said_and_supervised() -> None:
    one = content_id([("user", "caf\u00e9", False), ("assistant", "b", True)], None)
    assert one == content_id([("user", "cafe\u0301", False), ("assistant", "b", True)], None)
    assert len({one, content_id([("user", "caf\u00e9", False), ("assistant", "b", False)], None)}) == 2
    assert len({one, content_id([("user", "caf\u00e9", False), ("assistant", "b", True)], "b")}) == 2
    assert len(one) == 20


def test_printable_escapes_half_pairs() -> None:
    assert printable("a\ud800é") == "a\\ud800é"


def test_suggestions_fold_case_and_separators() -> None:
    assert suggest("refund not showing up", ["Refund_not_showing_up", "card"]) == "Refund_not_showing_up"
    assert suggest("promt", ["completion", "prompt"]) == "prompt"
    assert suggest("zzz", ["completion", "prompt"]) is None
