"""
Which files a folder or a pattern means: in subfolders and behind links too, each once, and always in the same order.

What is hidden is left out, and so are folders in which no text is that anybody wrote: what programs keep there, and
runs and prepared data of this one. Those are counted, so that it can be said.
"""

import fnmatch
import glob
import os
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path

from ..errors import InputError
from ..record import RECIPE, RECORD
from .shards import data_record
from .work_folder import is_work_folder

PROGRAMS_FOLDERS = ("__pycache__", "node_modules")
ANY_FOLDER = "**"


class FileSearch:
    """The files that are meant.

    Args:
        corpus: a folder, or a pattern: `*`, `?` and `[...]` stand for characters of one name, `**` for any subfolders.

    Attributes:
        files: in the order of their names.
        left_out: the kind of folder -> how many of them.

    Raises:
        InputError: a folder cannot be read.
    """

    def __init__(self, corpus: str):
        self.left_out: Counter[str] = Counter()
        self._reasons: dict[str, str | None] = {}  # folder -> why it is left out
        parts = Path(corpus).parts
        names = (n for n, part in enumerate(parts) if glob.has_magic(part) and not Path(*parts[: n + 1]).exists())
        fixed = next(names, len(parts))
        folder = Path(*parts[:fixed])
        found = sorted(self._matches(folder, parts[fixed:] or (ANY_FOLDER, "*"))) if folder.is_dir() else []
        real_folders = {place: os.path.realpath(place) for place in {file.parent for file in found}}
        once: dict[str, Path] = {}
        for file in found:
            is_link = file.is_symlink()
            once.setdefault(os.path.realpath(file) if is_link else f"{real_folders[file.parent]}/{file.name}", file)
        self.folder, self.files = folder, tuple(once.values())

    def _matches(self, folder: Path, parts: tuple[str, ...]) -> Iterator[Path]:
        if parts[0] == ANY_FOLDER:
            for each in self._all_folders(folder):
                yield from self._matches(each, parts[1:] or ("*",))
        elif not glob.has_magic(parts[0]):  # named, so nothing is left out
            place = folder / parts[0]
            if len(parts) == 1 and place.is_file():
                yield place
            elif len(parts) > 1 and place.is_dir():
                yield from self._matches(place, parts[1:])
        elif len(parts) == 1:
            yield from (file for file in self._files(folder) if fnmatch.fnmatchcase(file.name, parts[0]))
        else:
            for each in self._folders(folder):
                if fnmatch.fnmatchcase(each.name, parts[0]):
                    yield from self._matches(each, parts[1:])

    def _all_folders(self, folder: Path) -> Iterator[Path]:
        """The folder and all below it. Those behind links come last, so that a folder has its own name where it can."""
        entered: set[str] = set()
        waiting, linked = deque([folder]), deque()
        while waiting or linked:
            place = waiting.popleft() if waiting else linked.popleft()
            real = os.path.realpath(place)
            if real in entered:
                continue
            entered.add(real)
            yield place
            for each in self._folders(place):
                if not each.is_symlink():
                    waiting.append(each)
                elif each.resolve() not in each.parent.resolve().parents:
                    linked.append(each)
                elif os.path.realpath(each) not in entered:
                    self.left_out["link to a folder above the corpus"] += 1

    def _files(self, folder: Path) -> list[Path]:
        return [folder / entry.name for entry in _visible(folder) if entry.is_file()]

    def _folders(self, folder: Path) -> list[Path]:
        """Those in a folder that are not left out."""
        found = [folder / entry.name for entry in _visible(folder) if entry.is_dir()]
        return [each for each in found if self._is_wanted(each)]

    def _is_wanted(self, folder: Path) -> bool:
        real = os.path.realpath(folder)
        if real not in self._reasons:
            self._reasons[real] = _reason_to_leave_out(folder)
            if self._reasons[real] is not None:
                self.left_out[self._reasons[real]] += 1
        return self._reasons[real] is None


def is_pattern(corpus: str) -> bool:
    """Whether it means several places; a name that has such characters and is there means itself."""
    return glob.has_magic(corpus) and not Path(corpus).exists()


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            # A link to nothing, or to itself, is nothing.
            found = [each for each in entries if each.name[0] != "." and os.path.exists(each.path)]
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}") from None


def _reason_to_leave_out(folder: Path) -> str | None:
    if folder.name in PROGRAMS_FOLDERS:
        return folder.name
    if (folder / "pyvenv.cfg").exists():
        return "virtual environment"
    if (folder / RECIPE).exists() and (folder / RECORD).exists():
        return "run"
    if is_work_folder(folder) or data_record(folder) is not None:
        return "prepared data"
    return None
