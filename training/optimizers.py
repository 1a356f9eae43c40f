"""Muon for the hidden matrices, another optimizer for the rest, behind the face of one `torch.optim.Optimizer`."""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Muon, Optimizer


class MuonWithAuxiliary(Optimizer):
    """Steps `torch.optim.Muon` (Jordan et al., 2024) and a second optimizer as one.

    Its `param_groups` are the parts' own, Muon's first, and its `state` is shared by both: schedulers, gradient
    clipping, Accelerate and `state_dict` see a plain optimizer.

    Args:
        matrices: 2-D parameters for Muon.
        auxiliary: the optimizer of all other parameters.
        lr, weight_decay: Muon's own; a schedule scales both parts' rates alike.
    """

    def __init__(self, matrices: list[torch.nn.Parameter], auxiliary: Optimizer, lr: float, weight_decay: float):
        self.parts = [Muon(matrices, lr=lr, weight_decay=weight_decay), auxiliary]
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
