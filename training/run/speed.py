"""How fast a run trains, without evaluations and what is drawn and saved right after them."""

import time
from pathlib import Path

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..optimization.matmul import measured_peak
from ..record import metrics_until


class Speed(TrainerCallback):
    """Measures from the library's events. The Trainer asks for figures when a line is due, the monitor for the time.

    Args:
        run: the run folder, whose lines say how much time earlier starts have taken.
        unit: what is counted: `tokens` or `examples`.
        step_size: units in an optimizer step.
        flops_per_unit: floating-point operations that each takes, for MFU; `None`: not known.
    """

    def __init__(self, run: Path, unit: str, step_size: int, flops_per_unit: float | None):
        self.run, self.unit, self.step_size, self.flops_per_unit = run, unit, step_size, flops_per_unit
        self.peak_flops = 0.0  # a second, of all devices together; measured when training begins
        self.started_at = 0.0
        self.previous = (0.0, 0)  # elapsed seconds and step of the last training line
        self.paused_at: float | None = None  # elapsed seconds at which the last evaluation began
        self.paused_seconds = 0.0  # from evaluations to the next step, since the last training line

    @property
    def elapsed_seconds(self) -> float:
        """Of training, over all resumes."""
        return time.perf_counter() - self.started_at

    def utilization(self, rate: float) -> dict[str, float]:
        """MFU at so many units a second: the model's arithmetic as a fraction of what the devices can do."""
        if self.flops_per_unit is None:
            return {}
        return {"mfu": float(f"{rate * self.flops_per_unit / self.peak_flops:.4g}")}

    def since_last_line(self, step: int) -> dict[str, float]:
        """The figures of a training line at this step."""
        seconds, previous_step = self.previous
        elapsed = self.elapsed_seconds
        rate = (step - previous_step) * self.step_size / (elapsed - seconds - self.paused_seconds)
        self.previous = (elapsed, step)
        self.paused_seconds = 0.0
        return {f"{self.unit}_per_second": round(rate, 1), **self.utilization(rate)}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        if self.flops_per_unit is not None:
            # On all ranks at once, as they train: those of one machine share its processor.
            dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
            self.peak_flops = measured_peak(args.device, dtype) * args.world_size
        lines = metrics_until(self.run, state.global_step)
        elapsed = lines[-1]["elapsed_seconds"] if lines else 0.0
        self.started_at = time.perf_counter() - elapsed
        self.previous = (elapsed, state.global_step)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        if self.paused_at is not None:
            self.paused_seconds += self.elapsed_seconds - self.paused_at
            self.paused_at = None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        # Saved with every checkpoint; the library leaves it alone, unless it is asked to count them itself.
        state.num_input_tokens_seen += self.step_size

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        runtimes = [value for name, value in kwargs["metrics"].items() if name.endswith("_runtime")]
        self.paused_at = self.elapsed_seconds - sum(runtimes)
