"""Token shards: the corpus, token for token, whole or not at all."""

import itertools
import json
import pickle
import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import load_file

from configuration.data import DataConfig
from training.data import corpus, overlap, text_preparation, tokenization, writing
from training.data.preparation import prepare_shards
from training.data.shards import TokenShards
from training.errors import InputError


@pytest.fixture
def run_config(tmp_path):
    """A run on a folder of `documents` short texts; fields can be overridden."""

    def build(documents: int = 12, **fields) -> DataConfig:
        folder = tmp_path / "texts"
        folder.mkdir(exist_ok=True)
        for number in range(documents):
            (folder / f"{number:03}.txt").write_text(f"Text {number}: één line, <|endoftext|> and a half.\n" * 3)
        values = {"corpus": str(folder), "data_dir": str(tmp_path / "data")}
        return DataConfig(**values | fields)

    return build


def prepare(run: DataConfig, vocab_size: int = 300) -> TokenShards:
    return prepare_shards(run, vocab_size, window=8, say=lambda line: None)


def everything(prepared: TokenShards, part: str) -> np.ndarray:
    tokens = prepared.tokens(part)
    return tokens[0 : len(tokens)]


@pytest.mark.parametrize("split", ["hash", "contiguous"])
def test_shards_hold_the_text_with_an_end_before_and_after_each_document(split, run_config):
    run = run_config(split=split)
    prepared = prepare(run)
    eos = prepared.tokenizer.eos_token_id
    texts = {file.read_text() for file in sorted((prepared.folder.parent.parent / "texts").iterdir())}
    whole = ""
    for part in ("train", "validation", "test"):
        tokens = everything(prepared, part)
        assert tokens[0] == eos
        whole += prepared.tokenizer.decode(tokens.tolist()).replace("<|endoftext|>Text", "Text")
        if split == "hash":
            ends = np.flatnonzero(tokens == eos)
            documents = [prepared.tokenizer.decode(tokens[a + 1 : b].tolist()) for a, b in itertools.pairwise(ends)]
            assert set(documents) <= texts
            assert tokens[-1] == eos
            assert prepared.manifest["parts"][part]["documents"] == len(documents)
    assert whole.count("Text") == 12 * 3


def test_manifest_counts_tokens_and_bytes(run_config):
    prepared = prepare(run_config())
    parts = prepared.manifest["parts"]
    assert sum(part["utf8_bytes"] for part in parts.values()) == prepared.manifest["corpus"]["utf8_bytes"]
    for name, part in parts.items():
        assert part["tokens"] == len(prepared.tokens(name)) == sum(shard["tokens"] for shard in part["shards"])
    text = prepared.tokenizer.decode(everything(prepared, "test").tolist(), skip_special_tokens=True)
    # Decoding drops the ends and would drop nothing else: what spells an end is text here.
    assert len(text.encode()) == parts["test"]["utf8_bytes"]
    assert prepared.manifest["dtype"] == "uint16"
    assert load_file(prepared.folder / "train-00000.safetensors")["tokens"].dtype == np.uint16


def test_slices_across_shards_equal_one_vector(run_config, monkeypatch):
    whole = everything(prepare(run_config()), "train")
    monkeypatch.setattr(writing, "TOKENS_PER_SHARD", 100)
    prepared = prepare(run_config(data_dir=run_config().data_dir + "-small"))
    tokens = prepared.tokens("train")
    assert len(prepared.manifest["parts"]["train"]["shards"]) == 5
    for start, stop in ((0, len(whole)), (99, 101), (100, 200), (250, 251), (0, 0), (len(whole) - 1, len(whole) + 5)):
        assert tokens[start:stop].tolist() == whole[start:stop].tolist()
    assert pickle.loads(pickle.dumps(tokens))[90:310].tolist() == whole[90:310].tolist()


def test_prepared_data_is_found_again_and_depends_on_what_shapes_it(run_config, monkeypatch):
    first = prepare(run_config())
    monkeypatch.setattr(text_preparation, "train_tokenizer", None)  # any use fails
    assert prepare(run_config()).folder == first.folder
    monkeypatch.undo()
    others = [
        prepare(run_config(split="hash")),
        prepare(run_config(), vocab_size=310),
        prepare(run_config(documents=13)),
    ]
    assert len({prepared.folder for prepared in [first, *others]}) == 4


def test_existing_tokenizer_is_used_as_it_is(run_config, tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    prepared = prepare(run_config(tokenizer=str(tmp_path / "tokenizer")), vocab_size=400)
    assert prepared.manifest["tokenizer"]["tokens"] == len(tokenizer)
    ids = everything(prepared, "train")[1:20].tolist()
    assert prepared.tokenizer.decode(ids) == tokenizer.decode(ids)


def truncate(folder):
    file = folder / "train-00000.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def replace_tokenizer(folder):
    file = folder / "tokenizer" / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["merges"] = content["model"]["merges"][:-1]
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "train-00000.safetensors has .* bytes, not"),
        (lambda folder: (folder / "test-00000.safetensors").unlink(), "test-00000.safetensors has 0 bytes"),
        (replace_tokenizer, "is not the one that made its tokens"),
        (lambda folder: (folder / "manifest.json").unlink(), "holds no readable manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "holds no readable manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text('{"format": 99}'), "manifest.json is not of format 1"),
    ],
)
def test_damaged_data_is_refused_by_name(damage, message, run_config):
    folder = prepare(run_config()).folder
    damage(folder)
    with pytest.raises(InputError, match=message):
        prepare(run_config())


def test_verifying_names_every_shard_that_is_not_as_written(run_config):
    prepared = prepare(run_config())
    prepared.verify()
    for name in ("train-00000.safetensors", "test-00000.safetensors"):
        content = bytearray((prepared.folder / name).read_bytes())
        content[-1] ^= 1
        (prepared.folder / name).write_bytes(content)
    again = prepare(run_config())  # of the same size, so opening does not notice
    with pytest.raises(InputError) as caught:
        again.verify()
    lines = str(caught.value).splitlines()
    assert [line.split("/")[-1].split()[0] for line in lines[:2]] == [
        "train-00000.safetensors",
        "test-00000.safetensors",
    ]
    assert "has sha256" in lines[0]
    assert lines[2].startswith("delete ")


def test_memory_does_not_grow_with_the_corpus(tmp_path, tokenizer, monkeypatch):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    for module, name, value in (
        (corpus, "PIECE_CHARACTERS", 20_000),
        (tokenization, "BATCH_CHARACTERS", 20_000),
        (writing, "TOKENS_PER_SHARD", 20_000),
        (overlap, "TOKENS_TOGETHER", 20_000),
    ):
        monkeypatch.setattr(module, name, value)
    peaks = []
    for size in (200_000, 1_600_000):
        file = tmp_path / f"{size}.txt"
        file.write_text("some words and then some more\n" * (size // 30))
        run = DataConfig(
            corpus=str(file),
            tokenizer=str(tmp_path / "tokenizer"),
            data_dir=str(tmp_path / "data"),
        )
        prepare(run, vocab_size=400)  # once, so that what is loaded for good is not counted
        run = DataConfig(**{**vars(run), "split": "contiguous", "split_fractions": [0.8, 0.1, 0.1]})
        tracemalloc.start()
        prepare(run, vocab_size=400)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
