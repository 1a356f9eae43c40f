"""What several tests of data share: a folder of tales and a recipe for it. Some modules have others of their own."""

from pathlib import Path

import pytest

from configuration.data import DataConfig
from tests.training.data.tales import TALES


@pytest.fixture
def texts(tmp_path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number, tale in enumerate(TALES):
        (folder / f"{number:02}.txt").write_text(tale * 4)
    return folder


@pytest.fixture
def run_config(texts, tokenizer, tmp_path):
    """A run on `texts` with an existing tokenizer; fields can be overridden."""
    tokenizer.save_pretrained(tmp_path / "tokenizer")

    def build(**fields) -> DataConfig:
        values = {"corpus": str(texts), "tokenize_threads": 1}
        return DataConfig(
            **values | {"tokenizer": str(tmp_path / "tokenizer"), "data_dir": str(tmp_path / "data")} | fields
        )

    return build


@pytest.fixture
def write_folder(tmp_path):
    """Writes a folder of text files: name -> text or bytes."""

    def write(files: dict[str, str | bytes]):
        folder = tmp_path / "corpus"
        for name, content in files.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder

    return write
