"""What cannot stand beside `--init_from MODEL` is an error that says so, before anything is written."""

import shutil
from pathlib import Path

import pytest

from tests.training.continuing import command, error_of, record_of
from training.__main__ import main
from training.data.tokenizer import train_tokenizer

pytestmark = pytest.mark.usefixtures("here")


def test_sizes_that_are_not_the_models_are_named(capsys):
    lines = error_of(
        capsys, command("x", "first/model", model="demo", pad_vocab_to_multiple_of=128, max_position_embeddings=64)
    ).splitlines()
    assert [line.split(", whose")[0] for line in lines] == [
        "error: hidden_size is 256, but 32 in first/model",
        "error: num_hidden_layers is 4, but 2 in first/model",
        "error: vocab_size, rounded up by pad_vocab_to_multiple_of 128, is 4096, but 400 in first/model",
    ]
    # A recipe that says all is compared when the weights are opened.
    Path("whole.yaml").write_text(Path("first/recipe.yaml").read_text().replace("hidden_size: 32", "hidden_size: 64"))
    for words in (["--dry_run"], []):
        error = error_of(capsys, ["pretrain", "whole.yaml", "--init_from", "first/model", "--output_dir", "x", *words])
        assert "hidden_size is 64, but 32 in first/model" in error
    assert not Path("x").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"initialization": "pytorch"}, "initialization is pytorch, but the weights come from init_from"),
        ({"initialization_seed": 3}, "initialization_seed is set, but the weights come from init_from"),
        ({"tokenizer": "train"}, "tokenizer is train, but the model that init_from names knows the ids of its own"),
        ({"tokenizer": "characters"}, "tokenizer is characters, but the model that init_from names knows"),
        ({"init_from_revision": "main"}, "init_from_revision is set, but first/model is here and not on the Hub"),
        ({"new_positions": "begin"}, "new_positions is begin, but first/model has all 64 positions"),
        ({"max_position_embeddings": 128}, "first/model has 64 trained positions: set new_positions to interpolate"),
        ({"init_from": None, "model": "demo", "new_positions": "begin"}, "is for a model that is continued"),
        ({"init_from": None}, "model is missing: name a size, or by init_from a model to continue"),
        ({"init_from": "first"}, "init_from is first, which is a run folder: name its `model` folder or one of its"),
        ({"init_from": "./absent/model"}, "init_from is ./absent/model, which cannot be opened: absent/model does not"),
        ({"init_from": "damaged"}, "init_from damaged cannot be used: optimizer.pt has other bytes than were written"),
        ({"init_from": "bare"}, "bare holds no tokenizer: name by `tokenizer` the one that it was trained with"),
        ({"tokenizer": "another", "eos_token": "<end>"}, "eos_token is '<end>', which tokenizer another does not have"),
        ({"tokenizer": "another"}, "the tokenizer another is not that of first/model: "),
    ],
)
def test_what_cannot_stand_beside_a_model_to_continue_is_refused(options, message, capsys):
    shutil.copytree("first/checkpoint-4", "damaged")
    state = bytearray(Path("damaged/optimizer.pt").read_bytes())
    state[-100] ^= 1
    Path("damaged/optimizer.pt").write_bytes(state)
    shutil.copytree("gpt2", "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    train_tokenizer(iter(["other words than those"]), 300).save_pretrained("another")
    assert message in error_of(capsys, command("x", **{"init_from": "first/model"} | options))
    assert not Path("x").exists()


def test_a_recipe_with_an_empty_name_is_refused(capsys):
    Path("empty.yaml").write_text('init_from: ""\n')
    assert "error: init_from is empty\n" in error_of(capsys, ["pretrain", "empty.yaml", *command("x")[1:]])


def test_data_prepared_with_another_tokenizer_is_refused(capsys):
    assert main(command("fresh", model="demo", vocab_size=300, max_position_embeddings=64, max_steps=1)) == 0
    (data,) = Path("data").glob(f"{record_of('fresh')['data']['folder']}")
    assert "was prepared otherwise" in error_of(capsys, command("x", "first/model", corpus=data))
    shutil.copytree(data / "tokenizer", "its-own")
    assert "is not that of first/model" in error_of(
        capsys, command("x", "first/model", corpus=data, tokenizer="its-own")
    )
    assert not Path("x").exists()
