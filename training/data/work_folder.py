"""
The work folder of data that is being prepared: one process at a time has it, and the next one goes on in it.

    <name>.partial/
      state.json              how far the corpus is done, and the lengths of the files below at that point
      train-00002.tokens ...  ids of the shard that is being filled, without a header
      seen.keys               keys of the documents seen, where duplicates are left out
      data/                   finished shards and the tokenizer; becomes the folder of the prepared data

A file that has its final name is complete and on the disk. What was written after the state is written again.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from modeling_gpt_scratch.durable import give_name, write_durably

from ..errors import InputError
from ..files import locked

LOCK = "lock"
ENDING = ".partial"


class WorkFolder:
    """Made by [`work_on`]."""

    def __init__(self, path: Path):
        self.path = path
        self.data = path / "data"
        self._state = path / "state.json"

    def state(self, settings: dict[str, Any]) -> dict[str, Any] | None:
        """The state that was saved, if under the same settings; otherwise the folder is emptied."""
        try:
            state = json.loads(self._state.read_text(encoding="utf-8"))
            if state["settings"] == settings:
                return state
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            pass
        self.clear()
        return None

    def clear(self) -> None:
        """Empties the folder, but for the lock. The state goes first, so that it never speaks of what is gone."""
        self._state.unlink(missing_ok=True)
        for path in self.path.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()
        self.data.mkdir()

    def save_state(self, state: dict[str, Any]) -> None:
        write_durably(self._state, json.dumps(state))

    def complete(self, folder: Path) -> None:
        """Gives the data its final name."""
        give_name(self.data, folder)


@contextmanager
def work_on(folder: Path, say: Callable[[str], None]) -> Iterator[WorkFolder]:
    """Gives the work folder of `folder` to one process at a time; the others wait.

    It is removed once `folder` is there, and also when the block finds that the input is unusable. After anything else
    it stays, for the next process to go on.
    """
    path = folder.with_name(f"{folder.name}{ENDING}")
    made = [parent for parent in path.parents if not parent.exists()]
    with locked(path / LOCK, lambda: say(f"another process is preparing {folder}: waiting for it")):
        try:
            yield WorkFolder(path)
        except InputError:
            shutil.rmtree(path, ignore_errors=True)
            for parent in made:
                with suppress(OSError):  # something else is in it now
                    parent.rmdir()
            raise
        if folder.exists():
            shutil.rmtree(path, ignore_errors=True)  # whoever waits for the lock may just have made the folder again


def is_work_folder(path: Path) -> bool:
    """Whether a process is preparing data there, or was cut off."""
    return path.name.endswith(ENDING) and (path / LOCK).exists()
