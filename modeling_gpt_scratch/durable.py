"""Files and folders that are complete under their name or absent, whenever a process is killed or the power fails."""

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NEW = ".new"  # ends the name of a file that is still being written
REPLACED = "replaced"  # a folder that is giving its name to a new one


def write_durably(file: Path, text: str) -> None:
    """Replaces a file as a whole: a reader finds the old text or the new one, and so does whoever comes after a crash.

    It waits for the disk, so it is for what is written seldom.

    Raises:
        OSError: with the file's name, which an error of a full disk would lack.
    """
    temporary = file.with_name(file.name + NEW)
    try:
        temporary.write_text(text, encoding="utf-8")
        give_name(temporary, file)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(file)) from error


def give_name(path: Path, name: Path) -> None:
    """Renames a file or a folder once all of it is on the disk; the new name is there to stay when this returns."""
    flush_all(path)
    path.replace(name)
    flush(name.parent)


@contextmanager
def atomic_folder(folder: Path, replace: bool = False) -> Iterator[Path]:
    """Gives a temporary folder to fill, which takes the name `folder` when the block ends well and all is on the disk.

    Otherwise nothing is left behind; a process that is killed leaves what [`clear_leftovers`] removes. Missing parents
    are made at the end.

    Args:
        folder: it must not exist or be empty, unless it is to be replaced.
        replace: an existing folder stays as it is until the new one is complete. No system call exchanges two folders
            everywhere, so a kill between two renamings leaves neither; [`clear_leftovers`] then puts the old one back.
    """
    folder = folder.resolve()
    # On the same file system, where renaming is atomic.
    parent = next(parent for parent in folder.parents if parent.exists())
    with tempfile.TemporaryDirectory(dir=parent, prefix=f".{folder.name}-") as temporary:
        filled = Path(temporary) / folder.name  # one deeper, because the temporary folder is closed to other users
        filled.mkdir()
        yield filled
        folder.parent.mkdir(parents=True, exist_ok=True)
        flush_all(filled)
        old = Path(temporary) / REPLACED
        try:
            if replace and folder.exists():
                folder.rename(old)
            elif folder.exists():
                folder.rmdir()  # empty; not every system renames onto an existing folder
            filled.rename(folder)
        finally:
            if old.exists() and not folder.exists():
                old.rename(folder)
        flush(folder.parent)


def clear_leftovers(folder: Path) -> None:
    """Removes what [`atomic_folder`] has left of processes that were killed, none of which may be alive."""
    for temporary in folder.parent.glob(f".{glob.escape(folder.name)}-*"):
        if (temporary / REPLACED).exists() and not folder.exists():
            (temporary / REPLACED).rename(folder)
        shutil.rmtree(temporary)


def flush_all(path: Path) -> None:
    """Waits until a file, or a folder with everything in it, is on the disk."""
    for part in (*path.rglob("*"), path):
        flush(part)


def flush(path: Path) -> None:
    """Waits until a file's content, or the names in a folder, are on the disk."""
    if os.name == "nt":  # flushes only what is open for writing, which folders never are
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
