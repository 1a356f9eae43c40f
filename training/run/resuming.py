"""From which checkpoint a run goes on."""

import sys
from collections.abc import Collection
from pathlib import Path

from transformers import TrainerState

from ..errors import InputError
from ..record import STATE
from .checkpoints import OTHER_VERSION, Checkpoints, manifest_of, problems_of
from .fingerprint import PARENT, Groups


def choose_checkpoint(
    checkpoints: Checkpoints, groups: Groups, resume: str, allowed: Collection[str], max_steps: int
) -> Path | None:
    """Where the run goes on from, or `None`; sets aside what is damaged or will be made anew, and says so.

    Raises:
        InputError: the checkpoint that was named cannot be used, there is none that is whole, or there should be none.
    """
    checkpoints.discard_staging()  # of a process that was killed while it saved
    if resume == "never":
        if checkpoints.all():
            raise InputError(
                f"{checkpoints.run} holds checkpoints, and --resume is never: choose another output_dir, or delete the "
                "folder"
            )
        return None
    if resume == "auto":
        checkpoint, lines = checkpoints.newest_valid()
    else:
        checkpoint, lines = _named(resume), []
    if checkpoint is None:
        return None
    manifest = manifest_of(checkpoint)
    step, then = manifest["step"], manifest["fingerprint"]
    now = checkpoints.fingerprint
    if then.keys() - {PARENT} != now.keys() - {PARENT}:
        raise InputError(
            f"{checkpoint} cannot be used: {OTHER_VERSION}; go on with that one, or choose another output_dir"
        )
    if then.get(PARENT) != now.get(PARENT):
        raise InputError(_of_another_parent(checkpoint, PARENT in then, PARENT in now))
    if step > max_steps:
        raise InputError(
            f"{checkpoint} has made {step:,} steps, more than the {max_steps:,} that are asked for: ask for more, name "
            "an older checkpoint with --resume, or choose another output_dir"
        )
    changes = {
        name: (group, then[group].get(name), value)
        for group, values in now.items()
        for name, value in values.items()
        if then[group].get(name) != value
    }
    groups.refuse_changes(changes, allowed, str(checkpoint))
    for line in [*lines, *checkpoints.set_aside_after(step)]:
        print(line, file=sys.stderr)
    return checkpoint


def _of_another_parent(checkpoint: Path, has_one: bool, wants_one: bool) -> str:
    """Why a run cannot go on from a checkpoint of one that began with other weights."""
    if not wants_one:
        return (
            f"{checkpoint} belongs to a run that began with another model's weights, and this one to begin with random "
            "ones: name that model by init_from, as its recipe.yaml does"
        )
    theirs = "another model's" if has_one else "random ones, and not with another model's"
    return (
        f"{checkpoint} belongs to a run that began with {theirs} weights, while init_from says what this one begins "
        "with: leave out init_from to go on from the checkpoint, or --resume to begin with the model (init_from may "
        "name the checkpoint itself)"
    )


def _named(resume: str) -> Path:
    checkpoint = Path(resume)
    problems = problems_of(checkpoint) if checkpoint.is_dir() else ["it is no folder"]
    if problems:
        raise InputError(f"--resume {resume} cannot be used: {'; '.join(problems)}")
    return checkpoint


def progress_of(checkpoint: Path | None) -> tuple[int, int]:
    """The step of a whole checkpoint, and the tokens, or what else the run counts, that it was trained on."""
    if checkpoint is None:
        return 0, 0
    state = TrainerState.load_from_json(str(checkpoint / STATE))
    return state.global_step, state.num_input_tokens_seen
