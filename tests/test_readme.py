"""What the README tells people to type works."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from modeling_gpt_scratch.__main__ import main as convert
from tests.conversion.conversions import book_model, fused_model, gpt2_model, write_gpt2, write_nanogpt, write_source
from tests.publishing.loopback_hub import LoopbackHub
from training.__main__ import main as training

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
# As little as shows that a run works.
SHORT_RUN = (
    "--max_steps 2 --tokens_per_step 256 --per_device_train_batch_size 2 --per_device_eval_batch_size 128 "
    "--vocab_size 300 --hidden_size 32 --num_hidden_layers 1 --max_position_embeddings 128 "
    "--warmup_steps 0 --decay_steps 1"
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    return [line.split("  #")[0].strip() for block in blocks("bash") for line in block.splitlines()]


# The programs that are called here, which spares starting each; that `python -m` finds them is seen elsewhere.
PROGRAMS = {"training": training, "modeling_gpt_scratch": convert}


@pytest.fixture(scope="module")
def clone(tmp_path_factory, tokenizer) -> Path:
    """A clone to work in, with the user's own files that the README speaks of."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("Makefile", "configuration", "hub_upload.py", "modeling_gpt_scratch", "publishing", "training"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "my-texts").mkdir()
    (folder / "my-texts" / "a.txt").write_text("Once upon a time there was a tokenizer that ate words.\n" * 200)
    tokenizer.save_pretrained(folder / "openai-community" / "gpt2")
    book, config = book_model(vocab_size=400)
    write_source(folder, book.state_dict(), config, "my-model.pth")
    nanogpt, sizes = fused_model(vocab_size=400)
    write_nanogpt(folder / "out", nanogpt.state_dict(), sizes)
    _, weights, config = gpt2_model(vocab_size=400)
    write_gpt2(folder / "openai-community" / "gpt2", weights, config | {"vocab_size": 400})
    return folder


def run(words: list[str], clone: Path, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    finished = subprocess.run(
        [sys.executable, *words],
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    return finished.stdout


@pytest.fixture
def type_in(clone, monkeypatch, capsys):
    """Does a line of the README in the clone, and returns what it prints."""
    monkeypatch.chdir(clone)

    def run_line(line: str, **variables: str) -> str:
        words = shlex.split(line)[1:]
        if words[0] != "-m":
            return run(words, clone, **variables)
        short = shlex.split(SHORT_RUN) if words[2] == "pretrain" else []
        capsys.readouterr()
        assert PROGRAMS[words[1]]([*words[2:], *short]) == 0
        return capsys.readouterr().out

    return run_line


@pytest.mark.slow
def test_every_command_of_the_readme_runs_and_every_snippet_after_it(clone, type_in):
    make = subprocess.run(["make", "-n", "demo"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    demo = [line for line in make.splitlines() if "-m training" in line]
    assert len(demo) == 2
    assert "nats per token" in type_in(demo[0])
    assert type_in(demo[1]).startswith("def ")

    others = [line for line in commands() if "make" not in line]
    assert [line.split()[0] for line in others] == ["python"] * 9
    with LoopbackHub() as hub:
        logged_in = hub.environment(hub.add_token("alice"), clone / "home")
        for line in others:
            assert type_in(line, **logged_in)
    assert set(hub.repositories["alice/demo"].tags) == {"v1"}

    snippets = blocks("python")
    assert len(snippets) == 2
    for snippet in snippets:
        # As on another machine: the clone's own package cannot be imported.
        shown = run(["-P", "-c", snippet], clone)
        assert ("import os" in shown) or ("def main(" in shown)


def test_the_two_commands_exist():
    makefile = (ROOT / "Makefile").read_text()
    made = {line.split()[-1] for line in commands() if "make " in line}
    assert made == {"demo", "test"}
    assert all(f"\n{target}:" in makefile for target in made)


def test_every_file_that_the_readme_names_exists():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    places = re.findall(r"^\| `([^`]+)` \|", README, flags=re.MULTILINE)
    assert len(links) >= 3
    assert len(places) == 6
    assert [name for name in links + places if not (ROOT / name).exists()] == []
