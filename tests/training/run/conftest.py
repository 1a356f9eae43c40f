"""Tiny runs and trainers for the tests of what a run does."""

import pytest
import torch

from benchmarks import faults
from modeling_gpt_scratch import GPTScratchForCausalLM
from tests.training.run.endings import IDS
from tests.training.run.tiny_trainers import LENGTH, Vector, training_arguments
from training.data.windows import TokenWindows, WindowOrder
from training.run.checkpoints import Checkpoints
from training.run.interruption import StopRequest
from training.run.window_trainer import GPTScratchTrainer


@pytest.fixture
def argv(tmp_path):
    """The command line of a tiny run with dropout; options can be overridden."""
    faults.write_corpus(tmp_path / "corpus")

    def build(processes: int = 1, **options) -> list[str]:
        words = faults.command(tmp_path, "run", processes=processes, workers=0, steps=24)
        for name, value in options.items():
            words += [f"--{name}", str(value)]
        return words

    return build


@pytest.fixture
def build_trainer(tiny_config, tmp_path):
    """Our Trainer on 64 windows of 16 random tokens; TrainingArguments can be overridden."""

    def build(
        muon_learning_rate=None, model=None, eval_windows=None, document_start=None, ours=None, **arguments
    ) -> GPTScratchTrainer:
        settings = {
            "max_steps": 3,
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-2,
            "remove_unused_columns": False,
        }
        args = training_arguments(tmp_path, **settings | arguments)
        train = TokenWindows(Vector(64 * LENGTH + 1), LENGTH, document_start=document_start)
        samples = args.max_steps * args.per_device_train_batch_size * args.gradient_accumulation_steps
        torch.manual_seed(0)
        return GPTScratchTrainer(
            model=GPTScratchForCausalLM(tiny_config()) if model is None else model,
            args=args,
            train_dataset=train,
            eval_dataset=eval_windows or TokenWindows(Vector(5 * LENGTH + 4), LENGTH, True, document_start),
            order=WindowOrder(len(train), samples, seed=3, shuffle=True),
            muon_learning_rate=muon_learning_rate,
            eval_utf8_bytes=200,
            checkpoints=Checkpoints(tmp_path, {}, limit=None),
            stop=StopRequest(),
            **(ours or {}),
        )

    return build


@pytest.fixture
def trained_logits(monkeypatch) -> dict[int, torch.Tensor]:
    """What a run's live model says at each step at which it is saved."""
    logits, portable_model = {}, GPTScratchTrainer.portable_model

    def watch(self):
        with torch.no_grad():
            logits[self.state.global_step] = self.model.eval()(IDS).logits
        self.model.train()
        return portable_model(self)

    monkeypatch.setattr(GPTScratchTrainer, "portable_model", watch)
    return logits
