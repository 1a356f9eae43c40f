"""docs/publish-your-model.md, from a bare .pth to a fine-tuned model on the Hub: all that it says to type works."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conversions import book_model
from tests.loopback_hub import LoopbackHub

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "publish-your-model.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(json|python|bash)\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_page_has_its_steps():
    languages = ["json", "python", "bash", "bash", "bash", "python", "python", "bash", "bash"]
    assert [language for language, _ in BLOCKS] == languages


@pytest.mark.slow
def test_everything_on_the_page_runs_in_its_order(tokenizer, tmp_path):
    clone, elsewhere = tmp_path / "clone", tmp_path / "elsewhere"
    for folder in (clone, elsewhere):
        folder.mkdir()
    for name in ("configuration", "hub_upload.py", "modeling_gpt_scratch", "publishing", "training"):
        (clone / name).symlink_to(ROOT / name)
    tokenizer.save_pretrained(clone / "openai-community" / "gpt2")
    fields = json.loads(BLOCKS[0][1])
    (clone / "model.json").write_text(BLOCKS[0][1])
    model, _ = book_model(**fields)
    own_names = {re.sub(r"^trf_blocks\.", "blocks.", name): tensor for name, tensor in model.state_dict().items()}
    torch.save(own_names, clone / "my-own.pth")

    printed = []
    with LoopbackHub() as hub:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= hub.environment(hub.add_token("alice"), tmp_path / "home")
        for language, block in BLOCKS[1:]:
            # A program that loads from the Hub runs where this project is not.
            place = elsewhere if "alice/my-gpt" in block and language == "python" else clone
            lines = [["python", "-P", "-c", block]] if language == "python" else map(shlex.split, block.splitlines())
            for words in lines:
                program = [sys.executable] if words[0] == "python" else [str(Path(sys.executable).with_name(words[0]))]
                finished = subprocess.run(
                    [*program, *words[1:]], cwd=place, env=environment, capture_output=True, text=True, check=False
                )
                assert finished.returncode == 0, f"{words}\n{finished.stderr}"
                printed.append(finished.stdout)
            if (elsewhere / "runs").exists():
                shutil.move(elsewhere / "runs" / "weather", clone / "runs" / "weather")
                (elsewhere / "runs").rmdir()
    assert sum("verified: " in text for text in printed) == 3
    assert f"verified: {re.search('verified: ([0-9]+) files', PAGE).group(1)} files" in "".join(printed)
    assert set(hub.repositories) == {"alice/my-gpt", "alice/my-gpt-weather", "alice/my-gpt-native"}
    assert set(hub.repositories["alice/my-gpt"].tags) == {"v1"}
