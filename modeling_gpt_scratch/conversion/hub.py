"""Repositories of the Hugging Face Hub as sources."""

import re
from pathlib import Path

from huggingface_hub import snapshot_download

from .checks import ConversionError
from .files import LIBRARY_NAMES, SUFFIXES
from .tokenizer import TOKENIZER_FILES

# Other people's Python files stay where they are.
FILES = ["config.json", "generation_config.json", *TOKENIZER_FILES]
SAFETENSORS = ["model.safetensors", "model.safetensors.index.json", "model-*.safetensors"]
PICKLES = ["pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin"]


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
