"""Sources to convert, and ways to convert them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast

from modeling_gpt_scratch.__main__ import main
from tests.conversion.architectures import BookModel, FusedModel

# Two fp32 passes on CPU that add up in different orders differ by about 1e-6 at these sizes.
TOLERANCE = 1e-5
BOOK_CONFIG = {
    "vocab_size": 61,
    "context_length": 16,
    "emb_dim": 32,
    "n_heads": 4,
    "n_layers": 2,
    "drop_rate": 0.1,
    "qkv_bias": False,
}


def book_model(**changes) -> tuple[BookModel, dict]:
    config = BOOK_CONFIG | changes
    torch.manual_seed(0)
    model = BookModel(config)
    with torch.no_grad():
        for parameter in model.parameters():  # norms too: with scale 1 and shift 0 a mix-up would not show
            parameter.add_(torch.randn_like(parameter) * 0.2)
        for embedding in (model.tok_emb, model.pos_emb):
            embedding.weight.mul_(0.3)  # keeps a tied model's logits in the size that TOLERANCE is made for
    return model.eval(), config


def write_source(folder: Path, state_dict: object, config: dict | None, name: str = "model.pth") -> Path:
    folder.mkdir(exist_ok=True)
    if name.endswith(".safetensors"):
        save_file({key: tensor.clone() for key, tensor in state_dict.items()}, folder / name)
    else:
        torch.save(state_dict, folder / name)
    if config is not None:
        (folder / "model.json").write_text(json.dumps(config))
    return folder / name


def refusal(capsys, tmp_path: Path, source: Path | str, *options: str, output: str = "output") -> str:
    """Converts what must be refused; returns the message after checking that it is all that is left behind."""
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()  # what the test itself has printed so far
    assert main(["convert", str(source), str(tmp_path / output), *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
    return captured.err


def write_tokenizer(folder: Path, num_words: int) -> Path:
    vocabulary = {"<pad>": 0, "<bos>": 1, "<eos>": 2} | {f"w{i}": i + 3 for i in range(num_words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<eos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    ).save_pretrained(folder)
    return folder


class RunsCommand:
    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def assert_refused_without_running(capsys, tmp_path: Path, source: Path) -> None:
    """Converts a pickle with a [`RunsCommand`] in it, which must neither run nor leave anything behind."""
    assert ".system" in refusal(capsys, tmp_path, source)  # what the file wanted to call


NANOGPT_CONFIG = {
    "n_layer": 2,
    "n_head": 4,
    "n_embd": 32,
    "block_size": 16,
    "bias": True,
    "vocab_size": 61,
    "dropout": 0.1,
}


def fused_model(*, tied=True, activation=None, inner=None, epsilon=1e-5, **changes) -> tuple[FusedModel, dict]:
    """The model, and the sizes in nanoGPT's fields."""
    config = NANOGPT_CONFIG | changes
    rest = {"tied": tied, "activation": activation or nn.GELU(), "inner": inner, "epsilon": epsilon}
    torch.manual_seed(0)
    model = FusedModel(config | rest)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        for embedding in (model.transformer.wte, model.transformer.wpe):
            embedding.weight.mul_(0.3)
    return model.eval(), config


def write_nanogpt(folder: Path, weights: dict, sizes: dict, **entries) -> Path:
    """A ckpt.pt as nanoGPT writes it."""
    folder.mkdir(exist_ok=True)
    checkpoint = {
        "model": weights,
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 6e-4, "betas": (0.9, 0.95)}]},
        "model_args": sizes,
        "iter_num": 3,
        "best_val_loss": torch.tensor(4.2),
        "config": {"out_dir": "out", "compile": True, "learning_rate": 6e-4},
    }
    torch.save(checkpoint | entries, folder / "ckpt.pt")
    return folder / "ckpt.pt"


GPT2_CONFIG = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "activation_function": "gelu_new",
    "attn_pdrop": 0.1,
    "embd_pdrop": 0.2,
    "resid_pdrop": 0.3,
    "bos_token_id": 2,
    "eos_token_id": 2,
    "initializer_range": 0.03,
    "layer_norm_epsilon": 1e-5,
    "n_ctx": 16,
    "n_embd": 32,
    "n_head": 4,
    "n_layer": 2,
    "n_positions": 16,
    "vocab_size": 61,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
}


def gpt2_model(*, prefix="transformer.", **changes) -> tuple[FusedModel, dict, dict]:
    """The model, its tensors as GPT-2 stores them (a tied head left out), and its config.json."""
    config = GPT2_CONFIG | {"tie_word_embeddings": changes.get("tied", True)}
    model, _ = fused_model(**{"activation": nn.GELU("tanh")} | changes)
    weights = {}
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight":
            name = prefix + name.removeprefix("transformer.")
        elif config["tie_word_embeddings"]:
            continue
        is_matrix = name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))
        weights[name] = tensor.T.contiguous() if is_matrix else tensor
    return model, weights, config


def write_gpt2(folder: Path, weights: dict, config: dict, name: str = "model.safetensors") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if name.endswith(".bin"):
        torch.save(weights, folder / name)
    else:
        save_file(weights, folder / name)
    return folder


def write_blog(folder: Path, weights: dict, book_config: dict, **fields) -> Path:
    """A repository of the blog's wrapper, with the code that it would run."""
    config = {"model_type": "gpjtgpt2", "cfg": book_config, "auto_map": {"AutoConfig": "configuration_x.Config"}}
    write_gpt2(folder, {f"model.{name}": tensor.clone() for name, tensor in weights.items()}, config | fields)
    (folder / "configuration_x.py").write_text("raise SystemExit('this code must not run')")
    return folder


def random_ids(vocab_size: int = 61, length: int = 16) -> torch.LongTensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(vocab_size, (3, length), generator=generator)


def assert_same_logits(model, source) -> None:
    """Compares a converted model with its source on all positions."""
    with torch.no_grad():
        torch.testing.assert_close(model(random_ids()).logits, source(random_ids()), atol=TOLERANCE, rtol=0)


def run_program(arguments: list[str], **environment: str) -> subprocess.CompletedProcess:
    """The command line in a process of its own, which leaves no bytecode behind."""
    finished = subprocess.run(
        [sys.executable, "-m", "modeling_gpt_scratch", *arguments],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    # Where torchao is installed, importing it prints which of its libraries do not fit the machine.
    _, error, rest = finished.stderr.partition("error: ")
    finished.stderr = error + rest or finished.stderr
    return finished


SIZES = {"vocab_size": 61, "max_position_embeddings": 16}


def assert_same_weights(first, second) -> None:
    """Compares bit by bit, in the names of one of them; biases that only one has are zero."""
    first, second = (dict(model.state_dict()) for model in (first, second))
    for name in first.keys() | second.keys():
        if name in first and name in second:
            assert torch.equal(first[name], second[name]), name
        else:
            assert name.endswith(".bias")
            assert not (first | second)[name].any(), name
