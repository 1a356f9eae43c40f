"""
A run folder is the unit of everything: settings, records, checkpoints and the finished model of one run.

    recipe.yaml     the resolved settings         checkpoint-N/   the Trainer's own files
    run.json        what ran where on what        model/          the finished model, complete or absent; while a
                                                                  finished run is extended, what it was
    metrics.jsonl   one line a logging step       *.png           charts

What a run was trained on is compared with what it is to go on with: its fingerprint, in groups that can be allowed to
change by name.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from configuration.recipe import MODEL_FIELDS, Recipe, RecipeError, differences, dump_recipe
from modeling_gpt_scratch.durable import NEW, clear_leftovers, write_durably

from ..data.shards import data_record
from ..errors import InputError

# Group -> the recipe's fields in it. All other fields but those of `FIXED` are in the group `other`.
GROUPS = {
    "data": (
        *("corpus", "text_field", "dataset_config", "dataset_split", "dataset_revision", "deduplicate"),
        *("split", "split_fractions", "shuffle", "seed", "data_seed", "document_masking"),
    ),
    "tokenizer": ("tokenizer",),
    "batch": ("tokens_per_step", "per_device_train_batch_size"),
    "horizon": (
        "max_steps",
        "num_train_epochs",
        "learning_rate",
        "muon_learning_rate",
        "schedule",
        "warmup_steps",
        "decay_steps",
        "learning_rate_floor",
    ),
}
# No run goes on with another model, or with an optimizer that the saved state does not fit: these cannot be allowed.
FIXED = {"model": tuple(MODEL_FIELDS), "optimizer": ("optim", "weight_decay_on")}
OTHER = "other"
LOCK = ".lock"
# What a run leaves that was killed while it wrote its first records.
BEFORE_IT_BEGINS = (LOCK, "recipe.yaml", *(f"{name}{NEW}" for name in ("recipe.yaml", "run.json")))
ALLOWABLE = (*GROUPS, OTHER)
PACKAGES = ("torch", "transformers", "tokenizers", "accelerate", "safetensors", "huggingface_hub")


def add_resume_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--resume",
        default="auto",
        metavar="auto|never|CHECKPOINT",
        help="auto: go on from the newest whole checkpoint, if there is one; never: refuse to; or a checkpoint's path "
        "(default: auto)",
    )
    parser.add_argument(
        "--allow_changed",
        default="",
        metavar="GROUP,...",
        help=f"let a run go on although its recipe has changed in these groups: {', '.join(ALLOWABLE)}",
    )


def allowed_changes(options: argparse.Namespace) -> list[str]:
    """The groups of `--allow_changed`. Raises InputError where a name is none of `ALLOWABLE`."""
    allowed = [group for group in options.allow_changed.split(",") if group]
    unknown = set(allowed) - set(ALLOWABLE)
    if unknown:
        raise InputError(
            f"--allow_changed names {', '.join(sorted(unknown))}, but the groups are {', '.join(ALLOWABLE)}"
        )
    return allowed


def fingerprint(recipe: Recipe, data: dict[str, Any], processes: int, micro_batch: int) -> dict[str, dict[str, Any]]:
    """What a checkpoint depends on beside the model's own configuration, by groups.

    Args:
        data: what `RunFolder.begin` gets.
        processes: devices that share the batch.
        micro_batch: windows that each takes at a time.
    """
    values = recipe.as_dict()
    # Not what the corpus is called: its hash says what it is, and prepared data may stand in for it.
    groups = {group: {name: values[name] for name in names if name != "corpus"} for group, names in GROUPS.items()}
    groups["data"]["data_sha256"], groups["tokenizer"]["tokenizer_sha256"] = _hashes(data)
    groups["batch"] |= {"processes": processes, "micro_batch": micro_batch}
    groups["optimizer"] = {name: values[name] for name in FIXED["optimizer"]}
    groups["optimizer"]["muon"] = values["muon_learning_rate"] is not None
    return groups


def refuse_changes(changes: dict[str, tuple[str, Any, Any]], allowed: Collection[str], what: str) -> None:
    """Raises where something has changed that was not allowed to.

    Args:
        changes: name -> its group, its value then and now.
        allowed: groups that may change.
        what: that which was made with the old values, for the message.

    Raises:
        InputError: listing every change, and the option that allows them.
    """
    refused = {name: change for name, change in changes.items() if change[0] not in allowed}
    if not refused:
        return
    lines = "; ".join(f"{name} was {old!r}, now {new!r}" for name, (_, old, new) in refused.items())
    groups = sorted({group for group, _, _ in refused.values()})
    remedy = "choose another output_dir, or delete the folder"
    if not FIXED.keys() & set(groups):
        remedy += f"; to go on all the same: --allow_changed {','.join(sorted({*groups, *allowed}))}"
    raise InputError(f"{what} belongs to a run with another {' and '.join(groups)} ({lines}): {remedy}")


class RunFolder:
    """Opens `output_dir` for a recipe, writing nothing yet.

    Args:
        recipe: what to run.
        allowed: groups of `ALLOWABLE` in which it may differ from the recipe that the folder was made with.

    Raises:
        InputError: the folder holds a run of another recipe, or something that is no run.
    """

    def __init__(self, recipe: Recipe, allowed: Collection[str] = ()):
        self.recipe = recipe
        self.allowed = allowed
        self.path = Path(recipe.training["output_dir"])
        self.unknown_settings: list[str] = []  # in recipe.yaml, by another version of the library
        self.changed_groups: set[str] = set()  # in which the recipe differs from recipe.yaml
        existing = next(path for path in (self.path.resolve(), *self.path.resolve().parents) if path.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            raise InputError(f"output_dir {self.path} cannot be written: {existing.name} is no folder, or not yours")
        if not self._record_file.exists():  # written after recipe.yaml: before that, the run has not begun
            if self.path.exists() and any(path.name not in BEFORE_IT_BEGINS for path in self.path.iterdir()):
                raise InputError(f"output_dir {self.path} holds files that are no run: choose another folder")
            return
        try:
            changes, self.unknown_settings = differences(recipe, self._recipe_file)
        except RecipeError as error:
            raise InputError(f"{self._recipe_file} cannot be read back: {error}") from None
        prepared = data_record(Path(recipe.run.corpus))
        if prepared is not None and prepared | {"folder": ""} == self.record()["data"] | {"folder": ""}:
            changes.pop("corpus", None)  # it is that same data, wherever it lies now
        group_of = {name: group for group, names in (GROUPS | FIXED).items() for name in names}
        if None in changes.get("muon_learning_rate", ()):  # not only its rate: whether there is a Muon
            group_of["muon_learning_rate"] = "optimizer"
        changes = {
            name: (group_of.get(name, OTHER), *values) for name, values in changes.items() if name != "output_dir"
        }
        refuse_changes(changes, allowed, f"output_dir {self.path}")
        self.changed_groups = {group for group, _, _ in changes.values()}

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

    def begun_on(self) -> dict[str, Any] | None:
        """The data that the run goes on with, or `None` where it has not begun or may change them."""
        record = self.record()
        return None if record is None or {"data", "tokenizer"} & set(self.allowed) else record["data"]

    def planned(self) -> dict[str, Any]:
        """What the run has decided for itself when it began; empty before."""
        return (self.record() or {}).get("planned", {})

    def begin(self, data: dict[str, Any], planned: dict[str, Any], step: int = 0, tokens: int = 0) -> None:
        """Writes recipe.yaml and run.json.

        A finished run that is to go on keeps its result among `earlier_results`, and is unfinished until the next one.

        Args:
            data: as `shards.data_record` describes it.
            planned: the run's sizes, for whoever watches it, and what it has decided for itself and keeps to.
            step: where it sets in.
            tokens: trained on before, in this folder or another run's.

        Raises:
            InputError: the run began on other data than `data` describes.
        """
        record = self.record()
        environment = describe_environment()
        start = {"step": step, "tokens": tokens, **environment}
        if record is None:
            self.path.mkdir(parents=True, exist_ok=True)
            write_durably(self._recipe_file, dump_recipe(self.recipe))
            self._write_record({**environment, "starts": [start], "data": data, "planned": planned})
            return
        changes = {
            f"{group}_sha256": (group, then, now)
            for group, then, now in zip(("data", "tokenizer"), _hashes(record["data"]), _hashes(data), strict=True)
            if then != now
        }
        refuse_changes(changes, self.allowed, str(self.path))
        result = record.pop("result", None)
        if result is not None and result["steps"] != planned["steps"]:
            record["earlier_results"] = [*record.get("earlier_results", []), result]
        starts = record.get("starts", [])
        if not starts or starts[-1] | {"step": step, "tokens": tokens} != start:  # hundreds of starts may be alike
            record["starts"] = [*starts, start]
        record["planned"] = planned  # also where an extension was killed before its recipe.yaml was written
        if self.allowed:
            record["data"] = data
        # Before recipe.yaml: a run without a result goes on, whichever recipe is found beside it.
        self._write_record({**record, **environment})
        if self.allowed:
            write_durably(self._recipe_file, dump_recipe(self.recipe))

    def discard_if_empty(self) -> None:
        """Takes back the folder of a run that then does not begin."""
        if self.path.is_dir() and not any(path.name != LOCK for path in self.path.iterdir()):
            shutil.rmtree(self.path)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps a second command out of the folder for as long as this process lives; clears up after a killed one.

        Raises:
            InputError: another process holds the folder.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        # Given back by the system when this process dies, and never held by a worker process that outlives it.
        lock = FileLock(self.path / LOCK, fallback_to_soft=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise InputError(
                f"output_dir {self.path} is in use by another command: wait for it, or choose another folder"
            ) from None
        try:
            clear_leftovers(self.model)
            yield
        finally:
            self.discard_if_empty()
            lock.release()

    def finish(self, result: dict[str, Any]) -> None:
        self._write_record({**self.record(), "result": result})

    def _write_record(self, record: dict[str, Any]) -> None:
        write_durably(self._record_file, json.dumps(record, indent=2) + "\n")


def _hashes(data: dict[str, Any]) -> tuple[str, str]:
    return data["corpus"]["sha256"], data["tokenizer_sha256"]


def describe_environment() -> dict[str, Any]:
    """Versions, git commit and hardware; no user name, host name or path."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    processes = int(os.environ.get("WORLD_SIZE", "1"))  # one for each GPU
    count, unit = (processes, "GPUs") if torch.cuda.is_available() else (processes * torch.get_num_threads(), "threads")
    return {
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}},
        "git_commit": _git_commit(),
        "hardware": {
            "device": device,
            "count": count,
            "unit": unit,
            "system": f"{platform.system()} {platform.machine()}",
        },
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
    root = Path(__file__).parents[2]

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
