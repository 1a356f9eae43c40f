"""Token files made elsewhere: taken as they are, counted and checked."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from configuration.data import DataConfig
from training.__main__ import main
from training.data import token_files
from training.data.preparation import prepare_shards
from training.data.shards import TokenShards
from training.data.token_files import plan_held_out, token_byte_lengths
from training.errors import InputError

TEXT = "The wind had turned; the lamp was lit, and seven ships came home.\n" * 8


@pytest.fixture
def files(tmp_path, tokenizer):
    """Writes the two files and the tokenizer; the ids can be replaced."""
    ids = [*tokenizer(TEXT + "één ☃ <|endoftext|>")["input_ids"], tokenizer.eos_token_id] * 4

    half = ids[: len(ids) // 2]

    def write(train=ids, validation=half, dtype=np.uint16, key="tokens") -> Path:
        folder = tmp_path / "published"
        folder.mkdir(exist_ok=True)
        (folder / "README.md").write_text("what the Hub shows")
        for name, tokens in (("train", train), ("validation", validation)):
            save_file({key: np.array(tokens, dtype=dtype)}, folder / f"{name}.safetensors")
        tokenizer.save_pretrained(tmp_path / "tokenizer")
        return folder

    return write


def prepare(folder: Path, tokenizer: str = "tokenizer", vocab_size: int = 400, **options) -> TokenShards:
    named = tokenizer if tokenizer == "train" else str(folder.parent / tokenizer)
    data = str(folder.parent / "data")
    run = DataConfig(corpus=str(folder), tokenizer=named, data_dir=data)
    return prepare_shards(run, vocab_size, window=8, say=options.pop("say", lambda line: None), **options)


def test_parts_are_stretches_of_the_files_and_bytes_are_those_of_the_text(files, tokenizer):
    folder = files()
    stored = {name: load_file(folder / f"{name}.safetensors")["tokens"] for name in ("train", "validation")}
    said = []
    prepared = prepare(folder, say=said.append)
    train = prepared.tokens("train")
    held_out = np.concatenate([prepared.tokens(part)[:] for part in ("validation", "test")])
    assert train[:].tolist() == stored["train"].tolist()
    assert held_out.tolist() == stored["validation"].tolist()
    for part in ("train", "validation", "test"):
        text = tokenizer.decode(prepared.tokens(part)[:].tolist(), skip_special_tokens=True)
        # The middle of a part may lie within a character of several bytes, which decodes to U+FFFD.
        if "\ufffd" not in text:
            assert prepared.utf8_bytes(part) == len(text.encode())
    assert any("windows of 50 tokens that also occur in training" in line for line in said)
    again = prepare(folder, say=pytest.fail, verify=False)
    assert again.folder == prepared.folder


def test_every_token_stands_for_as_many_bytes_as_it_decodes_to(tokenizer):
    lengths = token_byte_lengths(tokenizer)
    text = TEXT + "één ☃"
    ids = tokenizer(text)["input_ids"]
    assert lengths[ids].sum() == len(text.encode())
    assert lengths[[tokenizer.eos_token_id, tokenizer.pad_token_id]].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (100_000_000, {"validation": (0, 19_660_801), "test": (50_000_000, 19_660_801)}),
        (69_660_801, {"validation": (0, 19_660_801), "test": (50_000_000, 19_660_801)}),
        (69_660_800, {"validation": (0, 34_830_400), "test": (34_830_400, 34_830_400)}),
        (7, {"validation": (0, 3), "test": (3, 4)}),
    ],
)
def test_the_test_part_is_the_blogs_slice_where_there_is_enough(tokens, expected):
    assert plan_held_out(tokens) == expected


@pytest.mark.parametrize(
    ("fields", "options", "message"),
    [
        ({}, {"tokenizer": "train"}, "no tokenizer is named, but published holds token files: name the tokenizer"),
        ({"train": [1, 400, 3] * 9}, {"vocab_size": 512}, "hold id 400, but the tokenizer's ids end at 399"),
        ({}, {"vocab_size": 300}, "the tokenizer has 400 tokens, but vocab_size is 300"),
        ({"dtype": np.float32}, {}, "holds `tokens` of shape .* and type F32, not one vector of uint16"),
        ({"train": [[1, 2]] * 9}, {}, r"holds `tokens` of shape \[9, 2\]"),
        ({"key": "ids"}, {}, "train.safetensors is no file of tokens: "),
        ({"train": [1, 2]}, {}, "less than one window of 9"),
        ({"validation": [1, 2]}, {}, "the validation part of the corpus is empty"),
    ],
)
def test_files_that_do_not_fit_are_refused(fields, options, message, files):
    with pytest.raises(InputError, match=message):
        prepare(files(**fields), **options)


def test_a_file_that_is_no_safetensors_is_refused(files):
    folder = files()
    (folder / "train.safetensors").write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"train\.safetensors is no file of tokens"):
        prepare(folder)


def test_changed_files_are_noticed(files):
    folder = files()
    first = prepare(folder, verify=True)
    content = bytearray((folder / "train.safetensors").read_bytes())
    content[-2] ^= 1
    (folder / "train.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"train\.safetensors has sha256"):
        TokenShards(first.folder).verify()
    assert prepare(folder).folder != first.folder


def test_a_change_between_the_samples_is_noticed(files, monkeypatch):
    monkeypatch.setattr(token_files, "SAMPLES", 2)
    monkeypatch.setattr(token_files, "SAMPLE_BYTES", 8)
    folder = files()
    first = prepare(folder)
    file = folder / "train.safetensors"
    content = bytearray(file.read_bytes())
    file.unlink()  # and with it the hard link
    file.write_bytes(content)
    os.utime(file, ns=(1, 1))
    assert prepare(folder).folder == first.folder  # only the time has changed
    content[-20] ^= 1
    file.write_bytes(content)
    second = prepare(folder)
    assert second.folder != first.folder
    monkeypatch.setattr(token_files, "sha256_of", None)
    assert prepare(folder).folder == second.folder


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no links"])
def test_the_prepared_folder_is_whole_without_them(links, files, tokenizer, tmp_path, monkeypatch):
    def no_links(source, target):
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    folder = files()
    stored = load_file(folder / "train.safetensors")["tokens"]
    prepared = prepare(folder)
    assert not any(file.is_symlink() for file in prepared.folder.rglob("*"))
    assert (prepared.folder / "train.safetensors").samefile(folder / "train.safetensors") == links
    shutil.rmtree(folder)
    said = []
    assert prepare(folder, say=said.append, verify=True).folder == prepared.folder
    assert said[0] == f"corpus {folder} does not exist: going on with {prepared.folder}, which was made from it"
    moved = prepared.folder.rename(tmp_path / "moved")
    assert TokenShards(moved).tokens("train")[:].tolist() == stored.tolist()


def test_pretraining_reads_them_and_verifies_on_request(files, tmp_path, capsys):
    folder = files()
    values = {"model": "demo", "corpus": folder, "tokens_per_step": 64, "output_dir": tmp_path / "run"}
    values |= {"data_dir": tmp_path / "data", "tokenizer": tmp_path / "tokenizer", "vocab_size": 400}
    values |= {"hidden_size": 32, "num_hidden_layers": 1, "max_position_embeddings": 32, "max_steps": 2}
    values |= {"per_device_train_batch_size": 2, "disable_tqdm": True, "save_strategy": "no"}
    words = [text for name, value in values.items() for text in (f"--{name}", str(value))]
    assert main(["tokenize", *words, "--verify_data"]) == 0
    assert "every shard is as written" in capsys.readouterr().out
    assert main(["pretrain", *words, "--verify_data"]) == 0
    assert "every shard is as written" in capsys.readouterr().out
    result = json.loads((tmp_path / "run" / "run.json").read_text())["result"]
    assert 0 < result["test_bits_per_byte"] < 20

    (prepared,) = (tmp_path / "data").iterdir()
    manifest = json.loads((prepared / "manifest.json").read_text())
    manifest["parts"]["train"]["shards"][0]["sha256"] = "0" * 64
    (prepared / "manifest.json").write_text(json.dumps(manifest))
    for program in ("tokenize", "pretrain"):
        assert main([program, *words, "--verify_data", "--output_dir", str(tmp_path / "other")]) == 2
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert "train.safetensors has sha256" in errors[0]
        assert errors[1] == f"error: delete {prepared} to prepare it again"
    assert not (tmp_path / "other").exists()
