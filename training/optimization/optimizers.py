"""Muon for the hidden matrices, another optimizer for the rest, behind the face of one `torch.optim.Optimizer`."""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from .muon import Muon


class MuonWithAuxiliary(Optimizer):
    """Steps [`Muon`] and a second optimizer as one.

    Its `param_groups` are the parts' own, Muon's first, and its `state` is shared by both: schedulers, gradient
    clipping, Accelerate and `state_dict` see a plain optimizer.

    Args:
        muon: the optimizer of the hidden matrices.
        auxiliary: the optimizer of all other parameters.
    """

    def __init__(self, muon: Muon, auxiliary: Optimizer):
        self.parts = [muon, auxiliary]
        groups = [group for part in self.parts for group in part.param_groups]
        super().__init__(groups, defaults={})
        self._share()

    def _share(self) -> None:
        first = len(self.parts[0].param_groups)
        for part, groups in zip(self.parts, (self.param_groups[:first], self.param_groups[first:]), strict=True):
            part.param_groups = groups
            part.state = self.state

    @torch.no_grad()
    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()  # loading replaces the groups and the state
