"""What several processes or several times share: hashes say that it is what was written, locks who has it."""

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout


class _WatchedFile(io.FileIO):
    def __init__(self, file: Path, progress: Callable[[int], object]):
        super().__init__(file)
        self._progress = progress

    def readinto(self, buffer: memoryview) -> int:
        count = super().readinto(buffer)
        self._progress(count)
        return count


def sha256_of(file: Path, progress: Callable[[int], object] = lambda count: None) -> str:
    """The hash of a file's bytes, in hexadecimal; `progress` is told how many more have been read."""
    with _WatchedFile(file, progress) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def weights_sha256(model: Path) -> dict[str, str]:
    """The hash of each file of weights in a model folder."""
    return {file.name: sha256_of(file) for file in sorted(model.glob("*.safetensors"))}


def sha256_of_values(values: Any) -> str:
    """The hash of what JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@contextmanager
def locked(file: Path, busy: Callable[[], object]) -> Iterator[None]:
    """Holds a lock for the block. It is a file, which stays; its folder is made, and whoever holds it may remove that.

    The system gives the lock back when this process dies, and no worker process that outlives this one has it.

    Args:
        busy: called once if another holder is found: it raises to give up, else this waits.
    """
    lock = FileLock(file, fallback_to_soft=False)  # a soft one would outlive a killed process
    is_told = False
    while not lock.is_locked:
        try:
            lock.acquire(blocking=is_told)  # makes the folder
        except Timeout:
            busy()
            is_told = True
        except FileNotFoundError:  # a holder has just removed the folder; or nobody can make it, as this then says
            file.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        lock.release()
