"""Where text is cut: at a space where there is one, between characters where there is none, and never far away."""

import random

import pytest

from training.data.cutting import LONGEST_WORD, NEAR, cut_into_pieces, is_boundary, next_place, with_bounded_words
from training.data.tokenizer import encoder, train_tokenizer

# Each of them is one character to a reader.
CHARACTERS = {
    "combining mark": "e\u0301",
    "Thai": "กำ",
    "Devanagari": "क्षि",
    "Hangul": "\u1112\u1161\u11ab",
    "voiced kana": "か\u3099",
    "variation selector": "❤\ufe0f",
    "skin tone": "👍🏽",
    "family": "👩\u200d👩\u200d👧",
    "flag": "🇯🇵",
    "flag by tags": "🏴\U000e0067\U000e0062\U000e007f",
    "line end": "\r\n",
    "Chinese": "漢",
}


@pytest.mark.parametrize("character", CHARACTERS.values(), ids=CHARACTERS)
def test_text_without_spaces_is_cut_between_characters(character):
    text = character * 200
    pieces = list(cut_into_pieces([text], 61))
    assert "".join(pieces) == text
    assert {len(piece) % len(character) for piece in pieces} == {0}
    assert max(map(len, pieces)) <= 61
    assert len(pieces) < 2 * len(text) / 61
    place = next_place(text, 101)
    assert 101 <= place < 101 + len(character)
    assert place % len(character) == 0


def test_what_has_no_end_of_a_character_nearby_is_cut_all_the_same():
    text = "a" + "\u0301" * 1000
    assert not any(is_boundary(text, place) for place in range(1, len(text)))
    assert next_place(text, 300) == 300
    assert [len(piece) for piece in cut_into_pieces([text], 500)] == [500, 500, 1]


def test_a_part_begins_at_the_next_space_if_it_is_near():
    text = "words " * 50 + "文" * 200
    assert next_place(text, 63) == 65
    assert next_place(text, 301) == 301
    assert next_place(text, len(text) - NEAR + 1) == len(text)
    assert next_place(text, 0) == 0


def test_training_a_tokenizer_sees_bounded_words_and_with_spaces_the_same_ones():
    letters = random.Random(0)
    prose = " ".join("".join(letters.choices("abcde", k=letters.randrange(1, 9))) for _ in range(3000)) + "\n\n  end\n"
    pieces = list(with_bounded_words([prose, "ACGT" * 1000]))
    assert max(map(len, pieces)) <= LONGEST_WORD
    assert "".join(pieces) == prose + "ACGT" * 1000
    bounded, whole = (train_tokenizer(iter(texts), 400) for texts in (with_bounded_words([prose]), [prose]))
    assert bounded.get_vocab() == whole.get_vocab()
    core = encoder(whole)
    pieces = list(with_bounded_words([prose]))
    assert len(pieces) > 10
    assert [i for piece in pieces for i in core.encode(piece).ids] == core.encode(prose).ids
