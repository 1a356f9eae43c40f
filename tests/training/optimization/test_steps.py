"""The arithmetic of a step: passes that fill it, and steps that fill the epochs."""

import pytest

from training.errors import InputError
from training.optimization.steps import accumulation_steps, steps_for_epochs


@pytest.mark.parametrize(
    ("tokens_per_step", "micro_batch", "length", "processes", "steps"),
    [(4096, 16, 256, 1, 1), (4096, 2, 256, 1, 8), (4096, 2, 256, 4, 2), (98_304, 6, 1024, 8, 2)],
)
def test_accumulation_fills_the_step(tokens_per_step, micro_batch, length, processes, steps):
    assert accumulation_steps(tokens_per_step, micro_batch, length, processes) == steps


@pytest.mark.parametrize(
    ("tokens_per_step", "nearest"), [(5000, "are 4096 and 8192"), (100, "are 4096"), (8191, "are 4096 and 8192")]
)
def test_a_step_that_cannot_be_filled_names_the_nearest_sizes(tokens_per_step, nearest):
    with pytest.raises(InputError, match=f"must be a multiple of 4096 = 8 .* x 256 .* x 2 .*: the nearest {nearest}$"):
        accumulation_steps(tokens_per_step, 8, 256, 2)


def test_an_empty_micro_batch_is_refused():
    with pytest.raises(InputError, match="per_device_train_batch_size is 0"):
        accumulation_steps(4096, 0, 256, 1)


@pytest.mark.parametrize(
    ("epochs", "windows", "per_step", "steps"), [(1, 96, 96, 1), (1, 97, 96, 2), (10, 20, 2, 100), (0.5, 10, 4, 2)]
)
def test_steps_of_epochs_are_rounded_up_to_whole_ones(epochs, windows, per_step, steps):
    assert steps_for_epochs(epochs, windows, per_step) == steps
