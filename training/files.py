"""Hashes of files: what says that a file holds what was written."""

import hashlib
from collections.abc import Callable
from pathlib import Path

HASHED_TOGETHER = 2**20  # bytes


def sha256_of(file: Path, progress: Callable[[int], object] | None = None) -> str:
    """The hash of a file's bytes, in hexadecimal; `progress` is told how many more have been read."""
    sha256 = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := stream.read(HASHED_TOGETHER):
            sha256.update(piece)
            if progress is not None:
                progress(len(piece))
    return sha256.hexdigest()


def weights_sha256(model: Path) -> dict[str, str]:
    """The hash of each file of weights in a model folder."""
    return {file.name: sha256_of(file) for file in sorted(model.glob("*.safetensors"))}
