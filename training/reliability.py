"""
The library's Trainer, made safe: checkpoints that are complete or absent, no step with a gradient that is no number, an
orderly stop, and a resumed run that is the uninterrupted one, bit for bit.
"""

import json
import logging
import math
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .checkpoints import PREFIX, Checkpoints
from .interruption import StopRequest
from .monitoring import read_metrics

logger = logging.getLogger(__name__)


class ReliableTrainer(Trainer):
    """Adds to the library's Trainer what its resume lacks.

    Args:
        checkpoints: where they go.
        stop: asked at the end of every step and between the batches of an evaluation.
        max_skipped_steps: how many steps in a row may be left out because their gradient is not finite.
        **kwargs: those of `transformers.Trainer`.
    """

    def __init__(self, *, checkpoints: Checkpoints, stop: StopRequest, max_skipped_steps: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.add_callback(_StepBoundary(self))
        self.checkpoints = checkpoints
        self.stop = stop
        self.max_skipped_steps = max_skipped_steps
        self.skipped_in_a_row = self.skipped_steps = 0
        self.evaluation_is_due = False
        self._resumed_from: Path | None = None
        self._saving = False
        self._loss_before_step = 0.0

    def train(self, resume_from_checkpoint: str | Path | None = None, **kwargs) -> Any:
        self._resumed_from = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        return super().train(resume_from_checkpoint=resume_from_checkpoint and str(resume_from_checkpoint), **kwargs)

    def stop_here(self, evaluation_is_due: bool) -> None:
        """Has the library save a checkpoint of the step that has just ended, and leave its loop."""
        self.evaluation_is_due = evaluation_is_due
        self.control.should_evaluate = False
        self.control.should_save = self.control.should_training_stop = True

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: torch.Tensor | float | None = None) -> Any:
        """The library asks for it between clipping and the optimizer's step, so nothing has been changed yet.

        Raises:
            FloatingPointError: it is not finite, more often in a row than is allowed.
        """
        grad_norm = super()._get_grad_norm(model, grad_norm)
        # Scaled fp16 gradients do overflow, and their scaler leaves the step out itself.
        if self.accelerator.scaler is not None or math.isfinite(float(grad_norm)):
            self.skipped_in_a_row = 0
            return grad_norm
        self.skipped_in_a_row += 1
        self.skipped_steps += 1
        step = self.state.global_step + 1
        if self.skipped_in_a_row > self.max_skipped_steps:
            good = self.checkpoints.all()
            raise FloatingPointError(
                f"training broke down in step {step}: the gradient norm is {float(grad_norm)}; no weight was changed "
                f"by it, and the last checkpoint is {good[-1].name if good else 'none'}"
            )
        logger.warning(f"step {step} is left out: its gradient norm is {float(grad_norm)}")
        model.zero_grad()  # an optimizer leaves alone what has no gradient
        self._tr_loss.fill_(self._loss_before_step)
        return grad_norm

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.checkpoints.staging) if self._saving else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """The library's checkpoint and our progress, complete under its name or not at all.

        What cannot be written is given up with a warning: a full disk must not end a run.
        """
        leads = self.is_world_process_zero()
        tensors = [*self.model.parameters(), *_tensors(self.optimizer.state_dict())]
        problem = self.checkpoints.lack_of_space(sum(tensor.nbytes for tensor in tensors)) if leads else None
        step = self.state.global_step
        self._saving = True
        try:
            if not self._on_any_rank(problem is not None):
                if leads:
                    self.checkpoints.discard_staging()
                self.accelerator.wait_for_everyone()
                super()._save_checkpoint(model, trial)
                progress = json.dumps(self._progress())
                place = self.checkpoints.staging / f"{PREFIX}{step}" / f"progress-{self.args.process_index}.json"
                place.write_text(progress, encoding="utf-8")
        except (OSError, SafetensorError, RuntimeError) as error:
            # torch.save reports a full disk as a RuntimeError of its file writer.
            if isinstance(error, RuntimeError) and "PytorchStreamWriter" not in str(error):
                raise
            problem = " ".join(str(error).split())
        finally:
            self._saving = False
        failed = self._on_any_rank(problem is not None)
        if leads and not failed:
            try:
                self.checkpoints.publish(step)
            except OSError as error:
                problem = str(error)
        if leads and (failed or problem is not None):
            self.checkpoints.discard_staging()
            logger.warning(f"checkpoint-{step} could not be saved, training goes on: {problem or 'another process'}")
        self.accelerator.wait_for_everyone()

    def _on_any_rank(self, condition: bool) -> bool:
        if self.accelerator.num_processes == 1:
            return condition
        flag = torch.tensor(int(condition), device=self.args.device)
        return bool(self.accelerator.reduce(flag, reduction="sum"))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        # In the oldest supported versions, several processes on CPUs ask for tensors on "cpu:0", unknown to torch.
        _know_numbered_cpus()
        super()._load_optimizer_and_scheduler(checkpoint)

    def _progress(self) -> dict[str, Any]:
        """What the library's checkpoint lacks."""
        return {
            "evaluation_is_due": self.evaluation_is_due,
            "skipped_in_a_row": self.skipped_in_a_row,
            "skipped_steps": self.skipped_steps,
        }

    def _load_progress(self, progress: dict[str, Any]) -> None:
        self.skipped_in_a_row, self.skipped_steps = progress["skipped_in_a_row"], progress["skipped_steps"]

    def _restore_progress(self) -> None:
        file = self._resumed_from / f"progress-{self.args.process_index}.json"
        if not file.exists():  # saved by fewer processes
            file = self._resumed_from / "progress-0.json"
        progress = json.loads(file.read_text(encoding="utf-8"))
        self._load_progress(progress)
        done = {line["step"] for line in read_metrics(self.checkpoints.run) if "eval_loss" in line}
        if progress["evaluation_is_due"] and self.state.global_step not in done and not self.evaluate():
            self.stop.raise_if_asked()  # abandoned again, and still due in the same checkpoint


class _StepBoundary(TrainerCallback):
    """Hands the library's events to the Trainer: where a step begins and ends, and where a resumed run sets in."""

    def __init__(self, trainer: ReliableTrainer):
        self.trainer = trainer

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        if self.trainer._resumed_from is not None:
            self.trainer._restore_progress()

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        self.trainer._loss_before_step = self.trainer._tr_loss.clone()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        self.trainer.evaluation_is_due = False
        if self.trainer.stop.agreed(args.device):
            self.trainer.stop_here(evaluation_is_due=control.should_evaluate)


@cache  # torch refuses a second entry of the same priority
def _know_numbered_cpus() -> None:
    torch.serialization.register_package(
        0, lambda storage: None, lambda storage, location: storage if location.startswith("cpu:") else None
    )


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for item in values for tensor in _tensors(item)]
