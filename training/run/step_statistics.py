"""Each optimizer step's loss and gradient norm, collected until a line is due."""

from collections.abc import Callable
from statistics import fmean
from typing import Any

import torch


class StepStatistics:
    """Loss and gradient norm of the steps since the last training line.

    Micro-batches are added up where they are. A step's sum is read when the step ends, which costs no wait of its own:
    the gradient norm has just been read, because a step with one that is no number must not happen. What is pending
    belongs to a checkpoint ([`state`]), or the first line after a resume would miss steps.

    Args:
        max_grad_norm: the norm that gradients are clipped to; 0 where they are not clipped.
    """

    def __init__(self, max_grad_norm: float):
        self.max_grad_norm = max_grad_norm
        self._step_loss: torch.Tensor | float = 0.0  # of the step under way
        self._losses: list[float] = []
        self._grad_norms: list[float] = []

    def add_micro_batch(self, loss: torch.Tensor | float) -> None:
        """Adds a micro-batch's share of its step's loss, in nats per token of the whole step."""
        self._step_loss = self._step_loss + loss

    def end_step(self, grad_norm: float) -> None:
        """Ends a step; `grad_norm` is that before clipping."""
        self._losses.append(float(self._step_loss))
        self._grad_norms.append(grad_norm)
        self._step_loss = 0.0

    def discard_step(self) -> None:
        """Ends a step that was left out: nothing of it counts."""
        self._step_loss = 0.0

    def summary(self, gather: Callable[[torch.Tensor], torch.Tensor], device: torch.device) -> dict[str, float]:
        """The figures of the pending steps, which are then forgotten. Every process must call it at the same step.

        Args:
            gather: joins the processes' vectors into one, such as `Accelerator.gather`.
            device: where `gather` wants them.

        Returns:
            `loss`, `loss_min` and `loss_max` over the steps, each step's loss being the mean over the processes;
            `grad_norm_max` over the steps; `clipped`, the fraction of steps whose norm was above `max_grad_norm`, where
            gradients are clipped. Empty without steps.
        """
        mine = self.state()
        self.load_state({"losses": [], "grad_norms": []})
        if not mine["losses"]:
            return {}
        # As fp32, which is what losses are: nothing is rounded. Averaged in Python: the same on every device.
        gathered = gather(torch.tensor(mine["losses"], dtype=torch.float32, device=device)).tolist()
        steps = len(mine["losses"])
        losses = [fmean(gathered[step::steps]) for step in range(steps)]
        figures = {"loss": fmean(losses), "loss_min": min(losses), "loss_max": max(losses)}
        figures["grad_norm_max"] = max(mine["grad_norms"])
        if self.max_grad_norm > 0:
            figures["clipped"] = sum(norm > self.max_grad_norm for norm in mine["grad_norms"]) / steps
        return figures

    def state(self) -> dict[str, Any]:
        """What is pending on this process, for its part of a checkpoint: plain numbers, exact in JSON."""
        return {"losses": list(self._losses), "grad_norms": list(self._grad_norms)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes the place of what is pending, and drops the step under way."""
        self._step_loss = 0.0
        self._losses = list(state["losses"])
        self._grad_norms = list(state["grad_norms"])
