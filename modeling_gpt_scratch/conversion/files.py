"""What a source consists of on disk: which files hold its weights, and what is in them."""

import json
import zipfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from .checks import ConversionError

SUFFIXES = (".pth", ".pt", ".safetensors")
# How the Transformers library names the weights beside a config.json; the first that exists is read.
LIBRARY_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# What programs leave beside the weights to go on training, as patterns.
TRAINING_STATE = ("optimizer.*", "scheduler.*", "scaler.*", "rng_state*.*", "training_args.*")


def find_checkpoint(source: Path) -> Path:
    """The file with the weights, or the index of several files, that a path stands for.

    Raises:
        `ConversionError`: there is none, or it is not clear which of several is meant.
    """
    if source.is_dir():
        if (source / "config.json").is_file():
            for name in LIBRARY_NAMES:
                if (source / name).is_file():
                    return source / name
        found = sorted(
            path
            for path in source.iterdir()
            if path.suffix in SUFFIXES and not any(path.match(pattern) for pattern in TRAINING_STATE)
        )
        if len(found) != 1:
            raise ConversionError(
                f"{source} holds {len(found)} checkpoints ({', '.join(path.name for path in found) or 'none'}), "
                f"expected one file that ends in {', '.join(SUFFIXES)}, or config.json and {', '.join(LIBRARY_NAMES)}: "
                "name the file itself"
            )
        return found[0]
    if not source.is_file():
        raise ConversionError(f"{source} does not exist: name a checkpoint or the folder that holds it")
    if source.suffix not in SUFFIXES:
        raise ConversionError(
            f"{source} is no checkpoint: expected a file that ends in {', '.join(SUFFIXES)}, or a folder"
        )
    return source


def read_json(path: Path, remedy: str) -> dict:
    """The object in a JSON file; `remedy` says what to do where there is no file."""
    if not path.is_file():
        raise ConversionError(f"{path} does not exist: {remedy}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConversionError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConversionError(f"{path} holds a {type(content).__name__}, expected an object with named fields")
    return content


def load_checkpoint(path: Path) -> object:
    """What a file of weights holds, without running any code from it; of an index, the tensors of all its files.

    Raises:
        `ConversionError`: a file is missing or damaged, or holds more than tensors and plain values.
    """
    if path.suffix != ".json":
        return _load_file(path)
    names = read_json(path, "").get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise ConversionError(f"{path} holds no weight_map from tensors to files")
    tensors = {}
    for name in sorted(set(names.values())):
        # A plain name: an index from elsewhere must not lead to other places of the disk.
        if Path(name).name != name or not (path.parent / name).is_file():
            raise ConversionError(f"{path} names the file {name}, which is not beside it: download all parts")
        part = state_dict_of(_load_file(path.parent / name), path.parent / name)
        twice = [tensor for tensor in part if tensor in tensors]
        if twice:
            raise ConversionError(f"{path.parent / name} repeats tensors of another part: {', '.join(twice[:3])}")
        tensors |= part
    return tensors


def _load_file(path: Path) -> object:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Mapped where possible, not read into memory: files of torch.save since 1.6, which are zip archives.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError:
        raise
    except Exception as error:  # the documentation of pickle: a damaged file may raise other exceptions, of any kind
        # torch hides the cause behind advice to load the file without the protection; the first sentence says it.
        reason = str(error.__context__ or error).split(". ")[0].rstrip(".")
        raise ConversionError(
            f"{path} cannot be read ({type(error).__name__}: {reason}): it is damaged, or holds more than tensors, "
            "which could run code while loading. Save the model's state_dict() alone"
        ) from error


def state_dict_of(content: object, path: Path) -> dict[str, torch.Tensor]:
    """The tensors by name in what a checkpoint holds, alone or under the key `model_state_dict`.

    Args:
        path: where the content comes from, for the message.

    Raises:
        `ConversionError`: there is something else, or more than tensors.
    """
    if isinstance(content, dict):
        content = content.get("model_state_dict", content)
    if not isinstance(content, dict):
        raise ConversionError(f"{path} holds a {type(content).__name__}, expected the model's state_dict()")
    strangers = [
        str(name) for name, value in content.items() if not (isinstance(name, str) and isinstance(value, torch.Tensor))
    ]
    if strangers:
        raise ConversionError(
            f"{path} holds entries that are no tensors ({', '.join(strangers[:3])}; {len(strangers)} in all), expected "
            "the model's state_dict() or one under the key model_state_dict"
        )
    return content
