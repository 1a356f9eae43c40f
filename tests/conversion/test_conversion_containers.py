"""What training loops wrap around weights: keys, endings, prefixes, numbers and objects, and how to get rid of them."""

import dataclasses
import shlex
import sys

import numpy as np
import pytest
import torch
from torch import nn

from modeling_gpt_scratch import GPTScratchForCausalLM
from modeling_gpt_scratch.conversion import ConversionError, convert
from tests.conversion.conversions import (
    TOLERANCE,
    RunsCommand,
    assert_same_logits,
    book_model,
    fused_model,
    refusal,
    write_nanogpt,
    write_source,
)


@dataclasses.dataclass
class GPTConfig:
    """As build-nanogpt saves it beside the weights: an object of a class."""

    block_size: int = 16
    vocab_size: int = 61
    n_layer: int = 2
    n_head: int = 4
    n_embd: int = 32


def advised_line(message: str) -> str:
    """The line of a shell that a message ends in."""
    return message[message.index("python -c ") :].strip()


def follow(line: str) -> None:
    """Does what an advised line does, without the seconds that a process takes."""
    _, option, program = shlex.split(line)
    assert option == "-c"
    exec(program, {})


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: {"epoch": 1, "state_dict": weights},
        lambda weights: {"epoch": 1, "model": weights, "optimizer": {"state": {0: {"step": torch.ones(1)}}}},
        lambda weights: {"epoch": 1, "model_state_dict": weights, "model": "gpt2-small (124M)"},
        lambda weights: {"state_dict": {"model": weights, "step": 3}},
        lambda weights: {"model": {f"module._orig_mod.{name}": weights[name] for name in weights}},
        lambda weights: {"state_dict": {f"net.{name}": weights[name] for name in weights}},
        lambda weights: {"state_dict": {f"model._orig_mod.{name}": weights[name] for name in weights}},
    ],
    ids=["state_dict", "model", "model_state_dict", "nested", "wrapped", "Lightning's", "Lightning's, compiled"],
)
def test_keys_and_prefixes_of_training_loops_are_taken_off(tmp_path, book, wrap):
    source, config = book
    assert convert(write_source(tmp_path, wrap(source.state_dict()), config), tmp_path / "output") < TOLERANCE
    assert_same_logits(GPTScratchForCausalLM.from_pretrained(tmp_path / "output"), source)


@pytest.mark.parametrize("name", ["model.bin", "last.ckpt"])
def test_endings_of_training_loops_are_read_by_name_and_in_a_folder(tmp_path, book, name):
    path = write_source(tmp_path / "source", book[0].state_dict(), book[1], name)
    assert convert(path, tmp_path / "from-file") < TOLERANCE
    (tmp_path / "source" / "train.bin").write_bytes(b"tokens, as nanoGPT keeps them")
    assert convert(tmp_path / "source", tmp_path / "from-folder") < TOLERANCE


@pytest.mark.parametrize("name", ["none.bin", "none.ckpt"])
def test_missing_file_is_not_looked_for_on_the_hub(tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert f"{name} does not exist: name a checkpoint" in refusal(capsys, tmp_path, name)


def test_prefix_that_leaves_several_formats_or_none_stays(tmp_path, capsys, book):
    weights = {f"net.{name}": tensor for name, tensor in book[0].state_dict().items()}
    weights["net.transformer.h.0.attn.c_attn.weight"] = torch.ones(96, 32)
    assert "fits no format: found 34 tensors (net.tok_emb.weight, " in refusal(
        capsys, tmp_path, write_source(tmp_path, {"state_dict": weights}, book[1])
    )


def test_two_sets_of_weights_are_refused_and_the_line_keeps_one(tmp_path, capsys, book):
    source, config = book
    other = {name: tensor + 1 for name, tensor in source.state_dict().items()}
    content = {"model": other, "state_dict": source.state_dict(), "loss": np.float64(1.5)}
    message = refusal(capsys, tmp_path, write_source(tmp_path, content, config))
    assert "holds weights under state_dict and model, and only you know which are meant" in message
    follow(advised_line(message))
    convert(tmp_path / "model-readable.pt", tmp_path / "output")
    assert_same_logits(GPTScratchForCausalLM.from_pretrained(tmp_path / "output"), source)


def test_weights_under_a_key_of_ones_own_are_refused_and_the_line_keeps_them(tmp_path, capsys, book):
    source, config = book
    message = refusal(capsys, tmp_path, write_source(tmp_path, {"epoch": 1, "net": source.state_dict()}, config))
    assert "holds entries that are no tensors (epoch, net; 2 in all)" in message
    follow(advised_line(message))
    assert convert(tmp_path / "model-readable.pt", tmp_path / "output") < TOLERANCE


def test_a_key_that_spells_a_command_stays_a_key_in_the_line(tmp_path, capsys, book):
    key = """net"; $(touch ran) `touch ran`'"""
    message = refusal(capsys, tmp_path, write_source(tmp_path, {"epoch": 1, key: book[0].state_dict()}, book[1]))
    assert "python -c '" in message  # between these a shell does nothing
    follow(advised_line(message))
    assert convert(tmp_path / "model-readable.pt", tmp_path / "output") < TOLERANCE


@pytest.mark.parametrize("zipped", [True, False])
def test_numbers_of_numpy_beside_the_tensors_are_read(tmp_path, zipped):
    source, sizes = fused_model()
    sizes = {name: value if isinstance(value, bool | float) else np.int64(value) for name, value in sizes.items()}
    path = write_nanogpt(tmp_path, source.state_dict(), sizes, best_val_loss=np.float64(1.2), flag=np.bool_(True))
    content = torch.load(path, weights_only=False)
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert convert(path, tmp_path / "output", activation="gelu") < TOLERANCE


def test_arrays_of_numpy_are_refused(tmp_path, capsys):
    source, sizes = fused_model()
    path = write_nanogpt(tmp_path, source.state_dict(), sizes, losses=np.ones(3))
    message = refusal(capsys, tmp_path, path)
    assert "holds more than tensors and plain values: numpy" in message
    assert "ndarray" in message
    follow(advised_line(message))
    assert convert(tmp_path / "ckpt-readable.pt", tmp_path / "output") < TOLERANCE


@pytest.mark.parametrize("zipped", [True, False])
def test_configuration_of_a_class_is_refused_and_the_line_saves_it_readably(tmp_path, capsys, monkeypatch, zipped):
    monkeypatch.setattr(sys.modules["__main__"], "GPTConfig", GPTConfig, raising=False)
    monkeypatch.setattr(GPTConfig, "__module__", "__main__")  # as in the program that trains
    source, _ = fused_model(activation=nn.GELU("tanh"))
    content = {"model": source.state_dict(), "config": GPTConfig(), "place": tmp_path, "val_loss": np.float64(3.1)}
    path = tmp_path / "my model.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    message = refusal(capsys, tmp_path, path)
    assert "values: __main__.GPTConfig" in message
    assert "This line saves its weights again as " in message
    monkeypatch.delattr(sys.modules["__main__"], "GPTConfig")  # which no other program has
    follow(advised_line(message))
    convert(tmp_path / "my model-readable.pt", tmp_path / "output")
    assert_same_logits(GPTScratchForCausalLM.from_pretrained(tmp_path / "output"), source)


def test_whole_model_is_refused_with_the_line_for_the_program_that_made_it(tmp_path, capsys, book):
    model, config = book
    path = write_source(tmp_path, model, config)
    message = refusal(capsys, tmp_path, path)
    assert "It is a whole model, whose code is not in it. In the program that made it: " in message
    exec(message[message.index("torch.save(") :], {"torch": torch, "model": model})
    assert convert(tmp_path / "model-readable.pt", tmp_path / "output") < TOLERANCE


def test_file_that_would_run_commands_gets_no_line_that_loads_it(tmp_path, capsys, book):
    path = write_source(tmp_path, {"model": book[0].state_dict(), "config": RunsCommand("touch ran")}, book[1])
    message = refusal(capsys, tmp_path, path)
    assert "which would run commands while it loads" in message
    assert "python -c" not in message


@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors"])
def test_damaged_file_is_told_from_one_with_classes(tmp_path, capsys, book, name):
    path = write_source(tmp_path, book[0].state_dict(), book[1], name)
    path.write_bytes(path.read_bytes()[:-500])
    message = refusal(capsys, tmp_path, path)
    assert "it is damaged. In the program that made it: torch.save(model.state_dict(), " in message


OPENAI_FILES = ["checkpoint", "encoder.json", "vocab.bpe", "model.ckpt.data-00000-of-00001", "model.ckpt.index"]
OPENAI_FILES += ["model.ckpt.meta"]


@pytest.mark.parametrize(
    ("sizes", "names"),
    [
        ('{"n_vocab": 50257, "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12}', "openai-community/gpt2"),
        ('{"n_vocab": 50257, "n_ctx": 1024, "n_embd": 1600, "n_head": 25, "n_layer": 48}', "openai-community/gpt2-xl"),
        ("", "openai-community/gpt2 or openai-community/gpt2-medium or "),
        ('{"n_embd": [1]}', "openai-community/gpt2 or openai-community/gpt2-medium or "),
    ],
)
def test_openais_tensorflow_folder_is_named_with_the_repository_of_the_same_weights(tmp_path, capsys, sizes, names):
    folder = tmp_path / "124M"
    folder.mkdir()
    for name in OPENAI_FILES:
        (folder / name).write_bytes(b"not to be read")
    (folder / "hparams.json").write_text(sizes)
    for source in (folder, folder / "model.ckpt", folder / "model.ckpt.index", folder / OPENAI_FILES[3]):
        message = refusal(capsys, tmp_path, source)
        assert "is GPT-2 as OpenAI published it, in TensorFlow's format" in message
        assert f"{names}{'' if names.endswith(' ') else ' on the Hub'}" in message


def test_weights_beside_openais_files_are_read(tmp_path, book):
    path = write_source(tmp_path / "source", book[0].state_dict(), book[1])
    (path.parent / "model.ckpt.index").write_bytes(b"not to be read")
    assert convert(path.parent, tmp_path / "output") < TOLERANCE


def test_lists_and_single_tensors_are_refused(tmp_path):
    _, config = book_model()
    with pytest.raises(ConversionError, match=r"holds a list, expected the model's state_dict\(\). In the program"):
        convert(write_source(tmp_path, [1, 2], config), tmp_path / "output")
