"""
The library's Trainer with checkpoints that are complete or absent, in a form that does not depend on how weights are
wrapped or shared out.
"""

import json
import logging
from pathlib import Path
from typing import Any

import torch
from accelerate.optimizer import AcceleratedOptimizer
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from transformers import PreTrainedModel

from modeling_gpt_scratch.model_folder import fresh_model

from ..errors import InputError
from ..record import CHECKPOINT
from .checkpoints import OPTIMIZER, OTHER_VERSION, SCHEDULER, Checkpoints, progress_file

logger = logging.getLogger(__name__)

# How FSDP's shards become one state on the first process's CPU, and such a state shards.
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
_FROM_FIRST_PROCESS = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)


class SavingTrainer:
    """What `transformers.Trainer` or a subclass of it gets, as a base class before it, to save and load checkpoints.

    Args:
        checkpoints: where they go.
        model: of a Transformers class, not a path.
        **kwargs: those of the Trainer.

    Raises:
        InputError: checkpoints cannot hold the model, or the Trainer is to look for the best one among them.
    """

    def __init__(self, *, checkpoints: Checkpoints, model: PreTrainedModel, **kwargs):
        _require_whole(model)
        self.checkpoints = checkpoints
        self._saving = False
        use_cache = getattr(model.config, "use_cache", None)
        super().__init__(model=model, **kwargs)
        _require_whole(self.model)  # TRL puts one that gets a `peft_config` into another
        if self.args.load_best_model_at_end:
            raise InputError(
                "load_best_model_at_end finds no checkpoint of this Trainer: set it to false, and open the checkpoint "
                "with the lowest eval_loss yourself"
            )
        self.model_class: type[PreTrainedModel] = type(self.model)  # FSDP makes the model one of another class
        if use_cache is not None:
            # The library has put TrainingArguments.use_cache there. Saved, it makes generation slow for whoever loads
            # it.
            self.model.config.use_cache = use_cache

    def _progress(self) -> dict[str, Any]:
        """What belongs to a process's part of a checkpoint, as JSON, and the library's own files lack."""
        return {}

    def portable_model(self) -> PreTrainedModel | None:
        """The model as it is now, of its own class and under its own names, on the first process's CPU.

        Whatever it is wrapped in. Every process must call it, since each may hold a part; the others get `None`.
        """
        state_dict = self.accelerator.get_state_dict(self.model_wrapped)
        if not self.is_world_process_zero():
            return None
        # Classifiers have no generation_config.
        generation_config = getattr(self.model, "generation_config", None)
        return fresh_model(self.model_class, self.model.config, state_dict, generation_config)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Writes a folder that `from_pretrained` opens. Every process must call it.

        It is not opened again, which would take as long once more at every checkpoint: its hashes are compared before a
        run goes on from it, and then weights that are missing or left over are an error.
        """
        model = self.portable_model()
        if model is not None:
            folder = output_dir or self.args.output_dir
            model.save_pretrained(folder)
            tokenizer = self.processing_class or getattr(self.data_collator, "tokenizer", None)
            if tokenizer is not None:
                tokenizer.save_pretrained(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        """Loads every weight. The library's own way calls tied ones missing, and expects other files under FSDP."""
        model = self.model if model is None else model
        state_dict = {}
        if not self.is_fsdp_enabled or self.is_world_process_zero():
            for file in sorted(Path(resume_from_checkpoint).glob("*.safetensors")):
                state_dict |= load_file(file)
            # Written once, though the model has two names for it.
            state_dict |= {alias: state_dict[source] for alias, source in self.model.all_tied_weights_keys.items()}
        try:
            if self.is_fsdp_enabled:
                set_model_state_dict(model, state_dict, options=_FROM_FIRST_PROCESS)
            else:
                model.load_state_dict(state_dict)
        except (RuntimeError, KeyError) as error:
            found = " ".join(str(error).split())
            raise InputError(
                f"{resume_from_checkpoint} is of another model, perhaps as {OTHER_VERSION}: go on with that one, or "
                f"choose another output_dir ({found[:300]})"
            ) from error

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
                place = self.checkpoints.staging / f"{CHECKPOINT}{step}" / progress_file(self.args.process_index)
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
                self.checkpoints.publish(step, is_scaled=self.accelerator.scaler is not None)
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

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Writes the optimizer's state by the weights' names, the same whether they are in shards or not."""
        state = get_optimizer_state_dict(self.model, _without_wrapper(self.optimizer), options=_WHOLE)
        if self.is_world_process_zero():
            torch.save(state, Path(output_dir, OPTIMIZER))
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir, SCHEDULER))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Takes the state from the checkpoint, but the settings and the rates from this run's recipe."""
        optimizer, scheduler = _without_wrapper(self.optimizer), self.lr_scheduler
        settings = [
            {name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups
        ]
        peaks = list(scheduler.base_lrs)
        state, options = {}, _FROM_FIRST_PROCESS if self.is_fsdp_enabled else None
        if not self.is_fsdp_enabled or self.is_world_process_zero():
            state = torch.load(Path(checkpoint, OPTIMIZER), map_location="cpu", weights_only=True)
        try:
            set_optimizer_state_dict(self.model, optimizer, state, options=options)
        except (ValueError, KeyError) as error:
            found = " ".join(str(error).split())
            raise InputError(f"{checkpoint} is of another optimizer: {found[:300]}") from error
        saved = torch.load(Path(checkpoint, SCHEDULER), weights_only=True)
        steps = saved["last_epoch"]
        rates = [peak * factor(steps) for peak, factor in zip(peaks, scheduler.lr_lambdas, strict=True)]
        scheduler.load_state_dict(saved | {"base_lrs": peaks, "_last_lr": rates})
        for group, own, rate in zip(optimizer.param_groups, settings, rates, strict=True):
            group.update(own, lr=rate)


def _require_whole(model: Any) -> None:
    if not isinstance(model, PreTrainedModel) or hasattr(model, "peft_config"):
        raise InputError(
            f"checkpoints hold all weights of a Transformers model, but model is {type(model).__name__}, or has "
            "adapters: load it with from_pretrained, and train it without LoRA"
        )


def _without_wrapper(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer itself. Accelerate's wrapper scales gradients, of which there are none while a state is loaded."""
    return optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for item in values for tensor in _tensors(item)]
