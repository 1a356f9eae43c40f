"""The learning rate over a run: warm-up, a stable stretch, and a decay to a floor."""

import math
from collections.abc import Callable
from functools import partial

from configuration.recipe import Recipe

from ..errors import InputError


def learning_rate_factor(
    step: int, *, kind: str, warmup_steps: int, total_steps: int, decay_steps: int, floor: float
) -> float:
    """What the peak learning rate is multiplied by for one optimizer step.

    The warm-up ends at 1 with its last step, so that its first one already trains (the library's begins at 0). The
    decay would reach the floor at step `total_steps`, one after the last.

    Args:
        step: the steps made before this one.
        kind: `constant`, or the form of the decay: `linear` or `cosine`.
        warmup_steps: length of the warm-up, which is linear.
        total_steps: length of the run.
        decay_steps: length of the decay, which ends with the run.
        floor: the factor that the decay leads to.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    decay_begins = total_steps - decay_steps
    if kind == "constant" or step <= decay_begins:  # a scheduler asks for the step after the last one, too
        return 1.0
    progress = min(1.0, (step - decay_begins) / decay_steps)
    remaining = 0.5 * (1 + math.cos(math.pi * progress)) if kind == "cosine" else 1 - progress
    return floor + (1 - floor) * remaining


def build_schedule(recipe: Recipe, total_steps: int) -> Callable[[int], float]:
    """[`learning_rate_factor`] of a recipe, as a function of the step alone.

    Raises:
        InputError: warm-up and decay together are longer than the run.
    """
    warmup_steps = _whole_steps(recipe.training["warmup_steps"], total_steps)
    if recipe.optimization.schedule == "constant":
        decay_steps = 0
    elif recipe.optimization.decay_steps is None:
        decay_steps = max(0, total_steps - warmup_steps)
    else:
        decay_steps = _whole_steps(recipe.optimization.decay_steps, total_steps)
    if warmup_steps + decay_steps > total_steps:
        raise InputError(
            f"warmup_steps ({warmup_steps}) and decay_steps ({decay_steps}) are together more than the {total_steps} "
            "steps of the run: lower them, or train longer"
        )
    return partial(
        learning_rate_factor,
        kind=recipe.optimization.schedule,
        warmup_steps=warmup_steps,
        total_steps=total_steps,
        decay_steps=decay_steps,
        floor=recipe.optimization.learning_rate_floor,
    )


def _whole_steps(steps: float, total_steps: int) -> int:
    """A number of steps, or below 1 a share of the run, as `TrainingArguments` counts its warm-up."""
    return int(steps) if steps >= 1 else math.ceil(steps * total_steps)
