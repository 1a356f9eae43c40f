"""Runs that continue a model: their command lines, records and errors."""

import json
from pathlib import Path

from training.__main__ import main


def command(run: str, init_from: str | None = None, **options) -> list[str]:
    values = {
        "init_from": init_from,
        "corpus": "other.txt",
        "output_dir": run,
        "tokens_per_step": 256,
        "per_device_train_batch_size": 2,
        "max_steps": 4,
        "save_steps": 2,
        "logging_steps": 1,
        "learning_rate": "1e-3",
        "eval_on_start": True,
        "disable_tqdm": True,
    } | options
    return ["pretrain", *(t for name, value in values.items() if value is not None for t in (f"--{name}", str(value)))]


def error_of(capsys, argv: list[str]) -> str:
    capsys.readouterr()
    assert main(argv) == 2
    return capsys.readouterr().err


def record_of(run: str) -> dict:
    return json.loads(Path(run, "run.json").read_text())
