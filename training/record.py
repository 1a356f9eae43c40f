"""
What a run folder holds, for whoever reads it: names of files and folders, settings, record and metrics.

    recipe.yaml     the resolved settings         checkpoint-N/   what the run goes on from
    run.json        what ran where on what        model/          the finished model, complete or absent; while a
                                                                  finished run is extended, what it was
    metrics.jsonl   one line a logging step       *.png           charts

Nothing here needs torch, so charts, the page and publishing read a run without what has trained it.
"""

import json
from pathlib import Path
from typing import Any

import yaml

from configuration.recipe_file import RESOLVED

from .errors import InputError

RECIPE, RECORD, METRICS, MODEL = RESOLVED, "run.json", "metrics.jsonl", "model"
CHECKPOINT = "checkpoint-"  # begins the name of each
STATE = "trainer_state.json"  # in it: how far the run had come
STAGING = ".saving"  # a folder in which the next checkpoint is written


def read_recipe(run: Path) -> dict[str, Any]:
    """The settings in recipe.yaml, as they are written there.

    Raises:
        InputError: they cannot be read.
    """
    try:
        recipe = yaml.safe_load((run / RECIPE).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{run / RECIPE} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(recipe, dict):
        raise InputError(f"{run / RECIPE} cannot be read: it holds no settings")
    return recipe


def read_record(run: Path) -> dict[str, Any]:
    """run.json: versions, hardware, data, what the run has decided for itself, and its result once it is finished.

    Raises:
        InputError: it cannot be read, or is no record of a run.
    """
    try:
        record = json.loads((run / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{run / RECORD} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(record, dict) or "data" not in record:
        raise InputError(f"{run / RECORD} cannot be read: it holds no record of a run")
    return record


def program_of(record: dict[str, Any]) -> str:
    """The program whose run this is; records that do not say so are older than all programs but one."""
    return record.get("program", "pretrain")


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, oldest first; a last line that was cut off is left out."""
    file = run / METRICS
    if not file.exists():
        return []
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


def metrics_until(run: Path, step: int) -> list[dict[str, Any]]:
    """The lines that a run keeps which sets in at this step: those of later steps will come again."""
    return [line for line in read_metrics(run) if step and line["step"] <= step]


def checkpoints_in(run: Path) -> list[Path]:
    """Every folder with a checkpoint's name, oldest first; whether they are whole, run/checkpoints.py finds out."""
    found = [path for path in run.glob(f"{CHECKPOINT}*") if path.name.removeprefix(CHECKPOINT).isdecimal()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(CHECKPOINT))
