"""Watching a run: a progress bar in tokens, and metrics.jsonl, from which charts.py draws and the page reports."""

import json
import logging
import math
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from modeling_gpt_scratch.durable import write_durably

from ..optimization.matmul import measured_peak
from ..record import METRICS, read_metrics

logger = logging.getLogger(__name__)

# What a training line holds of what the Trainer logs.
TRAINING_FIGURES = (
    *("loss", "loss_min", "loss_max", "grad_norm", "grad_norm_max", "clipped"),
    *("learning_rate", "skipped_steps", "tokens_per_second", "mfu"),
)


class RunMonitor(TrainerCallback):
    """Shows a run's progress and writes what the Trainer logs to metrics.jsonl.

    A line holds `step`, `tokens` (trained on so far), `elapsed_seconds` (of training, over all resumes), and either
    training figures (`TRAINING_FIGURES`) or evaluation figures (`eval_*`); docs/watching.md explains them.

    Args:
        folder: the run folder.
        tokens_per_step: tokens of an optimizer step.
        flops_per_token: floating-point operations that a token takes, for MFU.
    """

    def __init__(self, folder: Path, tokens_per_step: int, flops_per_token: float):
        self.folder = folder
        self.tokens_per_step = tokens_per_step
        self.flops_per_token = flops_per_token
        self.unwritten = ""  # lines that the disk had no space for
        self.has_warned = False
        self.peak_flops = 0.0  # a second, of all devices together; measured when training begins
        self.bar: tqdm | None = None
        self.started_at = 0.0
        self.previous = (0.0, 0)  # elapsed seconds and step of the last training line
        self.paused_at: float | None = None  # elapsed seconds at which the last evaluation began
        self.paused_seconds = 0.0  # from evaluations to the next step, since the last training line

    @property
    def elapsed_seconds(self) -> float:
        return time.perf_counter() - self.started_at

    def utilization(self, tokens_per_second: float) -> float:
        """MFU: the model's arithmetic as a fraction of what the devices can do."""
        return tokens_per_second * self.flops_per_token / self.peak_flops

    def speed_at(self, step: int) -> dict[str, float]:
        """Speed since the last training line, without evaluations and what is drawn and saved right after them."""
        if self.bar is None:  # another rank
            return {}
        seconds, previous_step = self.previous
        elapsed = self.elapsed_seconds
        rate = (step - previous_step) * self.tokens_per_step / (elapsed - seconds - self.paused_seconds)
        self.previous = (elapsed, step)
        self.paused_seconds = 0.0
        return {"tokens_per_second": round(rate, 1), "mfu": float(f"{self.utilization(rate):.4g}")}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        # On all ranks at once, as they train: those of one machine share its processor.
        dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
        self.peak_flops = measured_peak(args.device, dtype) * args.world_size
        if not state.is_world_process_zero:
            return
        # A run that is resumed repeats the steps after its checkpoint, so their lines go.
        kept = [line for line in read_metrics(self.folder) if line["step"] <= state.global_step and state.global_step]
        write_durably(self.folder / METRICS, "".join(json.dumps(line) + "\n" for line in kept))
        elapsed = kept[-1]["elapsed_seconds"] if kept else 0.0
        self.started_at = time.perf_counter() - elapsed
        self.previous = (elapsed, state.global_step)
        self.bar = tqdm(
            total=state.num_input_tokens_seen + (state.max_steps - state.global_step) * self.tokens_per_step,
            initial=state.num_input_tokens_seen,
            desc="training",
            unit="tok",
            unit_scale=True,
            disable=bool(args.disable_tqdm),
        )

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        if self.paused_at is not None:
            self.paused_seconds += self.elapsed_seconds - self.paused_at
            self.paused_at = None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        # Saved with every checkpoint; the library leaves it alone, unless it is asked to count them itself.
        state.num_input_tokens_seen += self.tokens_per_step
        if self.bar is not None:
            self.bar.update(self.tokens_per_step)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **kwargs
    ):
        if self.bar is None:  # another rank, or not training
            return
        line = {
            "step": state.global_step,
            "tokens": state.num_input_tokens_seen,
            "elapsed_seconds": round(self.elapsed_seconds, 3),
        }
        if "loss" in logs:
            if not math.isfinite(logs["loss"]):  # though the gradients are
                raise FloatingPointError(f"training broke down by step {state.global_step}: the loss is {logs['loss']}")
            line |= {name: logs[name] for name in TRAINING_FIGURES if name in logs}
            self.bar.set_postfix(loss=f"{logs['loss']:.3f}")
        elif "eval_loss" in logs:
            self.paused_at = self.elapsed_seconds - logs["eval_runtime"]
            line |= {name: value for name, value in logs.items() if name.startswith("eval_")}
            self.bar.write(
                f"step {state.global_step:,}: validation loss {logs['eval_loss']:.4f} nats per token, "
                f"{logs['eval_bits_per_byte']:.4f} bits per byte"
            )
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
