"""
Checkpoints that are complete or absent, and known to be whole when they are read.

    checkpoint-200/
      config.json, model.safetensors, code, tokenizer                    opens with from_pretrained()
      optimizer.pt, scheduler.pt, rng_state*.pth, trainer_state.json     the Trainer's own; scaler.pt with fp16
      progress-RANK.json                                                 what a process has not logged yet
      manifest.json                                                      size and sha256 of each; written last

A checkpoint is written to a hidden folder and takes its name when everything in it is on the disk.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from modeling_gpt_scratch.durable import give_name

from ..errors import InputError
from ..files import sha256_of, sha256_of_values
from ..record import CHECKPOINT, STAGING, STATE, checkpoints_in, read_metrics, step_of

MANIFEST = "manifest.json"
OPTIMIZER, SCHEDULER, SCALER = "optimizer.pt", "scheduler.pt", "scaler.pt"
# Beside the tensors: code, tokenizer, states of random generators.
SMALL_FILES_BYTES = 32 * 2**20
OTHER_VERSION = "it was written by another version of this program"


def progress_file(rank: int) -> str:
    """The name of the file in which a checkpoint keeps what a process has not logged yet."""
    return f"progress-{rank}.json"


def problems_of(checkpoint: Path) -> list[str]:
    """What is wrong with a checkpoint, a line for each file; empty where it is what was written."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        if manifest.pop("sha256") != sha256_of_values(manifest):
            raise ValueError
    except FileNotFoundError:
        return [f"{MANIFEST} is missing"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [f"{MANIFEST} is damaged"]
    try:
        expected = {name: (record["bytes"], record["sha256"]) for name, record in manifest["files"].items()}
        lacking = _lacking(manifest)
    except (KeyError, TypeError, AttributeError):  # whole, as its own hash says
        return [OTHER_VERSION]
    problems = [f"{name} is missing" for name in lacking]
    for name, (size, sha256) in expected.items():
        file = checkpoint / name
        if not file.is_file():
            problems.append(f"{name} is missing")
        elif file.stat().st_size != size:
            problems.append(f"{name} has {file.stat().st_size:,} bytes instead of {size:,}")
        elif sha256_of(file) != sha256:
            problems.append(f"{name} has other bytes than were written")
    return problems


def _lacking(manifest: dict[str, Any]) -> list[str]:
    """The files without which a run cannot go on as it was, and which a manifest does not hold."""
    files, processes = manifest["files"], manifest["fingerprint"]["batch"]["processes"]
    weights = "model.safetensors"
    if f"{weights}.index.json" in files:  # too large for one file
        weights = f"{weights}.index.json"
    states = [f"rng_state_{rank}.pth" for rank in range(processes)] if processes > 1 else ["rng_state.pth"]
    required = [
        *("config.json", weights, OPTIMIZER, SCHEDULER, STATE),
        *([SCALER] if manifest["is_scaled"] else []),
        *states,
        *(progress_file(rank) for rank in range(processes)),
    ]
    return [name for name in required if name not in files]


def manifest_of(checkpoint: Path) -> dict[str, Any]:
    """A whole checkpoint's `step`, the `fingerprint` that was given to `Checkpoints`, and its `files`."""
    return json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))


class Checkpoints:
    """The checkpoints of one run folder. Only one process of a run writes through it, but for `staging`.

    Args:
        run: the run folder.
        fingerprint: what a run must have in common with the one that goes on from its checkpoint, made by
            `Groups.fingerprint`.
        limit: how many to keep, the newest ones; `None` keeps all. The one with the lowest validation loss is kept
            beside them.
    """

    def __init__(self, run: Path, fingerprint: dict[str, Any], limit: int | None):
        self.run = run
        self.fingerprint = fingerprint
        self.limit = limit

    @property
    def staging(self) -> Path:
        """Where the Trainer writes; a folder like the run's own."""
        return self.run / STAGING

    def all(self) -> list[Path]:
        """Every folder with a checkpoint's name, oldest first."""
        return checkpoints_in(self.run)

    def newest_valid(self) -> tuple[Path | None, list[str]]:
        """The newest checkpoint that is whole, after those that are not have been set aside.

        Returns:
            The checkpoint, or `None` where there is none at all; and a line for each one that was set aside.

        Raises:
            InputError: there are checkpoints, but none is whole.
        """
        damaged = []
        for checkpoint in reversed(self.all()):
            problems = problems_of(checkpoint)
            if not problems:
                return checkpoint, [self.set_aside(path, why) for path, why in damaged]
            damaged.append((checkpoint, "; ".join(problems)))
        if damaged:
            remedy = "put back a copy of one, or delete the folder"
            if any(why == OTHER_VERSION for _, why in damaged):
                remedy = "go on with the version that wrote them, or choose another output_dir"
            raise InputError(
                "\n".join(f"{path} cannot be used: {why}" for path, why in damaged)
                + f"\n{self.run} has no checkpoint to go on from: {remedy}"
            )
        return None, []

    def set_aside(self, checkpoint: Path, why: str) -> str:
        """Renames a checkpoint so that nothing goes on from it; returns a line that says so."""
        number = 1
        while (place := self.run / f"set-aside-{checkpoint.name}-{number}").exists():
            number += 1
        checkpoint.rename(place)
        return f"{checkpoint.name} is set aside as {place.name}: {why}"

    def set_aside_after(self, step: int) -> list[str]:
        """Sets aside what a run that goes back to this step will make anew; returns a line for each."""
        return [
            self.set_aside(path, f"the run goes on from step {step}") for path in self.all() if step_of(path) > step
        ]

    def lack_of_space(self, nbytes: int) -> str | None:
        """Why a checkpoint with tensors of so many bytes does not fit on the disk; `None` where it does."""
        free, needed = shutil.disk_usage(self.run).free, nbytes + SMALL_FILES_BYTES
        return None if free >= needed else f"{free / 2**20:,.0f} MiB are free, {needed / 2**20:,.0f} MiB needed"

    def discard_staging(self) -> None:
        """Removes what a save has left that did not come to its end."""
        shutil.rmtree(self.staging, ignore_errors=True)

    def publish(self, step: int, is_scaled: bool = False) -> Path:
        """Seals the checkpoint of this step in `staging` and gives it its name, then removes those no longer kept.

        Args:
            is_scaled: gradients are scaled, as those of fp16 are, and the scaler has a state.

        Raises:
            OSError: it cannot be written, or files are missing that a run could not go on without.
        """
        staged, final = self.staging / f"{CHECKPOINT}{step}", self.run / f"{CHECKPOINT}{step}"
        files = {}
        for file in sorted(path for path in staged.rglob("*") if path.is_file()):
            files[file.relative_to(staged).as_posix()] = {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
        manifest = {"step": step, "is_scaled": is_scaled, "fingerprint": self.fingerprint, "files": files}
        lacking = _lacking(manifest)
        if lacking:
            raise OSError(f"{', '.join(lacking)} was not written")
        manifest["sha256"] = sha256_of_values(manifest)
        (staged / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        if final.exists():  # the same step, reached again from an older checkpoint
            shutil.rmtree(final)
        give_name(staged, final)
        self.discard_staging()
        self._prune()
        return final

    def _prune(self) -> None:
        if not self.limit:
            return
        checkpoints = self.all()
        losses = {line["step"]: line["eval_loss"] for line in read_metrics(self.run) if "eval_loss" in line}
        measured = [path for path in checkpoints if step_of(path) in losses]
        best = min(measured, key=lambda path: losses[step_of(path)], default=None)
        for checkpoint in checkpoints[: -self.limit]:
            if checkpoint != best:
                shutil.rmtree(checkpoint)
