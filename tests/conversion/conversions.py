"""Sources to convert, written from their descriptions and run as slowly as is clear, and ways to convert them."""

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


class BookNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        centered = x - x.mean(-1, keepdim=True)
        return self.scale * centered * (centered.square().mean(-1, keepdim=True) + 1e-5).rsqrt() + self.shift


class BookAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, length = config["emb_dim"], config["context_length"]
        self.num_heads = config["n_heads"]
        self.W_query = nn.Linear(width, width, bias=config["qkv_bias"])
        self.W_key = nn.Linear(width, width, bias=config["qkv_bias"])
        self.W_value = nn.Linear(width, width, bias=config["qkv_bias"])
        self.out_proj = nn.Linear(width, width)
        self.register_buffer("mask", torch.ones(length, length).triu(1))

    def forward(self, x):
        length, head_size = x.shape[1], x.shape[2] // self.num_heads
        outputs = []
        for head in range(self.num_heads):  # one after the other: slow, and no reshaping that could be wrong
            part = slice(head * head_size, (head + 1) * head_size)
            query, key, value = self.W_query(x)[..., part], self.W_key(x)[..., part], self.W_value(x)[..., part]
            scores = torch.einsum("bqd,bkd->bqk", query, key) / head_size**0.5
            scores = scores.masked_fill(self.mask[:length, :length].bool(), -torch.inf)
            outputs.append(scores.softmax(-1) @ value)
        return self.out_proj(torch.cat(outputs, dim=-1))


class BookMLP(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))

    def forward(self, x):
        return self.layers(x)


class BookBlock(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.att = BookAttention(config)
        self.ff = BookMLP(config["emb_dim"])
        self.norm1 = BookNorm(config["emb_dim"])
        self.norm2 = BookNorm(config["emb_dim"])

    def forward(self, x):
        x = x + self.att(self.norm1(x))
        return x + self.ff(self.norm2(x))


class BookModel(nn.Module):
    """The source's architecture, without dropout."""

    def __init__(self, config):
        super().__init__()
        self.tok_emb = nn.Embedding(config["vocab_size"], config["emb_dim"])
        self.pos_emb = nn.Embedding(config["context_length"], config["emb_dim"])
        self.trf_blocks = nn.Sequential(*[BookBlock(config) for _ in range(config["n_layers"])])
        self.final_norm = BookNorm(config["emb_dim"])
        self.out_head = nn.Linear(config["emb_dim"], config["vocab_size"], bias=False)
        if config.get("tie_weights"):
            self.out_head.weight = self.tok_emb.weight

    def forward(self, input_ids):
        x = self.tok_emb(input_ids) + self.pos_emb.weight[: input_ids.shape[1]]
        return self.out_head(self.final_norm(self.trf_blocks(x)))


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


class FusedAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        width = config["n_embd"]
        self.num_heads = config["n_head"]
        self.c_attn = nn.Linear(width, 3 * width, bias=config["bias"])
        self.c_proj = nn.Linear(width, width, bias=config["bias"])

    def forward(self, x):
        (_, length, width), head_size = x.shape, x.shape[2] // self.num_heads
        hidden = torch.ones(length, length).triu(1).bool()
        outputs = []
        for head in range(self.num_heads):
            start = head * head_size
            query, key, value = (
                self.c_attn(x)[..., part * width + start : part * width + start + head_size] for part in range(3)
            )
            scores = torch.einsum("bqd,bkd->bqk", query, key) / head_size**0.5
            outputs.append(scores.masked_fill(hidden, -torch.inf).softmax(-1) @ value)
        return self.c_proj(torch.cat(outputs, dim=-1))


class FusedNorm(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config["n_embd"]))
        self.bias = nn.Parameter(torch.zeros(config["n_embd"])) if config["bias"] else None
        self.epsilon = config["epsilon"]

    def forward(self, x):
        centered = x - x.mean(-1, keepdim=True)
        scaled = self.weight * centered * (centered.square().mean(-1, keepdim=True) + self.epsilon).rsqrt()
        return scaled if self.bias is None else scaled + self.bias


class FusedMLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        inner = config["inner"] or 4 * config["n_embd"]
        self.c_fc = nn.Linear(config["n_embd"], inner, bias=config["bias"])
        self.c_proj = nn.Linear(inner, config["n_embd"], bias=config["bias"])
        self.activation = config["activation"]

    def forward(self, x):
        return self.c_proj(self.activation(self.c_fc(x)))


class FusedBlock(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.ln_1, self.attn = FusedNorm(config), FusedAttention(config)
        self.ln_2, self.mlp = FusedNorm(config), FusedMLP(config)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class FusedModel(nn.Module):
    """nanoGPT's architecture without dropout, and GPT-2's: query, key and value come from one layer."""

    def __init__(self, config):
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config["vocab_size"], config["n_embd"]),
                "wpe": nn.Embedding(config["block_size"], config["n_embd"]),
                "h": nn.ModuleList([FusedBlock(config) for _ in range(config["n_layer"])]),
                "ln_f": FusedNorm(config),
            }
        )
        self.lm_head = nn.Linear(config["n_embd"], config["vocab_size"], bias=False)
        if config["tied"]:
            self.lm_head.weight = self.transformer.wte.weight

    def forward(self, input_ids):
        x = self.transformer.wte(input_ids) + self.transformer.wpe.weight[: input_ids.shape[1]]
        for block in self.transformer.h:
            x = block(x)
        return self.lm_head(self.transformer.ln_f(x))


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
