"""
A source: a file, a folder or a repository of the Hub, which of its files hold the weights, and what is in them.

Whatever programs wrap around weights (names of wrappers, outer dictionaries, several files) is taken off here.
"""

import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors.torch import load_file

from ..model_folder import WRAPPERS, clean_state_dict
from .checks import ConversionError
from .tokenizer import TOKENIZER_FILES

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
# What is downloaded of a repository: other people's Python files stay where they are.
FILES = ["config.json", "generation_config.json", *TOKENIZER_FILES]
SAFETENSORS = ["model.safetensors", "model.safetensors.index.json", "model-*.safetensors"]
PICKLES = ["pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin"]


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a source.

    Attributes:
        path: the file that holds them, or the index of several.
        tensors: they themselves, by the names that the model itself gives them.
        model_args: what nanoGPT saves beside them, if it did.
    """

    path: Path
    tensors: dict[str, torch.Tensor]
    model_args: dict | None = None

    def read_config(self) -> dict:
        """The `config.json` beside the weights."""
        return read_json(self.path.parent / "config.json", "put the model's configuration beside its weights")


def find_source(name: str | Path, revision: str | None) -> Path:
    """The file or folder of that name here, else the repository of that name, downloaded or from the cache.

    Args:
        name: a path, or a repository as `owner/name` or `name`.
        revision: a branch, tag or commit of the repository; `None` means its main branch.

    Raises:
        `ConversionError`: a revision of a local path, or a repository that does not exist or cannot be reached.
    """
    if Path(name).exists() or not _names_a_repository(str(name)):
        if revision is not None:
            raise ConversionError(f"{name} is a local path, which has no revision: leave out --revision")
        return Path(name)
    folder = _download(str(name), revision, FILES + SAFETENSORS)
    if not any((folder / file).is_file() for file in LIBRARY_NAMES[:2]):
        folder = _download(str(name), revision, FILES + PICKLES)
    return folder


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


def load_checkpoint(path: Path) -> Checkpoint:
    """The weights in a file, without running any code from it; of an index, those of all its files.

    Raises:
        `ConversionError`: a file is missing or damaged, or holds more than tensors and plain values.
    """
    if path.suffix == ".json":
        return Checkpoint(path, _load_parts(path))
    content, model_args = _load_file(path), None
    if isinstance(content, dict) and all(isinstance(content.get(name), dict) for name in ("model", "model_args")):
        content, model_args = content["model"], content["model_args"]
    return Checkpoint(path, _tensors_of(content, path), model_args)


def read_json(path: Path, remedy: str) -> dict:
    """The object in a JSON file; `remedy` says what to do where there is no file.

    Raises:
        `ConversionError`: there is no file, or it holds something else.
    """
    if not path.is_file():
        raise ConversionError(f"{path} does not exist: {remedy}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConversionError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConversionError(f"{path} holds a {type(content).__name__}, expected an object with named fields")
    return content


def _names_a_repository(name: str) -> bool:
    return re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name, re.ASCII) is not None and not name.endswith(SUFFIXES)


def _download(name: str, revision: str | None, patterns: list[str]) -> Path:
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except Exception as error:  # the errors of the HTTP library pass through, and which library that is varies
        raise ConversionError(
            f"{name} does not exist here, and the Hub's repository of that name cannot be had"
            f"{'' if revision is None else f' at the revision {revision}'}: {error}"
        ) from error


def _load_parts(index: Path) -> dict[str, torch.Tensor]:
    names = read_json(index, "").get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise ConversionError(f"{index} holds no weight_map from tensors to files")
    tensors = {}
    for name in sorted(set(names.values())):
        path = index.parent / name
        # A plain name: an index from elsewhere must not lead to other places of the disk.
        if Path(name).name != name or not path.is_file():
            raise ConversionError(f"{index} names the file {name}, which is not beside it: download all parts")
        part = _tensors_of(_load_file(path), path)
        twice = [tensor for tensor in part if tensor in tensors]
        if twice:
            raise ConversionError(f"{path} repeats tensors of another part: {', '.join(twice[:3])}")
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


def _tensors_of(content: object, path: Path) -> dict[str, torch.Tensor]:
    """The tensors in what a file holds, alone or under the key `model_state_dict`, without the names of wrappers."""
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
    tensors = clean_state_dict(content)
    if len(tensors) != len(content):
        raise ConversionError(
            f"{path} holds {len(content)} tensors, but only {len(tensors)} names are left without those of wrappers "
            f"({', '.join(WRAPPERS)}): save the state_dict() of one model alone"
        )
    return tensors
