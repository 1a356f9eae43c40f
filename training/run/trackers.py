"""The trackers that `report_to` names: refused early where they cannot work; TensorBoard kept in the run folder."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from transformers import Trainer
from transformers.integrations import TensorBoardCallback

from ..errors import InputError

PACKAGES = ("tensorboard", "trackio", "wandb")  # each tracker's package has its name


def require_trackers(report_to: str | list[str] | None) -> None:
    """Raises InputError where `report_to` names a tracker that is not installed, or wandb without a login.

    The library would notice the first only when the data has been prepared, and the second in mid-run. What it does not
    know at all it refuses itself.
    """
    named = report_to if isinstance(report_to, list) else [report_to]
    missing = [name for name in PACKAGES if name in named and not _is_installed(name)]
    if missing:
        raise InputError(f"report_to names {', '.join(missing)}, not installed here: pip install {' '.join(missing)}")
    if "wandb" in named and os.environ.get("WANDB_MODE", "online") == "online":
        import wandb

        if not wandb.login(prompt=False, verify=False):  # only looks for a key; asks neither a person nor the network
            raise InputError(
                "report_to names wandb, but nobody is logged in: run `wandb login`, or set WANDB_MODE=offline"
            )


def _is_installed(package: str) -> bool:
    """A folder without code, such as the `wandb` that wandb leaves wherever it ran, is importable but no package."""
    if package in sys.modules:
        return True
    spec = find_spec(package)
    return spec is not None and spec.origin is not None


def keep_tensorboard_in(folder: Path, trainer: Trainer) -> None:
    """Has TensorBoard write to `folder`/tensorboard, unless TENSORBOARD_LOGGING_DIR says otherwise.

    The library's own choice is a new folder for each start, named after the time and the host.
    """
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
            callback.logging_dir = str(folder / "tensorboard")
