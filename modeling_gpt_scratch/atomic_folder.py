"""Folders that are complete or absent."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Gives a temporary folder to fill, which takes the name `folder` when the block ends well.

    Otherwise nothing is left behind. `folder` must not exist or be empty; missing parents are made at the end.
    """
    folder = folder.resolve()
    # On the same file system, where renaming is atomic.
    parent = next(parent for parent in folder.parents if parent.exists())
    with tempfile.TemporaryDirectory(dir=parent, prefix=f".{folder.name}-") as temporary:
        filled = Path(temporary) / folder.name  # one deeper, because the temporary folder is closed to other users
        filled.mkdir()
        yield filled
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists():
            folder.rmdir()  # empty; not every system renames onto an existing folder
        filled.rename(folder)
