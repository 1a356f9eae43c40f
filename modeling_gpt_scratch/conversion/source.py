"""
A source: a file, a folder or a repository of the Hub, which of its files hold the weights, and what is in them.

Whatever programs wrap around weights (names of wrappers, outer dictionaries, several files) is taken off here.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..model_folder import WRAPPERS, clean_state_dict
from .checks import ConversionError
from .openai import refuse_openai_folder
from .tokenizer import TOKENIZER_FILES
from .unreadable import CONTAINERS, SIZES, damaged, load_pickle, saved_again, saved_where_it_was_made

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")
# How the Transformers library names the weights beside a config.json; the first that exists is read.
LIBRARY_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# What programs leave beside the weights to go on training, as patterns; the last two are nanoGPT's tokens.
TRAINING_STATE = ("optimizer.*", "scheduler.*", "scaler.*", "rng_state*.*", "training_args.*", "train.bin", "val.bin")
# What is downloaded of a repository: other people's Python files stay where they are.
FILES = ["config.json", "generation_config.json", *TOKENIZER_FILES]
SAFETENSORS = ["model.safetensors", "model.safetensors.index.json", "model-*.safetensors"]
PICKLES = ["pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin"]
DEEPEST = 8  # of containers in a file; one may hold itself


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a source.

    Attributes:
        path: the file that holds them, or the index of several.
        tensors: they themselves, by the names that the model itself gives them.
        model_args: the sizes that nanoGPT saves beside them, or one of its relatives as `config`, if it did.
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
    if is_local(name, revision):
        if revision is not None:
            raise ConversionError(f"{name} is a local path, which has no revision: leave out --revision")
        return Path(name)
    folder = _download(str(name), revision, FILES + SAFETENSORS)
    if not any((folder / file).is_file() for file in LIBRARY_NAMES[:2]):
        folder = _download(str(name), revision, FILES + PICKLES)
    return folder


def is_local(name: str | Path, revision: str | None) -> bool:
    """Whether a name is that of a path, though nothing need be there, and not of a repository of the Hub."""
    if Path(name).exists() or not _names_a_repository(str(name)):
        return True
    # A folder that is here is no owner on the Hub, but where somebody names a revision.
    return revision is None and "/" in str(name) and Path(name).parent.is_dir()


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
        if not found:
            refuse_openai_folder(source)
        if len(found) != 1:
            raise ConversionError(
                f"{source} holds {len(found)} checkpoints ({', '.join(path.name for path in found) or 'none'}), "
                f"expected one file that ends in {', '.join(SUFFIXES)}, or config.json and {', '.join(LIBRARY_NAMES)}: "
                "name the file itself"
            )
        return found[0]
    if source.name.startswith("model.ckpt") and not (source.is_file() and source.suffix in SUFFIXES):
        refuse_openai_folder(source.parent)
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
    content, model_args = _unwrap(_load_file(path), path)
    return Checkpoint(path, _tensors_of(content, path), model_args)


def parts_of(index: Path) -> tuple[Path, ...]:
    """The files with the weights that an index names.

    Raises:
        `ConversionError`: it names none, or one that is not beside it.
    """
    names = read_json(index, "").get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise ConversionError(f"{index} holds no weight_map from tensors to files")
    names = sorted(set(names.values()))
    for name in names:
        # A plain name: an index from elsewhere must not lead to other places of the disk.
        if Path(name).name != name or not (index.parent / name).is_file():
            raise ConversionError(f"{index} names the file {name}, which is not beside it: download all parts")
    return tuple(index.parent / name for name in names)


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
    tensors = {}
    for path in parts_of(index):
        part = _tensors_of(_load_file(path), path)
        twice = [tensor for tensor in part if tensor in tensors]
        if twice:
            raise ConversionError(f"{path} repeats tensors of another part: {', '.join(twice[:3])}")
        tensors |= part
    return tensors


def _load_file(path: Path) -> object:
    try:
        return load_file(path) if path.suffix == ".safetensors" else load_pickle(path)
    except SafetensorError as error:
        raise damaged(path, error, str(error)) from error


def _unwrap(content: object, path: Path) -> tuple[object, dict | None]:
    """What is inside of the dictionaries that training loops put around weights, and the sizes that lie among them."""
    model_args = None
    while isinstance(content, dict):
        if model_args is None:
            found = (content.get(name) for name in SIZES)
            model_args = next((sizes for sizes in found if isinstance(sizes, dict) and "n_head" in sizes), None)
        holding = [name for name in CONTAINERS if _holds_tensors(content.get(name))]
        if not holding:
            break
        if len(holding) > 1:
            raise ConversionError(
                f"{path} holds weights under {' and '.join(holding)}, and only you know which are meant. This line "
                f"keeps the first alone: {saved_again(path, holding[0])}"
            )
        content = content[holding[0]]
    if model_args is not None:  # numpy's numbers as Python's
        model_args = {
            name: value.item() if isinstance(value, np.generic) else value for name, value in model_args.items()
        }
    return content, model_args


def _holds_tensors(content: object, depth: int = DEEPEST) -> bool:
    return (
        isinstance(content, dict)
        and depth > 0
        and any(isinstance(value, torch.Tensor) or _holds_tensors(value, depth - 1) for value in content.values())
    )


def _tensors_of(content: object, path: Path) -> dict[str, torch.Tensor]:
    """The tensors in a state dict, without the names of wrappers."""
    if not isinstance(content, dict):
        raise ConversionError(
            f"{path} holds a {type(content).__name__}, expected the model's state_dict(). "
            f"{saved_where_it_was_made(path)}"
        )
    strangers = [
        str(name) for name, value in content.items() if not (isinstance(name, str) and isinstance(value, torch.Tensor))
    ]
    if strangers:
        inside = [name for name, value in content.items() if isinstance(name, str) and _holds_tensors(value)]
        remedy = f"This line keeps what is under {inside[0]}: {saved_again(path, inside[0])}" if inside else None
        raise ConversionError(
            f"{path} holds entries that are no tensors ({', '.join(strangers[:3])}; {len(strangers)} in all), expected "
            f"the model's state_dict() or one under the key {' or '.join(CONTAINERS)}. "
            f"{remedy or saved_where_it_was_made(path)}"
        )
    packed = [name for name, value in content.items() if not _is_plain(value)]
    if packed:
        found = content[packed[0]]
        raise ConversionError(
            f"{path} holds tensors that are no plain numbers ({packed[0]} is {found.dtype}, {found.layout} on "
            f"{found.device}; {len(packed)} in all): save them dense, on the CPU and in torch.float32. "
            f"{saved_where_it_was_made(path)}"
        )
    tensors = clean_state_dict(content)
    if len(tensors) != len(content):
        raise ConversionError(
            f"{path} holds {len(content)} tensors, but only {len(tensors)} names are left without those of wrappers "
            f"({', '.join(WRAPPERS)}): save the state_dict() of one model alone"
        )
    return tensors


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether it is dense, has contents, and is of no type that only counts beside a scale, such as float8."""
    is_scaled = tensor.is_floating_point() and tensor.element_size() < 2
    return tensor.layout == torch.strided and not tensor.is_meta and not is_scaled
