"""The examples of docs/fine-tuning.md run as they stand."""

import ast
import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parent.parent / "docs" / "fine-tuning.md").read_text(encoding="utf-8")
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
