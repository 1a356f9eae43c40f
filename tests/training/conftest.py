"""The command line of a tiny run, and models to continue."""

import shutil
from pathlib import Path

import pytest

from modeling_gpt_scratch.conversion import to_gpt2
from tests.conftest import TEXT
from tests.training.continuing import command as continuing
from training.__main__ import main


@pytest.fixture(scope="session")
def texts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    for number in range(20):
        (folder / f"{number:02}.txt").write_text(f"Line {number} of a text that says the same again.\n" * 20)
    return folder


@pytest.fixture
def command(texts, tmp_path):
    """The command line of a tiny run with dropout; options can be overridden, or left out with `None`."""

    def build(**options) -> list[str]:
        values = {
            "model": "demo",
            "corpus": texts,
            "tokens_per_step": 128,
            "output_dir": tmp_path / "run",
            "data_dir": tmp_path / "data",
            "vocab_size": 300,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "max_position_embeddings": 32,
            "residual_dropout": 0.1,
            "per_device_train_batch_size": 2,
            "max_steps": 12,
            "learning_rate": "1e-2",
            "muon_learning_rate": 0.02,
            "eval_on_start": True,
            "eval_strategy": "steps",
            "eval_steps": 4,
            "logging_steps": 2,
            "save_steps": 4,
            "disable_tqdm": True,
        } | options
        return [
            "pretrain",
            *(text for name, value in values.items() if value is not None for text in (f"--{name}", str(value))),
        ]

    return build


@pytest.fixture(scope="session")
def continuable(tmp_path_factory, tiny_model, tokenizer) -> Path:
    """A folder with a text, the library's GPT-2 in `gpt2`, and `first`, a run that has continued it by four steps."""
    place = tmp_path_factory.mktemp("continuing")
    (place / "other.txt").write_text(TEXT[::-1] * 20)
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    to_gpt2(tiny_model(vocab_size=400, **special)).save_pretrained(place / "gpt2")
    tokenizer.save_pretrained(place / "gpt2")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(continuing("first", "gpt2")) == 0
    return place


@pytest.fixture
def here(continuable, tmp_path, monkeypatch) -> Path:
    """A test's own copy of `continuable`, to work in."""
    shutil.copytree(continuable, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path
