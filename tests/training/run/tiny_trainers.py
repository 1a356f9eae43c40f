"""What trainers of tiny models are made of, and what they have logged."""

from pathlib import Path

import numpy as np
from transformers import Trainer, TrainingArguments

LENGTH = 16


class Vector:
    """Stands for a TokenVector: random ids."""

    def __init__(self, length: int):
        self.ids = np.random.default_rng(0).integers(0, 128, length)

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, window):
        return self.ids[window]


def training_arguments(output_dir: Path, **arguments) -> TrainingArguments:
    """Those of a run on the CPU that logs every step and saves nothing; any can be overridden."""
    settings = {"logging_steps": 1, "save_strategy": "no", "use_cpu": True, "disable_tqdm": True}
    return TrainingArguments(output_dir=str(output_dir), **settings | arguments)


def history(trainer: Trainer, name: str) -> list[float]:
    return [line[name] for line in trainer.state.log_history if name in line]
