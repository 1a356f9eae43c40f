"""Tokenizers: trained ones encode any text, existing ones are kept as they are."""

import pytest
from transformers import AutoTokenizer

from training.data.tokenizer import END_OF_TEXT, PAD, encoder, load_tokenizer, tokenizer_sha256, train_tokenizer
from training.errors import InputError

TEXT = "def f(x):\n\treturn {'é': x, '日本': None}  # ☃\r\n" * 5


@pytest.mark.parametrize(
    "text", ["", " ", "a  b\n\n\tc ", "naïve 日本 🦜\0", "don't , stop .", "<|endoftext|> <|pad|>"]
)
def test_any_text_survives_encoding_and_decoding(text):
    tokenizer = train_tokenizer(iter([TEXT]), 300)
    ids = encoder(tokenizer).encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_padding_is_a_token_of_its_own():
    tokenizer = train_tokenizer(iter([TEXT]), 280)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (END_OF_TEXT, END_OF_TEXT, PAD)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1)
    assert len(tokenizer) == len(tokenizer.get_vocab()) == 280


def test_text_that_spells_a_special_token_is_text_in_shards_and_the_token_elsewhere():
    tokenizer = train_tokenizer(iter([TEXT]), 300)
    assert tokenizer.eos_token_id not in encoder(tokenizer).encode(END_OF_TEXT, add_special_tokens=False).ids
    assert tokenizer(END_OF_TEXT)["input_ids"] == [tokenizer.eos_token_id]


def test_training_is_repeatable_and_follows_the_text():
    first, again, other = (train_tokenizer(iter([text]), 300) for text in (TEXT, TEXT, TEXT.replace("return", "yield")))
    assert tokenizer_sha256(first) == tokenizer_sha256(again) != tokenizer_sha256(other)


def test_short_text_gives_a_smaller_vocabulary():
    assert len(train_tokenizer(iter(["ab ab"]), 5000)) < 270


def test_vocabulary_without_room_for_the_bytes_is_refused():
    with pytest.raises(InputError, match="vocab_size is 257, but a byte-level tokenizer has at least 258 tokens"):
        train_tokenizer(iter([TEXT]), 257)


def test_saved_tokenizer_loads_as_any_other(tmp_path):
    tokenizer = train_tokenizer(iter([TEXT]), 300)
    tokenizer.model_max_length = 77
    tokenizer.save_pretrained(tmp_path)
    for loaded in (load_tokenizer(str(tmp_path)), AutoTokenizer.from_pretrained(tmp_path)):
        assert tokenizer_sha256(loaded) == tokenizer_sha256(tokenizer)
        assert (loaded.model_max_length, loaded.pad_token_id, loaded.eos_token_id) == (77, 1, 0)
        assert loaded.decode(loaded("don't stop , now .")["input_ids"]) == "don't stop , now ."


@pytest.mark.parametrize("name", ["absent/tokenizer", "/absent", "./absent", "absent"])
def test_missing_tokenizer_is_refused_by_name(name):
    with pytest.raises(InputError, match=name):
        load_tokenizer(name)


def test_tokenizer_without_an_end_of_text_token_is_refused(tmp_path, tokenizer):
    plain = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer)
    plain.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="has no end-of-text token"):
        load_tokenizer(str(tmp_path))
