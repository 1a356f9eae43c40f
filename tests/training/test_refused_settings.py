"""Settings that pretraining refuses, each with one clear line."""

import pytest
import torch
from transformers import AutoTokenizer

from training.__main__ import main


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"corpus": "/absent"}, "corpus /absent does not exist"),
        ({"learning_rat": "1"}, "learning_rat is no setting: did you mean learning_rate?"),
        ({"seed": "one"}, "seed is 'one' (str), but must be int"),
        ({"num_attention_heads": "5"}, "hidden_size is 32, not a multiple of num_attention_heads"),
        ({"tokens_per_step": "100"}, "tokens_per_step is 100, but must be a multiple of 64"),
        ({"precision": "fp16"}, "precision is fp16, which this device does not have"),
        ({"precision": "tf32"}, "precision is tf32, which this device does not have"),
        ({"output_dir": "{file}"}, "cannot be written: file is no folder, or not yours"),
        ({"output_dir": "{file}/run"}, "cannot be written: file is no folder, or not yours"),
        ({"output_dir": "{other}"}, "holds files that are no run: choose another folder"),
        ({"data_dir": "{file}"}, "{file}"),
        ({"tokenizer": "/absent"}, "/absent does not exist"),
        ({"vocab_size": "20"}, "vocab_size is 20, but a byte-level tokenizer has at least 258 tokens"),
        ({"corpus": "{short}"}, "less than one window of 33: use more text, or a smaller max_position_embeddings"),
        ({"corpus": "{empty}"}, "is empty: it holds no text"),
        ({"corpus": "{latin}"}, "is not UTF-8 text"),
        ({"logging_steps": "0"}, "logging_steps is 0.0, but must be between"),
        ({"weight_decay": "-1"}, "weight_decay is -1.0, but must be between"),
        ({"num_train_epochs": "2"}, "num_train_epochs is 2.0, but max_steps is 12 and would count alone"),
        ({"batch_size": "2"}, "batch_size is no setting: did you mean per_device_train_batch_size"),
        ({"optim_args": "foo"}, "the library refuses the recipe: "),
        ({"warmup_steps": "20"}, "are together more than the 12 steps of the run: lower them, or train longer"),
        ({"report_to": "nonsense"}, "the library refuses the recipe: nonsense is not supported"),
        ({"adam_beta1": "2"}, "adam_beta1 is 2.0, but must be between"),
    ],
)
def test_bad_input_gets_a_clear_line_and_changes_nothing(options, message, command, tmp_path, capsys):
    if message.startswith("precision") and torch.accelerator.is_available():
        pytest.skip("this device has the precision")
    places = {name: tmp_path / name for name in ("file", "other", "short", "empty", "latin")}
    places["file"].write_text("precious")
    for name, content in (("other", b"precious"), ("short", b"a b c d"), ("empty", b""), ("latin", b"caf\xe9")):
        places[name].mkdir()
        (places[name] / "file.txt").write_bytes(content)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    options = {name: value and value.format(**places) for name, value in options.items()}

    assert main(command(**options)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line and not line.startswith("tokenizing")]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message.format(**places) in lines[0]
    # The library refuses only when the data is there, and prepared data is not lost.
    refused_late = message.startswith(("the library", "are together"))
    after = {
        path: path.read_bytes()
        for path in tmp_path.rglob("*")
        if path.is_file() and not (refused_late and "data" in path.parts)
    }
    assert after == before
    assert not (tmp_path / "run").exists()


def test_option_without_its_value_gets_a_short_answer(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["pretrain", "--seed"])
    assert exit_.value.code == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert errors[1].endswith("error: argument --seed: expected one argument")


def test_existing_tokenizer_must_fit_the_model(command, tmp_path, tokenizer, capsys):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    assert main(command(tokenizer=tmp_path / "tokenizer")) == 2
    assert (
        "the tokenizer has 400 tokens, but vocab_size is 300: set vocab_size to 400 or more" in capsys.readouterr().err
    )
    assert main(command(tokenizer=tmp_path / "tokenizer", vocab_size=512, max_steps=2)) == 0
    assert len(AutoTokenizer.from_pretrained(tmp_path / "run" / "model")) == 400


@pytest.mark.parametrize(("argv", "message"), [([], "a command is missing"), (["train"], "train is no command")])
def test_unknown_command_is_refused(argv, message, capsys):
    assert main(argv) == 2
    assert message in capsys.readouterr().err
