"""Files and folders that are complete under their name or absent, whenever a process is killed or the power fails."""

import os
from pathlib import Path

NEW = ".new"  # ends the name of a file that is still being written


def write_durably(file: Path, text: str) -> None:
    """Replaces a file as a whole: a reader finds the old text or the new one, and so does whoever comes after a crash.

    It waits for the disk, so it is for what is written seldom.
    """
    temporary = file.with_name(file.name + NEW)
    temporary.write_text(text, encoding="utf-8")
    give_name(temporary, file)


def give_name(path: Path, name: Path) -> None:
    """Renames a file or a folder once all of it is on the disk; the new name is there to stay when this returns."""
    for part in (*path.rglob("*"), path):
        flush(part)
    path.replace(name)
    flush(name.parent)


def flush(path: Path) -> None:
    """Waits until a file's content, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
