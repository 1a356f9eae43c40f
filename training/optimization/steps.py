"""The arithmetic of a step: how many forward passes it takes, and how many steps a run."""

import math

from ..errors import InputError


def accumulation_steps(tokens_per_step: int, micro_batch: int, length: int, processes: int) -> int:
    """Forward passes that each process makes for one optimizer step.

    Args:
        tokens_per_step: tokens of the global batch.
        micro_batch: windows that a device takes at a time.
        length: tokens of a window.
        processes: number of devices that share the batch.

    Raises:
        InputError: the batch is not an integer number of such passes.
    """
    if micro_batch < 1:
        raise InputError(f"per_device_train_batch_size is {micro_batch}, but must be at least 1")
    one_pass = micro_batch * length * processes
    steps, rest = divmod(tokens_per_step, one_pass)
    if rest or not steps:
        nearest = [steps * one_pass, (steps + 1) * one_pass] if steps else [one_pass]
        raise InputError(
            f"tokens_per_step is {tokens_per_step}, but must be a multiple of {one_pass} = "
            f"{micro_batch} (per_device_train_batch_size) x {length} (max_position_embeddings) x {processes} "
            f"(processes): the nearest are {' and '.join(map(str, nearest))}"
        )
    return steps


def steps_for_epochs(epochs: float, num_windows: int, windows_per_step: int) -> int:
    """Optimizer steps that visit every window `epochs` times; the last step is a whole one."""
    return math.ceil(epochs * num_windows / windows_per_step)
