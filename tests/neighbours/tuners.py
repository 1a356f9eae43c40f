"""Tiny fine-tunings under the library's Trainer and TRL's, each with dropout, Muon, a schedule and checkpoints."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from transformers import (
    DataCollatorForLanguageModeling,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
)

from modeling_gpt_scratch import GPTScratchConfig, GPTScratchForCausalLM, GPTScratchForSequenceClassification
from tests.training.run.tiny_trainers import training_arguments
from training.optimization.schedules import learning_rate_factor
from training.run.checkpoints import Checkpoints
from training.run.interruption import StopRequest
from training.run.trainer import ReliableTrainer

LINE = "It was a bright morning, and the old lighthouse keeper climbed the stairs as he had done for forty years."
TEXTS = [LINE[start : start + 20 + 7 * (start % 5)] for start in range(11)] * 2
STEPS = 18  # three epochs of 22 rows: five steps of two micro-batches of two rows, and one of a single micro-batch
SETTINGS = {
    "num_train_epochs": 3,
    "per_device_train_batch_size": 2,
    "per_device_eval_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "learning_rate": 1e-2,
    "weight_decay": 0.1,
    "logging_steps": 3,
    "eval_strategy": "steps",
    "eval_steps": 5,
    "save_strategy": "steps",
    "save_steps": 4,
    "report_to": "none",
}
MUON_LEARNING_RATE = 0.02
SCHEDULE = partial(learning_rate_factor, kind="cosine", warmup_steps=3, total_steps=STEPS, decay_steps=10, floor=0.1)
DROPOUT = dict.fromkeys(("embedding_dropout", "attention_dropout", "residual_dropout", "classifier_dropout"), 0.1)


class ReliableStockTrainer(ReliableTrainer, Trainer):
    pass


class At(TrainerCallback):
    """Does something when a step has ended, or at another event after that step."""

    def __init__(self, step: int, act: Callable[[], None], event: str = "on_step_end"):
        self.step, self.act = step, act
        setattr(self, event, self._when)

    def _when(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.act()


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {"vocab_size": len(tokenizer)} | {name: getattr(tokenizer, name) for name in names}


def reliability(run: Path, stop: StopRequest | None = None) -> dict:
    """What every Trainer here gets beside the library's arguments."""
    run.mkdir(exist_ok=True)
    return {
        "schedule": SCHEDULE,
        "muon_learning_rate": MUON_LEARNING_RATE,
        "checkpoints": Checkpoints(run, {"batch": {"processes": 1}}, limit=None),
        "stop": stop or StopRequest(),
    }


def classification(config: GPTScratchConfig, tokenizer, run: Path, settings: dict, **others) -> ReliableTrainer:
    rows = [tokenizer(text) | {"labels": number % 2} for number, text in enumerate(TEXTS)]
    return ReliableStockTrainer(
        model=GPTScratchForSequenceClassification(config),
        args=training_arguments(run, **SETTINGS | settings),
        train_dataset=rows,
        eval_dataset=rows[:7],
        processing_class=tokenizer,
        **others,
    )


def gpt2(config: GPTScratchConfig, tokenizer, run: Path, settings: dict, **others) -> ReliableTrainer:
    """The library's own model, whose blocks and matrices have other names and classes than ours."""
    rows = [tokenizer(text) for text in TEXTS]
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    return ReliableStockTrainer(
        model=GPT2LMHeadModel(GPT2Config(**sizes, **special_tokens(tokenizer))),
        args=training_arguments(run, **SETTINGS | settings),
        train_dataset=rows,
        eval_dataset=rows[:7],
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        **others,
    )


def sft(config: GPTScratchConfig, tokenizer, run: Path, settings: dict, **others) -> ReliableTrainer:
    trl = pytest.importorskip("trl", reason="needs the extra 'finetune'")
    from datasets import Dataset

    class ReliableSFTTrainer(ReliableTrainer, trl.SFTTrainer):
        pass

    dataset = Dataset.from_dict({"prompt": [f"{text}\n" for text in TEXTS], "completion": TEXTS[::-1]})
    stock = training_arguments(run, **SETTINGS | settings).to_dict()
    return ReliableSFTTrainer(
        model=GPTScratchForCausalLM(config),
        args=trl.SFTConfig(**stock | {"max_length": 64, "bf16": False}),
        train_dataset=dataset,
        eval_dataset=dataset.select(range(7)),
        processing_class=tokenizer,
        **others,
    )
