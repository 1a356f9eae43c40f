"""docs/publish-your-model.md, from a bare .pth to a fine-tuned model on the Hub: all that it says to type works."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hub_upload
from modeling_gpt_scratch.__main__ import main as convert_main
from publishing import space as publishing_space
from tests.conversion.conversions import book_model
from tests.measurements import OPENED
from training.__main__ import main as training_main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "publish-your-model.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(json|python|bash)\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_page_has_its_steps():
    languages = ["json", "python", "bash", "bash", "bash", "python", "python", "bash", "bash", "bash"]
    assert [language for language, _ in BLOCKS] == languages


def in_this_process(words):
    """Runs one of this project's commands; a process of its own would take seconds to start."""
    if words[:2] == ["python", "hub_upload.py"]:
        assert hub_upload.main(words[2:]) == 0, words
    else:
        main = {"modeling_gpt_scratch": convert_main, "training": training_main}[words[2]]
        assert main(words[3:]) == 0, words


@pytest.mark.slow
def test_everything_on_the_page_runs_in_its_order(tokenizer, tmp_path, hub, monkeypatch, capsys):
    clone, elsewhere = tmp_path / "clone", tmp_path / "elsewhere"
    for folder in (clone, elsewhere):
        folder.mkdir()
    tokenizer.save_pretrained(clone / "openai-community" / "gpt2")
    fields = json.loads(BLOCKS[0][1])
    (clone / "model.json").write_text(BLOCKS[0][1])
    model, _ = book_model(**fields)
    own_names = {re.sub(r"^trf_blocks\.", "blocks.", name): tensor for name, tensor in model.state_dict().items()}
    torch.save(own_names, clone / "my-own.pth")

    # Tried in test_space.py, where Gradio is.
    monkeypatch.setattr(hub_upload, "check_space", lambda *_: "")
    for module in (hub_upload, publishing_space):
        monkeypatch.setattr(module, "gradio_version", lambda: "6.31.0")
    monkeypatch.chdir(clone)
    environment = hub.environment(hub.add_token("alice"), tmp_path / "home")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for language, block in BLOCKS[1:]:
        if language == "bash":
            for words in map(shlex.split, block.splitlines()):
                if words[0] == "python":
                    in_this_process(words)
                else:
                    subprocess.run([Path(sys.executable).with_name(words[0]), *words[1:]], check=True)
            if "--dry-run" in block:  # it opens what is opened from the Hub later: once is enough
                monkeypatch.setattr(hub_upload, "check_release", lambda *_: [OPENED])
        elif "alice/my-gpt" not in block:
            exec(block, {})
        else:
            # A program that loads from the Hub runs where this project is not.
            subprocess.run([sys.executable, "-P", "-c", block], cwd=elsewhere, check=True)
        if (elsewhere / "runs").exists():
            shutil.move(elsewhere / "runs" / "weather", clone / "runs" / "weather")
            (elsewhere / "runs").rmdir()
    printed = capsys.readouterr().out
    assert printed.count("verified: ") == 5  # the model with a Space is published for the second time
    assert f"verified: {re.search('verified: ([0-9]+) files', PAGE).group(1)} files" in printed
    assert hub.repositories.pop("spaces/alice/my-gpt").files()["app.py"]
    assert set(hub.repositories) == {"alice/my-gpt", "alice/my-gpt-weather", "alice/my-gpt-native"}
    assert all(set(repository.tags) == {"v1"} for repository in hub.repositories.values())
