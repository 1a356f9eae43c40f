"""Prepared data as a corpus of its own: wherever it lies, and whatever a recipe says that does not fit it."""

import shutil
from pathlib import Path

import pytest

from tests.training.data.tales import TALES, prepare
from training.data.preparation import prepare_shards
from training.data.tokenizer import train_tokenizer
from training.errors import InputError


def test_prepared_data_is_a_corpus_wherever_it_lies(run_config, texts, tmp_path):
    first = prepare(run_config())
    there = Path(shutil.copytree(first.folder, tmp_path / "elsewhere" / "copied"))
    for gone in (texts, tmp_path / "data"):
        shutil.rmtree(gone)
    for tokenizer in ("train", str(tmp_path / "tokenizer")):  # `train` is what a recipe says that says nothing
        found = prepare(run_config(corpus=str(there), tokenizer=tokenizer))
        assert (found.folder, found.manifest) == (there, first.manifest)
        assert len(found.tokenizer) == 400
    said = []
    shutil.rmtree(tmp_path / "tokenizer")
    assert prepare(run_config(corpus=str(there)), said.append).folder == there
    assert said == [f"{tmp_path}/tokenizer does not exist: going on with the one in {there}"]
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tokenizer": "{other}"}, "tokenizer is .*other, but was another one"),
        ({"split": "hash"}, "split is hash, but was contiguous"),
        ({"split_fractions": [0.8, 0.1, 0.1]}, r"split_fractions is \[0.8, 0.1, 0.1\], but was \[0.9, 0.05, 0.05\]"),
        ({"deduplicate": True}, "deduplicate is True, but was False"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_prepared_data_contradicts_are_refused(fields, message, run_config, tmp_path):
    train_tokenizer(iter(TALES), 300).save_pretrained(tmp_path / "other")
    folder = prepare(run_config()).folder
    fields = {name: str(tmp_path / "other") if value == "{other}" else value for name, value in fields.items()}
    with pytest.raises(InputError, match=f"was prepared otherwise: {message}"):
        prepare(run_config(corpus=str(folder), **fields))
    agreeing = {"split": "contiguous", "split_fractions": [0.9, 0.05, 0.05]}
    assert prepare(run_config(corpus=str(folder), **agreeing)).folder == folder


def test_a_vocabulary_that_prepared_data_does_not_fill_is_said(run_config):
    folder = prepare(run_config()).folder
    said = []
    prepare_shards(run_config(corpus=str(folder), tokenizer="train"), 1000, window=8, say=said.append)
    assert len(said) == 1
    assert said[0].startswith("vocab_size is 1,000, but the tokenizer has 400 tokens: so has the model")


def test_prepared_data_of_a_larger_vocabulary_is_refused(run_config):
    folder = prepare(run_config()).folder
    with pytest.raises(InputError, match="the tokenizer has 400 tokens, but vocab_size is 399"):
        prepare_shards(run_config(corpus=str(folder), tokenizer="train"), 399, window=8, say=print)
