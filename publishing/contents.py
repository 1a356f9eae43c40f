"""
What a release consists of: one table. What is taken, what must be there, and what of an earlier release is stale on the
Hub all follow from it.
"""

import ast
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from training.record import METRICS, RECIPE, RECORD

LOSS_CHART = "loss.png"


def code_files(file: Path) -> tuple[str, ...]:
    """The names of a module and of those that it imports with a single dot: what `save_pretrained` copies."""
    imported = {
        name
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module
        for name in code_files(file.with_name(f"{node.module}.py"))
    }
    return tuple(sorted({file.name, *imported}))


# Where a part comes from.
Origin = Literal["model", "run", "release"]
# What cannot do without it.
Needer = Literal["every model", "own code", "own language model"]


@dataclass(frozen=True)
class Part:
    """One or several files of a release.

    Args:
        title: what it is.
        patterns: names of the files, as globs; of a part that is required, one of them.
        origin: the model folder, the folder of the run that it lies in, or the release, which writes it anew.
        required_by: the models that cannot do without it, if any.
        remedy: what to do where such a model lacks it.
    """

    title: str
    patterns: tuple[str, ...]
    origin: Origin
    required_by: Needer | None = None
    remedy: str = ""


# Found without importing the package, which would bring PyTorch along.
CODE_FILES = code_files(Path(find_spec("modeling_gpt_scratch").origin).with_name("modeling_gpt_scratch.py"))
PARTS = (
    Part("model card", ("README.md",), "release"),
    Part("configuration", ("config.json",), "model", "every model", "it is no model folder"),
    *(Part("code", (name,), "model", "own code", "everybody else needs it to open the model") for name in CODE_FILES),
    Part(
        "weights",
        ("model.safetensors", "model-?????-of-?????.safetensors"),
        "model",
        "every model",
        "save the model with save_pretrained",
    ),
    Part("index of weights in several files", ("model.safetensors.index.json",), "model"),
    Part(
        "settings for writing text",
        ("generation_config.json",),
        "model",
        "own language model",
        "save the model with save_pretrained",
    ),
    Part(
        "tokenizer",
        ("tokenizer.json", "vocab.json"),
        "model",
        "every model",
        "save the tokenizer that the model was trained with beside it",
    ),
    Part(
        "settings of the tokenizer",
        ("tokenizer_config.json",),
        "model",
        "every model",
        "save the tokenizer with save_pretrained",
    ),
    Part(
        "other files of the tokenizer",
        ("merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
        "model",
    ),
    Part("record of the run", (RECIPE, RECORD, METRICS, LOSS_CHART), "run"),
    Part("results of `--evaluation`, in the Hub's own form", (".eval_results/*.yaml",), "release"),
)

# Formats that can run code when they are opened.
PICKLES = (".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth")
# What is no part of any release, but would be taken for this model's: left by other versions, or by a `Trainer` that
# pushed by itself.
LEFTOVERS = (
    *("configuration_*.py", "modeling_*.py", "tokenization_*.py", "*_gpt_scratch.py"),
    *(f"*{suffix}" for suffix in PICKLES),
    *("pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack", "tokenizer.model"),
    *("last-checkpoint/*", "last-checkpoint/*/*"),
)


def parts_in(folder: Path, origin: Origin) -> list[Path]:
    """The files of a folder that a release takes from it."""
    patterns = [pattern for part in PARTS if part.origin == origin for pattern in part.patterns]
    return sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()})


def missing_from(folder: Path, needer: Needer) -> list[str]:
    """What such a model cannot do without, and its folder lacks: one sentence each."""
    return [
        f"{folder} has no {part.title} ({' or '.join(part.patterns)}): {part.remedy}"
        for part in PARTS
        if part.required_by == needer
        and not any(file.is_file() for glob in part.patterns for file in folder.glob(glob))
    ]


def is_stale(path: str) -> bool:
    """Whether a file that is in a repository but not in the release that goes there was a part of an earlier one."""
    patterns = [pattern for part in PARTS for pattern in part.patterns]
    return any(_matches(path, pattern) for pattern in (*patterns, *LEFTOVERS))


def _matches(path: str, pattern: str) -> bool:
    """As `Path.glob` understands patterns: none of their signs stands for a slash."""
    names, globs = path.split("/"), pattern.split("/")
    return len(names) == len(globs) and all(map(fnmatchcase, names, globs))
