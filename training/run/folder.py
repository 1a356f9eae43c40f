"""The folder of a run, which training/record.py describes: opened for a recipe, locked, and written to."""

import json
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from configuration.recipe_file import RecipeError
from modeling_gpt_scratch.durable import NEW, clear_leftovers, write_durably

from ..errors import InputError
from ..files import locked
from ..record import MODEL, RECIPE, RECORD, program_of, read_record
from .environment import describe_environment
from .fingerprint import HARMLESS
from .program import Program

LOCK = ".lock"
# What a run leaves that was killed while it wrote its first records.
BEFORE_IT_BEGINS = (LOCK, RECIPE, *(f"{name}{NEW}" for name in (RECIPE, RECORD)))


class RunFolder:
    """Opens `output_dir` for a program and its recipe, writing nothing yet.

    Args:
        program: what to run.
        allowed: groups in which its recipe may differ from the one that the folder was made with.

    Raises:
        InputError: the folder holds a run of another recipe or program, or something that is no run.
    """

    def __init__(self, program: Program, allowed: Collection[str] = ()):
        self.program = program
        self.allowed = allowed
        self.path = Path(program.recipe.training["output_dir"])
        self.unknown_settings: list[str] = []  # in recipe.yaml, by another version of the library
        self.changed_groups: set[str] = set()  # in which the recipe differs from recipe.yaml
        self.harmless_changes: set[str] = set()  # settings that differ too, and may
        existing = next(path for path in (self.path.resolve(), *self.path.resolve().parents) if path.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            raise InputError(f"output_dir {self.path} cannot be written: {existing.name} is no folder, or not yours")
        if (self.path / RECORD).exists():  # written after recipe.yaml: before that, the run has not begun
            self._compare()
        elif self.path.exists() and any(path.name not in BEFORE_IT_BEGINS for path in self.path.iterdir()):
            raise InputError(f"output_dir {self.path} holds files that are no run: choose another folder")

    def _compare(self) -> None:
        """Finds out what has changed since the run began.

        Raises:
            InputError: what must not, or was not allowed to.
        """
        program, record = self.program, self.record()
        if program_of(record) != program.name:
            raise InputError(
                f"output_dir {self.path} holds a run of {program_of(record)}, not of {program.name}: choose another "
                "folder"
            )
        try:
            changes, self.unknown_settings = program.recipe.differences(self.path / RECIPE)
        except RecipeError as error:
            raise InputError(f"{self.path / RECIPE} cannot be read back: {error}") from None
        changes |= program.hidden_changes(record)
        groups = program.groups()
        self.harmless_changes = changes.keys() & HARMLESS
        changes = {
            name: (groups.group_of(name, *values), *values)
            for name, values in changes.items()
            if name not in HARMLESS and name != "output_dir" and not program.is_the_same(name, record)
        }
        groups.refuse_changes(changes, self.allowed, f"output_dir {self.path}")
        self.changed_groups = {group for group, _, _ in changes.values()}

    @property
    def model(self) -> Path:
        return self.path / MODEL

    def record(self) -> dict[str, Any] | None:
        """run.json, or `None` where the run has not begun."""
        if not (self.path / RECORD).exists():
            return None
        try:
            return read_record(self.path)
        except InputError:
            raise InputError(
                f"{self.path / RECORD} is damaged: delete {self.path}, or choose another output_dir"
            ) from None

    def result(self) -> dict[str, Any] | None:
        """The result of a finished run, else `None`."""
        record = self.record()
        return record.get("result") if record and self.model.exists() else None

    def begun_on(self) -> dict[str, Any] | None:
        """The data that the run goes on with, or `None` where it has not begun or may change them."""
        record = self.record()
        if record is None or set(self.program.hashes(record["data"])) & set(self.allowed):
            return None
        return record["data"]

    def planned(self) -> dict[str, Any]:
        """What the run has decided for itself when it began; empty before."""
        return (self.record() or {}).get("planned", {})

    def begin(
        self,
        data: dict[str, Any],
        planned: dict[str, Any],
        step: int = 0,
        seen: int = 0,
        parent: dict[str, Any] | None = None,
    ) -> None:
        """Writes recipe.yaml and run.json.

        A finished run that is to go on keeps its result among `earlier_results`, and is unfinished until the next one.

        Args:
            data: what the run is trained on, as its program describes it.
            planned: the run's sizes, for whoever watches it, and what it has decided for itself and keeps to.
            step: where it sets in.
            seen: tokens, or what else the program counts, trained on before, in this folder or another run's.
            parent: the weights that it begins with, as its program describes them; a run that has begun keeps its own.

        Raises:
            InputError: the run began on other data than `data` describes.
        """
        record = self.record()
        environment = describe_environment()
        start = {"step": step, self.program.unit: seen, **environment}
        if record is None:
            self.path.mkdir(parents=True, exist_ok=True)
            self._write_recipe()
            origin = {"program": self.program.name, "parent": parent}
            self._write_record({**origin, **environment, "starts": [start], "data": data, "planned": planned})
            return
        then, now = self.program.hashes(record["data"]), self.program.hashes(data)
        changes = {
            f"{group}_sha256": (group, then.get(group), sha256)
            for group, sha256 in now.items()
            if then.get(group) != sha256
        }
        self.program.groups().refuse_changes(changes, self.allowed, str(self.path))
        result = record.pop("result", None)
        if result is not None and result["steps"] != planned["steps"]:
            record["earlier_results"] = [*record.get("earlier_results", []), result]
        starts = record.get("starts", [])
        if not starts or starts[-1] | {"step": step, self.program.unit: seen} != start:  # hundreds may be alike
            record["starts"] = [*starts, start]
        record["planned"] = planned  # also where an extension was killed before its recipe.yaml was written
        if self.allowed:
            record["data"] = data
        # Before recipe.yaml: a run without a result goes on, whichever recipe is found beside it.
        self._write_record({**record, **environment})
        if self.allowed or self.harmless_changes:
            self._write_recipe()

    def discard_if_empty(self) -> None:
        """Takes back the folder of a run that then does not begin."""
        if self.path.is_dir() and not any(path.name != LOCK for path in self.path.iterdir()):
            shutil.rmtree(self.path, ignore_errors=True)  # Windows deletes no open file, such as the lock

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps a second command out of the folder for as long as this process lives; clears up after a killed one.

        Raises:
            InputError: another process holds the folder.
        """

        def refuse() -> None:
            raise InputError(
                f"output_dir {self.path} is in use by another command: wait for it, or choose another folder"
            )

        with locked(self.path / LOCK, busy=refuse):
            try:
                clear_leftovers(self.model)
                yield
            finally:
                self.discard_if_empty()

    def finish(self, result: dict[str, Any]) -> None:
        self._write_record({**self.record(), "result": result})

    def _write_recipe(self) -> None:
        write_durably(self.path / RECIPE, self.program.recipe.dump())

    def _write_record(self, record: dict[str, Any]) -> None:
        write_durably(self.path / RECORD, json.dumps(record, indent=2) + "\n")
