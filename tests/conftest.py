"""What every test shares: no network, a seed, a model of two layers and a tokenizer trained on the spot."""

import os
import shutil
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start: several run at a time

import pytest
import torch
from huggingface_hub import constants
from transformers import PreTrainedTokenizerFast

from modeling_gpt_scratch import GPTScratchConfig, GPTScratchForCausalLM
from tests.publishing.loopback_hub import LoopbackHub
from training.__main__ import main
from training.data.tokenizer import train_tokenizer

TEXT = """\
It was a bright morning, and the old lighthouse keeper climbed the stairs as he had done every morning for forty years.
"Seven ships," he said to the gulls, "and not one of them carries a letter." The gulls, being gulls, said nothing.
He wiped the great lens with a cloth, wound the clock, and wrote the weather in the book: wind from the west, fair.
By noon the wind had turned. Clouds came over the hills, the sea went grey, and the seven ships were three, then none.
When night fell he lit the lamp. What else is there to do? A light does not ask who sees it; it only has to burn.
Towards morning somebody knocked. "Your lamp," said a voice in the dark, "brought us home; and here is your letter."
"""


@pytest.fixture(autouse=True)
def _seed_and_threads():
    # With models this small, handing work to a second thread costs more than the work.
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_config():
    """Builds a small configuration; any field can be overridden by name."""

    def build(**overrides) -> GPTScratchConfig:
        sizes = {
            "vocab_size": 128,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
        }
        return GPTScratchConfig(**sizes | overrides)

    return build


@pytest.fixture(scope="session")
def tiny_model(tiny_config):
    """Builds a small model in eval mode, the same one for the same fields.

    Its weights are not the initial ones: those hide errors, since zero biases and unit norms change nothing and
    attention over almost equal scores is almost uniform. Initial weights come from `GPTScratchForCausalLM(config)`.
    """

    def build(**overrides) -> GPTScratchForCausalLM:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = GPTScratchForCausalLM(tiny_config(**overrides)).eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter += 0.2 * torch.randn_like(parameter)
        return model

    return build


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE of 400 tokens; <|endoftext|> is 0 (bos and eos), <|pad|> is 1; pads on the left for prompts."""
    trained = train_tokenizer(iter([TEXT]), 400)
    trained.model_max_length = 64
    return trained


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> Path:
    """The folder of a short pretraining run; its model is in `model`. For reading only."""
    place = tmp_path_factory.mktemp("finished")
    (place / "lighthouse.txt").write_text(TEXT * 20)
    sizes = "--vocab_size 400 --hidden_size 32 --num_hidden_layers 2 --max_position_embeddings 64"
    steps = "--tokens_per_step 256 --per_device_train_batch_size 2 --max_steps 4 --warmup_steps 1 --eval_on_start true"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)  # so that the run's record has relative paths
        paths = "--corpus lighthouse.txt --output_dir run --disable_tqdm true"
        assert main(["pretrain", "--model", "demo", *f"{sizes} {steps} {paths}".split()]) == 0
    return place / "run"


@pytest.fixture
def run(finished_run, tmp_path) -> Path:
    """A copy of `finished_run` that a test may damage."""
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.fixture
def hub(monkeypatch):
    """A Hub on this machine, which the client in this process may talk to, without Xet: that keeps a cache at home."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with LoopbackHub() as hub:
        yield hub
