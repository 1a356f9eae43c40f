"""
A run folder is the unit of everything: settings, records, checkpoints and the finished model of one run.

    recipe.yaml     the resolved settings         checkpoint-N/   the Trainer's own files
    run.json        what ran where on what        model/          the finished model, complete or absent
    metrics.jsonl   one line a logging step       *.png           charts
"""

import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from configuration.recipe import Recipe, RecipeError, differences, dump_recipe

from .errors import InputError

PACKAGES = ("torch", "transformers", "tokenizers", "accelerate", "safetensors", "huggingface_hub")


class RunFolder:
    """Opens `output_dir` for a recipe, writing nothing yet.

    Raises:
        InputError: the folder holds a run of another recipe, or something that is no run.
    """

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        self.path = Path(recipe.training["output_dir"])
        existing = next(path for path in (self.path.resolve(), *self.path.resolve().parents) if path.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            raise InputError(f"output_dir {self.path} cannot be written: {existing.name} is no folder, or not yours")
        if not (self._recipe_file.exists() and self._record_file.exists()):
            if self.path.exists() and any(self.path.iterdir()):
                raise InputError(f"output_dir {self.path} holds files that are no run: choose another folder")
            return
        try:
            changes = differences(recipe, self._recipe_file)
        except RecipeError as error:
            raise InputError(f"{self._recipe_file} cannot be read back: {error}") from None
        changes = [change for change in changes if not change.startswith("output_dir ")]
        if changes:
            raise InputError(
                f"output_dir {self.path} holds a run of another recipe ({'; '.join(changes)}): "
                "choose another output_dir, or delete the folder"
            )

    @property
    def _recipe_file(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def _record_file(self) -> Path:
        return self.path / "run.json"

    @property
    def model(self) -> Path:
        return self.path / "model"

    def record(self) -> dict[str, Any] | None:
        """run.json, or `None` where the run has not begun."""
        if not self._record_file.exists():
            return None
        try:
            record = json.loads(self._record_file.read_text(encoding="utf-8"))
        except ValueError:
            record = None
        if not isinstance(record, dict) or "data" not in record:
            raise InputError(f"{self._record_file} is damaged: delete {self.path}, or choose another output_dir")
        return record

    def result(self) -> dict[str, Any] | None:
        """The result of a finished run, else `None`."""
        record = self.record()
        return record.get("result") if record and self.model.exists() else None

    def begin(self, data: dict[str, Any]) -> None:
        """Writes recipe.yaml and run.json.

        Raises:
            InputError: the run began on other data than `data` describes.
        """
        record = self.record()
        if record is not None and record["data"] != data:
            raise InputError(
                f"{self.path} began on other data: {record['data']} then, {data} now; choose another output_dir"
            )
        if record is None:
            self.path.mkdir(parents=True, exist_ok=True)
            self._write_record({**describe_environment(), "data": data})
            write_atomically(self._recipe_file, dump_recipe(self.recipe))

    def discard_if_empty(self) -> None:
        """Takes back the folder that the library makes for a run that then does not begin."""
        if self.path.is_dir() and not any(self.path.iterdir()):
            self.path.rmdir()

    def finish(self, result: dict[str, Any]) -> None:
        self._write_record({**self.record(), "result": result})

    def _write_record(self, record: dict[str, Any]) -> None:
        write_atomically(self._record_file, json.dumps(record, indent=2) + "\n")

    def newest_checkpoint(self) -> Path | None:
        """The newest checkpoint folder that is complete: the Trainer writes trainer_state.json last."""
        checkpoints = [
            path
            for path in self.path.glob("checkpoint-*")
            if path.name.removeprefix("checkpoint-").isdecimal() and (path / "trainer_state.json").exists()
        ]
        return max(checkpoints, key=lambda path: int(path.name.removeprefix("checkpoint-")), default=None)


def write_atomically(file: Path, text: str) -> None:
    """Replaces a small file so that a reader sees the old or the new content, never a part."""
    temporary = file.with_name(f".{file.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)


def describe_environment() -> dict[str, Any]:
    """Versions, git commit and hardware; no user name, host name or path."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    devices = torch.cuda.device_count() if torch.cuda.is_available() else torch.get_num_threads()
    return {
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}},
        "git_commit": _git_commit(),
        "hardware": {"device": device, "count": devices, "system": f"{platform.system()} {platform.machine()}"},
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown processor"


def _git_commit() -> str | None:
    """The commit of this clone, with "+changes" where files differ from it; `None` outside of a clone."""
    root = Path(__file__).parent.parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
