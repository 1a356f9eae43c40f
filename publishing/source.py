"""What a model folder must be before a release is made of it: looked at as files, with none of its code run."""

import ast
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

import modeling_gpt_scratch
from training.record import STAGING

from .contents import CODE_FILES, PICKLES, missing_from, parts_in

# The class that a model is -> the Auto class that opens it, and its task on the Hub.
TASKS = {
    "GPTScratchForCausalLM": ("AutoModelForCausalLM", "text-generation"),
    "GPTScratchForSequenceClassification": ("AutoModelForSequenceClassification", "text-classification"),
    "GPTScratchForTokenClassification": ("AutoModelForTokenClassification", "token-classification"),
}
NATIVE_CLASS = "GPT2LMHeadModel"
# What every `Trainer` leaves beside its models.
HARMLESS_AT_HOME = "training_args.bin"
CHECKPOINT_FILES = ("optimizer.pt", "optimizer.bin", "scheduler.pt")
ALLOWED_IMPORTS = {"torch", "transformers", "huggingface_hub"}


def read_config(folder: Path) -> dict[str, Any]:
    """config.json.

    Raises:
        ValueError: it is no JSON, or holds no mapping.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError("it holds no mapping")
    return config


def problems_of_source(folder: Path, native: bool) -> list[str]:
    """Why no release can be made of a model folder; empty where one can.

    Args:
        native: whether it is to be published as the library's own GPT-2.
    """
    if not folder.is_dir():
        return [f"{folder} is no folder" if folder.exists() else f"{folder} does not exist"]
    if STAGING in folder.resolve().parts:
        return [f"{folder} is a checkpoint that is still being saved, or was given up"]
    leftovers = [name for name in CHECKPOINT_FILES if (folder / name).exists()]
    if leftovers:
        return [
            f"{folder} holds {leftovers[0]}, so it is a checkpoint to go on training from: publish the model folder "
            "that a finished run writes, or save the model elsewhere with save_pretrained"
        ]
    problems = missing_from(folder, "every model")
    if (folder / "README.md").is_symlink():
        problems.append("README.md is a symbolic link, to what may not be meant for others: put the file itself there")
    problems += [
        f"{file.name} can run code when it is opened: convert it to safetensors or take it out"
        for file in sorted(folder.iterdir())
        if file.suffix in PICKLES and file.name != HARMLESS_AT_HOME
    ]
    problems += _problems_of_weights(folder)
    if (folder / "tokenizer_config.json").is_file():
        problems += _problems_of_tokenizer_config(folder)
    if (folder / "config.json").is_file():
        problems += _problems_of_config(folder, native)
    return problems


def _problems_of_weights(folder: Path) -> list[str]:
    problems = []
    for file in (file for file in parts_in(folder, "model") if file.suffix == ".safetensors"):
        try:
            with safe_open(file, framework="pt") as tensors:
                names = tensors.keys()
                damaged = [name for name in names if not torch.isfinite(tensors.get_tensor(name)).all()]
        except (SafetensorError, OSError) as error:
            problems.append(f"{file.name} cannot be read: {error}")
            continue
        if damaged:
            more = f" and {len(damaged) - 3} more" if len(damaged) > 3 else ""
            problems.append(
                f"{file.name} holds NaN or infinity in {', '.join(damaged[:3])}{more}: take an earlier checkpoint"
            )
    return problems


def _problems_of_tokenizer_config(folder: Path) -> list[str]:
    try:
        fields = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        return [f"tokenizer_config.json is not JSON: {error}"]
    if isinstance(fields, dict) and Path(str(fields.get("name_or_path", ""))).is_absolute():
        return ["tokenizer_config.json has an absolute path as name_or_path: take it out"]
    if isinstance(fields, dict) and "auto_map" in fields:
        return ["tokenizer_config.json has an auto_map: a tokenizer with code of its own is not published"]
    return []


def _problems_of_config(folder: Path, native: bool) -> list[str]:
    try:
        config = read_config(folder)
    except ValueError as error:
        return [f"config.json cannot be read: {error}"]
    if "custom_pipelines" in config:
        return ["config.json has custom_pipelines, which name code that is not published: take it out"]
    if Path(str(config.get("_name_or_path", ""))).is_absolute():
        return ["config.json has an absolute path as _name_or_path: take it out"]
    architecture = (config.get("architectures") or [None])[0]
    if config.get("model_type") == "gpt2" and architecture == NATIVE_CLASS and "auto_map" not in config:
        return [] if native else [f"{folder} is the library's own GPT-2, which needs no code: add --native"]
    if config.get("model_type") != modeling_gpt_scratch.GPTScratchConfig.model_type:
        return [
            f"config.json says model_type {config.get('model_type')!r}: only models of this project are published; "
            "`python -m modeling_gpt_scratch convert` makes one of a GPT-2, nanoGPT, book or blog checkpoint"
        ]
    problems = []
    if architecture not in TASKS:
        problems.append(
            f"config.json says architectures {config.get('architectures')}, but a published model is one of "
            f"{', '.join(TASKS)}"
        )
    elif native and architecture != "GPTScratchForCausalLM":
        problems.append(f"--native is for language models, but this is a {architecture}")
    elif TASKS[architecture][1] == "text-generation":
        problems += missing_from(folder, "own language model")
    return problems + _problems_of_code(folder, config)


def _problems_of_code(folder: Path, config: dict[str, Any]) -> list[str]:
    problems = missing_from(folder, "own code")
    if config.get("auto_map") != modeling_gpt_scratch.GPTScratchConfig().auto_map:
        problems.append(
            f"config.json's auto_map is {config.get('auto_map')}, not this project's: open the model with this project "
            "and save it again"
        )
    for file in (folder / name for name in CODE_FILES if (folder / name).is_file()):
        try:
            module = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError) as error:
            problems.append(f"{file.name} is not Python code: {error}")
            continue
        problems += _problems_of_imports(file, module) or _problems_of_origin(file)
    return problems


def _problems_of_imports(file: Path, module: ast.Module) -> list[str]:
    """Published code may import torch, transformers, huggingface_hub, the standard library, and its sibling file."""
    problems = []
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level == 1 and node.module and (file.parent / f"{node.module}.py").is_file():
                continue
            names = ["." * node.level + (node.module or "")]
        else:
            continue
        problems += [
            f"{file.name}, line {node.lineno}: imports {name}, which users may not have"
            for name in names
            if name.split(".")[0] not in ALLOWED_IMPORTS | sys.stdlib_module_names
        ]
    return problems


def _problems_of_origin(file: Path) -> list[str]:
    """Whoever opens the model runs this file, so it must be the one that this clone's tests have seen."""
    own = Path(modeling_gpt_scratch.__file__).with_name(file.name)
    if own.is_file() and own.read_bytes() == file.read_bytes():
        return []
    return [
        f"{file.name} is not this project's file, and nobody else's code is published: if another version of this "
        "project wrote the folder, open the model with this one and save it again"
    ]
