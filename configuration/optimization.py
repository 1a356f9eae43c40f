"""The part of a recipe that says how weights are changed, whatever the task; `TrainingArguments` says the rest."""

from dataclasses import dataclass
from typing import Literal

from .fields import setting


@dataclass(frozen=True, kw_only=True)
class OptimizationConfig:
    """Precision, optimizers and learning rates."""

    precision: Literal["fp32", "tf32", "bf16", "fp16"] = setting(
        "arithmetic of the matrix products; bf16 and fp16 by autocast, weights stay in fp32", "fp32"
    )
    cpu_matmul_precision: Literal["highest", "high", "medium"] = setting(
        "fp32 matrix products on CPUs: `medium` may be much faster, and may compute in bf16", "highest"
    )
    muon_learning_rate: float | None = setting(
        "train the blocks' matrices with Muon at this learning rate, all else by `optim`", None
    )
    weight_decay_on: Literal["matrices", "everything"] = setting(
        "`matrices` (embeddings too, but no biases and norms) or `everything`", "matrices"
    )
    schedule: Literal["constant", "linear", "cosine"] = setting(
        "how the learning rates go down at the end: `constant` (not at all), `linear` or `cosine`", "linear"
    )
    decay_steps: int | float | None = setting(
        "steps that this takes; below 1: their share of the run; null: all after the warm-up", None
    )
    learning_rate_floor: float = setting("what the rates go down to, as a share of their peak", 0.0, within=(0, 1))
    max_skipped_steps: int = setting(
        "steps in a row that may be left out because their gradient is not finite; one more stops",
        0,
        within=(0, 2**40),
    )

    def __post_init__(self):
        problems = []
        if self.muon_learning_rate is not None and self.muon_learning_rate <= 0:
            problems.append(f"muon_learning_rate is {self.muon_learning_rate}, but must be positive")
        if self.decay_steps is not None and (
            self.decay_steps <= 0 or (self.decay_steps > 1 and self.decay_steps != int(self.decay_steps))
        ):
            problems.append(f"decay_steps is {self.decay_steps}, but must be a share below 1 or a number of steps")
        if problems:
            raise ValueError("\n".join(problems))
