"""What the processes of a run settle among each other before it begins, so that none waits for one that has failed."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from .errors import InputError

Result = TypeVar("Result")


def process_count() -> int:
    """Processes that share the run, as torchrun and its kin say."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def leads() -> bool:
    """Whether this is the first process, also before they are joined."""
    return int(os.environ.get("RANK", "0")) == 0


def wants_fsdp(arguments: dict[str, Any]) -> bool:
    """Whether `TrainingArguments` or `accelerate launch` ask for sharded weights, optimizer and gradients."""
    return bool(arguments["fsdp"]) or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def on_first_process(work: Callable[[], Result]) -> Result:
    """Does `work` on the first process alone. All get what it returns, which must be picklable; the others wait.

    Raises:
        InputError: on every process, where `work` raises it.
    """
    if not _are_joined():
        return work()
    outcome: list[Any] = [None, None]
    if torch.distributed.get_rank() == 0:
        try:
            outcome[0] = work()
        except BaseException as error:
            outcome[1] = str(error) if isinstance(error, InputError) else "the first process has failed"
            raise
        finally:
            torch.distributed.broadcast_object_list(outcome)
    else:
        torch.distributed.broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise InputError(outcome[1])
    return outcome[0]


def on_every_process(check: Callable[[], None]) -> None:
    """Does `check` on every process.

    Raises:
        InputError: on every process, where `check` raises it on any; with the first one's message.
    """
    problem = None
    try:
        check()
    except InputError as error:
        problem = str(error)
    problems = [problem]
    if _are_joined():
        problems *= torch.distributed.get_world_size()
        torch.distributed.all_gather_object(problems, problem)
    problem = next(filter(None, problems), None)
    if problem is not None:
        raise InputError(problem)


def _are_joined() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
