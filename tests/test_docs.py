"""The examples of docs/fine-tuning.md run as they stand, and the commands of docs/recipes.md."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from modeling_gpt_scratch.conversion import to_gpt2
from tests.conftest import TEXT
from training.__main__ import main
from training.record import read_record

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "fine-tuning.md").read_text(encoding="utf-8")
EXAMPLES = {
    section.splitlines()[0]: code.group(1)
    for section in PAGE.split("\n## ")[1:]
    if (code := re.search(r"```python\n(.*?)```", section, flags=re.DOTALL))
}


@pytest.mark.slow
@pytest.mark.parametrize("title", EXAMPLES)
def test_example_runs(title, tiny_model, tokenizer, tmp_path, monkeypatch, capsys):
    for node in ast.walk(ast.parse(EXAMPLES[title])):
        if isinstance(node, ast.ImportFrom):
            pytest.importorskip(node.module.split(".")[0])
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    tiny_model(vocab_size=len(tokenizer), **special).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    exec(EXAMPLES[title], {"__name__": "example"})
    if title == "Classification":
        assert re.search("'label': '(ham|spam)'", capsys.readouterr().out)


def test_the_page_has_the_examples():
    assert len(EXAMPLES) == 7


def test_the_commands_to_continue_pretraining_run(tiny_model, tokenizer, tmp_path, monkeypatch):
    page = (DOCS / "recipes.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"## Continue pretraining.*?```bash\n(.*?)```", page, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    for saved in (to_gpt2(tiny_model(vocab_size=len(tokenizer))), tokenizer):
        saved.save_pretrained("openai-community/gpt2")
    for name in ("my-texts", "my-letters"):
        Path(name).mkdir()
        Path(name, "a.txt").write_text(TEXT * 20)
    smaller = {"8192": "512", "16384": "1024", "500": "2", "2048": "128"}
    for line in block.splitlines():
        words = [smaller.get(word, word) for word in shlex.split(line)]
        assert main([*words[3:], "--disable_tqdm", "true"]) == 0
    parent = read_record(Path("runs/letters"))["parent"]
    assert (parent["name"], parent["parent"]["name"]) == ("runs/poems/model", "openai-community/gpt2")
