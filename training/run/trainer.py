"""
A Trainer made safe, whatever it trains: checkpoints that are complete or absent, no step with a gradient that is no
number, an orderly stop, and a resumed run that is the uninterrupted one, bit for bit.
"""

import json
import logging
import math
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from transformers import DefaultFlowCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..optimization.trainer import OptimizedTrainer
from ..record import read_metrics
from .checkpoints import progress_file
from .interruption import StopRequest
from .saving import SavingTrainer
from .speed import Speed
from .step_statistics import StepStatistics

logger = logging.getLogger(__name__)

# Overflows of fp16 gradients in a row, each of which halves their scale. It begins at 2^16, so after twenty they
# overflow without any scale: the model is broken.
OVERFLOWS_IN_A_ROW = 20


class _AbandonedError(Exception):
    """An evaluation that was cut short because the run is to stop."""


class ReliableTrainer(SavingTrainer, OptimizedTrainer):
    """Adds to a Trainer what its resume lacks: `class MyTrainer(ReliableTrainer, Trainer)`, or TRL's in its place.

    Args:
        stop: asked at the end of every step and between the batches of an evaluation.
        max_skipped_steps: how many steps in a row may be left out because their gradient is not finite.
        speed: measures it, for the training lines; `None`: they say nothing of it.
        **kwargs: those of [`SavingTrainer`], [`OptimizedTrainer`] and the Trainer itself.
    """

    def __init__(self, *, stop: StopRequest, max_skipped_steps: int = 0, speed: Speed | None = None, **kwargs):
        super().__init__(**kwargs)
        self.add_callback(_StepBoundary(self))
        self.stop = stop
        self.max_skipped_steps = max_skipped_steps
        self.speed = speed
        self.step_statistics = StepStatistics(self.args.max_grad_norm)
        self.skipped_in_a_row = self.skipped_steps = 0
        self.evaluation_is_due = self.is_stopping = False
        self._evaluation: tuple[int, dict[str, float]] | None = None  # the last one in the run: step, metrics
        self._resumed_from: Path | None = None
        self._loss_before_step = 0.0

    def train(self, resume_from_checkpoint: str | Path | None = None, **kwargs) -> Any:
        self._resumed_from = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        self.args.eval_on_start = self.args.eval_on_start and self._resumed_from is None
        return super().train(resume_from_checkpoint=resume_from_checkpoint and str(resume_from_checkpoint), **kwargs)

    def training_step(self, *args, **kwargs) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        self.step_statistics.add_micro_batch(loss)
        return loss

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: torch.Tensor | float | None = None) -> float:
        """The library asks for it between clipping and the optimizer's step, so nothing has been changed yet.

        Reading it waits for the device, once a step: what decides whether weights may change must be known before.

        Raises:
            FloatingPointError: it is not finite, more often in a row than is allowed.
        """
        grad_norm = super()._get_grad_norm(model, grad_norm)
        grad_norm = float(grad_norm.full_tensor() if isinstance(grad_norm, DTensor) else grad_norm)
        if math.isfinite(grad_norm):
            self.skipped_in_a_row = 0
            self.step_statistics.end_step(grad_norm)
            return grad_norm
        self.skipped_in_a_row += 1
        self.skipped_steps += 1
        step = self.state.global_step + 1
        is_scaled = self.accelerator.scaler is not None
        found = f"the gradient norm is {grad_norm}"
        if is_scaled:
            found += f" in {self.skipped_in_a_row} steps in a row, though the scale of fp16 was halved after each"
        if self.skipped_in_a_row > max(self.max_skipped_steps, OVERFLOWS_IN_A_ROW if is_scaled else 0):
            good = self.checkpoints.all()
            raise FloatingPointError(
                f"training broke down in step {step}: {found}; no weight was changed "
                f"by it, and the last checkpoint is {good[-1].name if good else 'none'}"
            )
        if not is_scaled:  # the scaler leaves the step out itself, which is nothing unusual
            logger.warning(f"step {step} is left out: {found}")
            model.zero_grad()  # an optimizer leaves alone what has no gradient
        self.step_statistics.discard_step()
        self._tr_loss.fill_(self._loss_before_step)
        return grad_norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Completes a training line before anybody sees it: metrics.jsonl and every tracker get the same figures."""
        if "loss" in logs:
            figures = self.step_statistics.summary(self.accelerator.gather, self.accelerator.device)
            logs |= figures | (self.speed.since_last_line(self.state.global_step) if self.speed else {})
            if self.max_skipped_steps or self.accelerator.scaler is not None:
                logs["skipped_steps"] = self.skipped_steps
            if self.skipped_in_a_row:  # the library's number is not that of a step that was made
                del logs["grad_norm"]
            if not figures:  # no step at all
                del logs["loss"]
        super().log(logs, start_time)

    def evaluation_of(self, step: int) -> dict[str, float] | None:
        """The metrics of the validation part after this step, if they were the last that were measured."""
        return self._evaluation[1] if self._evaluation is not None and self._evaluation[0] == step else None

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """The Trainer's own evaluation; empty where it was abandoned for a stop, which a resumed run makes up for.

        Raises:
            RunStoppedError: asked to stop outside of training, where nothing needs to be saved.
        """
        was_training = self.model.training
        try:
            # The library's loader draws a seed from the numbers that are for dropout. An evaluation that is made up for
            # must leave them where it would have left them in its time.
            with torch.random.fork_rng(devices=[]):
                return super().evaluate(*args, **kwargs)
        except _AbandonedError:
            self.model.train(was_training)
            if not (self.is_in_train and self.state.global_step):
                self.stop.raise_if_asked()
            self.stop_here(evaluation_is_due=True)
            return {}

    def stop_here(self, evaluation_is_due: bool) -> None:
        """Has the library save a checkpoint of the step that has just ended, and leave its loop."""
        self.evaluation_is_due, self.is_stopping = evaluation_is_due, True
        self.control.should_evaluate = False
        self.control.should_save = self.control.should_training_stop = True

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Whether the model is the best so far and therefore saved; so is one whose evaluation was abandoned."""
        return super()._determine_best_metric(metrics, trial) if metrics else True

    def _progress(self) -> dict[str, Any]:
        return {
            **super()._progress(),
            "evaluation_is_due": self.evaluation_is_due,
            "skipped_in_a_row": self.skipped_in_a_row,
            "skipped_steps": self.skipped_steps,
            "step_statistics": self.step_statistics.state(),
        }

    def _restore_progress(self) -> None:
        file = self._resumed_from / progress_file(self.args.process_index)
        if not file.exists():  # saved by fewer processes
            file = self._resumed_from / progress_file(0)
        progress = json.loads(file.read_text(encoding="utf-8"))
        self.skipped_in_a_row, self.skipped_steps = progress["skipped_in_a_row"], progress["skipped_steps"]
        self.step_statistics.load_state(progress["step_statistics"])
        done = {line["step"] for line in read_metrics(self.checkpoints.run) if "eval_loss" in line}
        if progress["evaluation_is_due"] and self.state.global_step not in done:
            metrics = self.evaluate()
            if self.evaluation_is_due:  # abandoned again, and still due in the same checkpoint
                self.stop.raise_if_asked()
            self._determine_best_metric(metrics, trial=None)


class _StepBoundary(TrainerCallback):
    """Hands the library's events to the Trainer: where a step begins and ends, and where a resumed run sets in."""

    def __init__(self, trainer: ReliableTrainer):
        self.trainer = trainer

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        if self.trainer._resumed_from is not None:
            state.compute_steps(args, state.max_steps)  # the library goes on logging, measuring and saving as before
            self.trainer._restore_progress()

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        self.trainer._loss_before_step = self.trainer._tr_loss.clone()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        self.trainer.evaluation_is_due = False
        if state.epoch.is_integer():
            # Now, and not after the checkpoint of this step, from which nothing would make up for it.
            DefaultFlowCallback().on_epoch_end(args, state, control)
        if self.trainer.stop.agreed(args.device):
            self.trainer.stop_here(evaluation_is_due=control.should_evaluate)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        if state.epoch.is_integer() or self.trainer.is_stopping:  # the library comes here from the midst of one too
            control.should_log = control.should_evaluate = control.should_save = False

    def on_prediction_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        if self.trainer.stop.agreed(args.device):
            raise _AbandonedError

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        if "eval_loss" in kwargs["metrics"]:
            self.trainer._evaluation = state.global_step, kwargs["metrics"]
