"""What docs/converting.md tells people to type works."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoConfig

from modeling_gpt_scratch.__main__ import main
from modeling_gpt_scratch.conversion import FORMATS
from tests.conversion.conversions import book_model, fused_model, write_nanogpt, write_source

PAGE = (Path(__file__).parents[2] / "docs" / "converting.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    (block,) = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
    return [shlex.split(line) for line in block.splitlines()]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with the files that the page speaks of."""
    book, config = book_model()
    write_source(tmp_path, book.state_dict(), config, "my-model.pth")
    book.out_head = nn.Linear(32, 2)
    torch.save(book.state_dict(), tmp_path / "review_classifier.pth")
    nanogpt, sizes = fused_model()
    write_nanogpt(tmp_path / "out", nanogpt.state_dict(), sizes)
    mingpt, _ = fused_model(tied=False)
    torch.save(mingpt.state_dict(), tmp_path / "mingpt.pt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_of_the_page_runs(workplace):
    for program in commands():
        assert program[:3] == ["python", "-m", "modeling_gpt_scratch"]
        assert main(program[3:]) == 0
    labels = AutoConfig.from_pretrained(workplace / "converted" / "spam").id2label
    assert labels == {0: "ham", 1: "spam"}
    assert AutoConfig.from_pretrained(workplace / "converted" / "gpt2").model_type == "gpt2"
    assert len(list((workplace / "converted").iterdir())) == len(commands()) == 5


def test_every_format_has_its_row():
    rows = [line.lower() for line in PAGE.splitlines() if line.startswith("| ")]
    names = {"gpt-scratch": "of this project"}
    assert all(any(names.get(name, name) in row.replace("gpt-2", "gpt2") for row in rows) for name in FORMATS)
