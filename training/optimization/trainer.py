"""The recipe's optimizers and learning rates, for any Trainer."""

from collections.abc import Callable

import torch
from torch import nn

from ..errors import InputError
from .muon import Muon
from .optimizers import MuonWithAuxiliary


class OptimizedTrainer:
    """What `transformers.Trainer` or a subclass of it gets, as a base class before it, to train by a recipe.

    Args:
        schedule: what the learning rates are multiplied by, as a function of the steps made so far. It takes the place
            of `lr_scheduler_type` and `warmup_steps`.
        muon_learning_rate: train the blocks' matrices with Muon at this rate, or `None`.
        muon_dtype: in which it orthogonalises.
        decay_everything: weight decay on biases and norms too.
        **kwargs: those of the Trainer.

    Raises:
        InputError: the Trainer has been given an optimizer beside Muon.
    """

    def __init__(
        self,
        *,
        schedule: Callable[[int], float] = lambda step: 1.0,
        muon_learning_rate: float | None = None,
        muon_dtype: torch.dtype = torch.float32,
        decay_everything: bool = False,
        **kwargs,
    ):
        self.schedule = schedule
        self.muon_learning_rate = muon_learning_rate
        self.muon_dtype = muon_dtype
        self.decay_everything = decay_everything
        super().__init__(**kwargs)
        if muon_learning_rate is not None and (self.optimizer is not None or self.optimizer_cls_and_kwargs is not None):
            raise InputError(
                "muon_learning_rate is set beside an optimizer of your own: leave one out, or set `optim` in the "
                "arguments to choose the optimizer beside Muon"
            )

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is not None or self.muon_learning_rate is None:
            return super().create_optimizer() if model is None else super().create_optimizer(model)
        model = self.model if model is None else model
        decayed = set(self.get_decay_parameter_names(model))
        in_blocks = matrices_of_blocks(model)
        matrices, others, others_decayed = [], [], []
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                (matrices if name in in_blocks else others_decayed if name in decayed else others).append(parameter)
        optimizer_class, settings = self.get_optimizer_cls_and_kwargs(self.args, model)
        auxiliary = optimizer_class(
            [
                {"params": others_decayed, "weight_decay": self.args.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            **settings,
        )
        muon = Muon(matrices, lr=self.muon_learning_rate, weight_decay=self.args.weight_decay, dtype=self.muon_dtype)
        self.optimizer = MuonWithAuxiliary(muon, auxiliary)
        return self.optimizer

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        return [name for name, parameter in model.named_parameters() if self.decay_everything or parameter.ndim >= 2]

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        if self.lr_scheduler is None:
            optimizer = self.optimizer if optimizer is None else optimizer
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.schedule)
            self._created_lr_scheduler = True
        return self.lr_scheduler


def matrices_of_blocks(model: nn.Module) -> set[str]:
    """Names of the matrices of a model's blocks, which are a list of layers, whatever their family calls it.

    Muon orthogonalises what a matrix does to a vector, which an embedding or a head does not do.
    """
    lists = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, nn.ModuleList))
    return {name for name, parameter in model.named_parameters() if parameter.ndim == 2 and name.startswith(lists)}
