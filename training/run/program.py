"""What a program says of itself, so that lifecycle.py can do the rest."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from transformers import PreTrainedModel, TrainingArguments

from configuration.recipe import Recipe

from ..errors import InputError
from ..files import sha256_of_values
from .fingerprint import Groups
from .trainer import ReliableTrainer

Say = Callable[[str], None]


class Program(ABC):
    """A kind of run: pretraining, or a fine-tuning for some task. A subclass declares; an instance is one run of it.

    A run calls the methods in the order in which they stand here, but first, by [`is_the_same`] and
    [`hashes`], compares the records of an earlier start.

    Args:
        recipe: its settings, of `recipe_class`.

    Attributes:
        name: the command's, as run.json records it.
        recipe_class: whose parts are the settings of the program.
        unit: what a step consists of: `tokens` or `examples`.
        own_groups: group -> settings which the data, the batch or the length of a run depend on, beside those that
            every program has (fingerprint.py).
        fixed_groups: the same for settings that no run can go on without.
        arguments: values of `TrainingArguments` that a recipe cannot set.
        figures: what an evaluation finds -> how it is called, as people are shown it; `eval_loss` is always found.
    """

    name: ClassVar[str]
    recipe_class: ClassVar[type[Recipe]]
    unit: ClassVar[str] = "examples"
    own_groups: ClassVar[dict[str, tuple[str, ...]]] = {}
    fixed_groups: ClassVar[dict[str, tuple[str, ...]]] = {}
    arguments: ClassVar[dict[str, Any]] = {}
    figures: ClassVar[dict[str, str]] = {"eval_loss": "loss"}

    def __init__(self, recipe: Recipe):
        self.recipe = recipe

    @classmethod
    def groups(cls) -> Groups:
        return Groups(cls.own_groups, cls.fixed_groups)

    def is_the_same(self, name: str, record: dict[str, Any]) -> bool:
        """Whether a setting that is written otherwise than in recipe.yaml means what it meant for this record's run."""
        return False

    def hidden_changes(self, record: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Setting -> its value then and now, where it is written as in recipe.yaml and yet means something else than it
        meant for this record's run."""
        return {}

    def check(self, processes: int) -> None:  # noqa: B027  (most programs have nothing to check)
        """Raises InputError where the recipe cannot work with so many processes; before anything else is done."""

    def batch(self, device: torch.device, processes: int, recorded: int | None) -> tuple[int, int]:
        """Examples that a process takes at a time, and how often it does so for one step.

        Args:
            device: this process's own.
            recorded: the first number with which the run began, if it has begun.

        Raises:
            InputError: a number is below 1, which the library notices only in mid-run.
        """
        names = ("per_device_train_batch_size", "gradient_accumulation_steps")
        for name in names:
            if self.recipe.training[name] < 1:
                raise InputError(f"{name} is {self.recipe.training[name]}, but must be at least 1")
        micro_batch, accumulation = (self.recipe.training[name] for name in names)
        return micro_batch, accumulation

    def parent(self) -> dict[str, Any] | None:
        """What the run begins with, for run.json; `None`: random weights. Asked once, before it begins.

        Returns:
            `name` and, on the Hub, its commit as `revision`; `weights`, the sha256 of each file of them; what is known
            of how they came to be (training/parent.py).

        Raises:
            InputError: it cannot be used.
        """
        return None

    @abstractmethod
    def prepare(self, begun_on: dict[str, Any] | None, say: Say) -> dict[str, Any]:
        """Makes the data ready, and says what they are, for run.json.

        Args:
            begun_on: what it said when the run began, if it has begun and may not change.
            say: told what is going on, in a line.

        Raises:
            InputError: they cannot be used.
        """

    def hashes(self, data: dict[str, Any]) -> dict[str, str]:
        """Group -> the sha256 of that part of what [`prepare`] has said which the group stands for.

        Also asked before [`prepare`], of what run.json holds of an earlier start. A fixed group cannot be among them.
        """
        return {"data": sha256_of_values(json.loads(json.dumps(data)))}  # as read back: keys become text, and sort so

    @abstractmethod
    def num_examples(self) -> int:
        """Examples of an epoch."""

    @abstractmethod
    def make_model(self, parent: dict[str, Any] | None) -> PreTrainedModel:
        """The model that the run begins with.

        Args:
            parent: what [`parent`] has said, if its weights are to be loaded; `None`: random ones will do, as there is
                no parent, or a checkpoint's take their place.

        Raises:
            InputError: the parent cannot be opened, or has other weights now than it had.
        """

    def step_size(self, examples: int) -> int:
        """The units in a step of so many examples; every step counts as a whole one."""
        return examples

    def flops_per_unit(self, model: PreTrainedModel) -> float | None:
        """Floating-point operations of training on one unit, for MFU; `None`: not known."""
        return None

    @abstractmethod
    def make_trainer(self, model: PreTrainedModel, args: TrainingArguments, **run: Any) -> ReliableTrainer:
        """The Trainer, with its data.

        Args:
            run: what [`ReliableTrainer`] and `transformers.Trainer` get from the run; to be passed on.
        """

    @abstractmethod
    def measure(self, trainer: ReliableTrainer) -> dict[str, float]:
        """Evaluates the trained model: `eval_*` and `test_*`, for the result."""

    def inputs(self, model: PreTrainedModel) -> dict[str, torch.Tensor] | None:
        """What the written model is compared on with the trained one; `None`: random token ids."""
        return None
