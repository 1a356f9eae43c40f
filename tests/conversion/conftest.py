"""What tests of conversions share: a model of the book, one of our own with its tokenizer, and ids."""

from types import SimpleNamespace

import pytest

from tests.conversion.conversions import book_model, random_ids


@pytest.fixture
def book():
    return book_model()


@pytest.fixture
def input_ids():
    return random_ids()


@pytest.fixture
def write_own(tmp_path, tiny_model, tokenizer):
    """Writes a source of our own format; returns its place, its model and its tokenizer."""

    def write(tokenizer=tokenizer, **fields) -> SimpleNamespace:
        special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        model = tiny_model(**{"vocab_size": len(tokenizer)} | special | fields)
        model.save_pretrained(tmp_path / "source")
        tokenizer.save_pretrained(tmp_path / "source")
        return SimpleNamespace(place=tmp_path / "source", model=model, tokenizer=tokenizer)

    return write
