"""A run while it trains: a progress bar, and metrics.jsonl, from which charts are drawn and the page reports."""

import json
import logging
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from modeling_gpt_scratch.durable import write_durably

from ..record import METRICS, metrics_until
from .speed import Speed

logger = logging.getLogger(__name__)

# What a training line holds of what the Trainer logs.
TRAINING_FIGURES = (
    *("loss", "loss_min", "loss_max", "grad_norm", "grad_norm_max", "clipped"),
    *("learning_rate", "skipped_steps", "tokens_per_second", "mfu"),
)


class RunMonitor(TrainerCallback):
    """Shows a run's progress and writes what the Trainer logs to metrics.jsonl.

    A line holds `step`, `tokens` or `examples` (trained on so far), `elapsed_seconds` (of training, over all resumes),
    and either training figures (`TRAINING_FIGURES`) or evaluation figures (`eval_*`); docs/watching.md explains them.

    Args:
        folder: the run folder.
        speed: knows the time, and what a step consists of.
        figures: what an evaluation finds -> how it is called, for the line that people read.
    """

    def __init__(self, folder: Path, speed: Speed, figures: dict[str, str]):
        self.folder = folder
        self.speed = speed
        self.figures = figures
        self.unwritten = ""  # lines that the disk had no space for
        self.has_warned = False
        self.bar: tqdm | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        if not state.is_world_process_zero:
            return
        # A run that is resumed repeats the steps after its checkpoint, so their lines go.
        kept = metrics_until(self.folder, state.global_step)
        write_durably(self.folder / METRICS, "".join(json.dumps(line) + "\n" for line in kept))
        self.bar = tqdm(
            total=state.num_input_tokens_seen + (state.max_steps - state.global_step) * self.speed.step_size,
            initial=state.num_input_tokens_seen,
            desc="training",
            unit={"tokens": "tok"}.get(self.speed.unit, self.speed.unit),
            unit_scale=True,
            disable=bool(args.disable_tqdm),
        )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        if self.bar is not None:
            self.bar.update(self.speed.step_size)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **kwargs
    ):
        if self.bar is None:  # another rank, or not training
            return
        line = {
            "step": state.global_step,
            self.speed.unit: state.num_input_tokens_seen,
            "elapsed_seconds": round(self.speed.elapsed_seconds, 3),
        }
        if "loss" in logs:
            if not math.isfinite(logs["loss"]):  # though the gradients are
                raise FloatingPointError(f"training broke down by step {state.global_step}: the loss is {logs['loss']}")
            names = (*TRAINING_FIGURES, f"{self.speed.unit}_per_second")
            line |= {name: logs[name] for name in names if name in logs}
            self.bar.set_postfix(loss=f"{logs['loss']:.3f}")
        elif "eval_loss" in logs:
            line |= {name: value for name, value in logs.items() if name.startswith("eval_")}
            found = ", ".join(f"{logs[name]:.4f} {what}" for name, what in self.figures.items() if name in logs)
            self.bar.write(f"step {state.global_step:,}: validation loss {found}")
        else:
            return
        self.unwritten += json.dumps(line) + "\n"
        self._write_lines()

    def _write_lines(self) -> None:
        """Appends what is not written yet, whole or not at all; a full disk costs no run, and lines wait for space."""
        file = self.folder / METRICS
        size = None
        try:
            size = file.stat().st_size if file.exists() else 0
            with file.open("a", encoding="utf-8") as stream:
                stream.write(self.unwritten)
            self.unwritten = ""
        except OSError as error:
            if size is not None:
                with suppress(OSError):  # it cannot be opened either
                    os.truncate(file, size)
            if not self.has_warned:
                logger.warning(f"{file} cannot be written, training goes on: {error}")
            self.has_warned = True

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        if self.bar is not None:
            if self.unwritten:
                self._write_lines()
            self.bar.close()
            self.bar = None
