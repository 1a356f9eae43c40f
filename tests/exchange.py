"""
`python -m tests.exchange [PYTHON ...]`: a model folder goes from release to release of the library.

Every environment opens the project's folder as a stranger does (tests/stranger_check.py) and saves it again; then every
one opens what the others saved. Among them are this environment, those that are named, and two that are made for this,
with PyTorch as here: Transformers and what it brings as the index gives them today, and the last release that says
`past_key_values`.
"""

import itertools
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import torch

from modeling_gpt_scratch import GPTScratchConfig, GPTScratchForCausalLM
from publishing.environments import NEWEST, environment_with, install
from training.data.tokenizer import train_tokenizer

from .strangers import stranger_environment

CHECK = Path(__file__).with_name("stranger_check.py")
RELEASES = (NEWEST, "5.23.0")
POSITIONS = 64


def write_model(folder: Path) -> None:
    """A model of two layers and its tokenizer, as training leaves them."""
    tokenizer = train_tokenizer(iter(["The lamp is bright. Who sees the light that burns? " * 20]), 300)
    tokenizer.model_max_length = POSITIONS
    torch.manual_seed(0)
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = GPTScratchConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=POSITIONS,
        initializer_range=0.2,  # so that attention is not almost uniform
        **special,
    )
    model = GPTScratchForCausalLM(config)
    model.generation_config.max_length = POSITIONS
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def check(python: Path, folder: Path, again: Path) -> bool:
    """Whether a release opens the folder; prints what it found."""
    with tempfile.TemporaryDirectory() as workplace:
        process = subprocess.run(
            [python, "-I", CHECK, folder, again],
            env=stranger_environment(Path(workplace)),
            cwd=workplace,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    # The Trainer prints its figures among the findings.
    found = [line for line in process.stdout.splitlines() if not line.startswith("{")]
    print("\n".join(found or [f"FAILED: {python}", process.stderr]), flush=True)
    return process.returncode == 0


def main(pythons: list[str]) -> int:
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        threads = stack.enter_context(ThreadPoolExecutor(2))
        write_model(place / "written")
        environments = [Path(sys.executable), *(Path(python).absolute() for python in pythons)]
        for release in RELEASES:
            python = stack.enter_context(environment_with(release))
            install(python, "accelerate")
            environments.append(Path(python))
        copies = [place / f"saved-by-{number}" for number in range(len(environments))]
        good = list(threads.map(lambda python, copy: check(python, place / "written", copy), environments, copies))
        exchanged = [
            (python, copy, place / f"{j}-by-{i}")
            for (i, python), (j, copy) in itertools.product(enumerate(environments), enumerate(copies))
            if i != j and copy.exists()
        ]
        good += threads.map(lambda three: check(*three), exchanged)
    print(f"{sum(good)} of {len(good)} times a folder opened and did all that it promises")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
