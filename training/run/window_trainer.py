"""The library's Trainer, on token windows: exact token counts, a loss without full logits, our order and optimizers."""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset, Subset

from ..data.windows import IGNORED, TokenWindows, WindowOrder, collate_windows
from ..optimization.muon import Muon
from ..optimization.optimizers import MuonWithAuxiliary
from .step_statistics import StepStatistics
from .trainer import ReliableTrainer


class GPTScratchTrainer(ReliableTrainer):
    """Trains a `GPTScratchForCausalLM` on [`TokenWindows`].

    Args:
        order: which window comes when; overrides the library's sampler.
        muon_learning_rate: train the blocks' matrices with Muon at this rate, or `None`.
        muon_dtype: in which it orthogonalises.
        eval_utf8_bytes: size of the evaluation text, for bits per byte.
        speed_at: figures of speed at a step, to be added to its training line; `None`: none.
        schedule: what the learning rates are multiplied by, as a function of the steps made so far.
        decay_everything: weight decay on biases and norms too.
        **kwargs: those of [`ReliableTrainer`].
    """

    def __init__(
        self,
        *,
        order: WindowOrder,
        muon_learning_rate: float | None,
        eval_utf8_bytes: int,
        muon_dtype: torch.dtype = torch.float32,
        speed_at: Callable[[int], dict[str, float]] | None = None,
        schedule: Callable[[int], float] = lambda step: 1.0,
        decay_everything: bool = False,
        **kwargs,
    ):
        use_cache = kwargs["model"].config.use_cache
        super().__init__(data_collator=collate_windows, **kwargs)
        # The library has put TrainingArguments.use_cache there. Saved, it makes generation slow for whoever loads it.
        self.model.config.use_cache = use_cache
        self.order = order
        self.muon_learning_rate = muon_learning_rate
        self.muon_dtype = muon_dtype
        self.eval_utf8_bytes = eval_utf8_bytes
        self.speed_at = speed_at
        self.step_statistics = StepStatistics(self.args.max_grad_norm)
        self._evaluation: tuple[int, dict[str, float]] | None = (
            None  # the last one on the validation part: step, metrics
        )
        self.schedule = schedule
        self.decay_everything = decay_everything
        # The library's smoother takes the labels away from the model and, for classes that it does not know, compares
        # each position with its own input. `compute_loss` smooths instead.
        self.label_smoother = None

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> WindowOrder:
        return self.order

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is not None or self.muon_learning_rate is None:
            return super().create_optimizer() if model is None else super().create_optimizer(model)
        model = self.model if model is None else model
        decayed = set(self.get_decay_parameter_names(model))
        # Muon orthogonalises what a matrix does to a vector, which an embedding or a head does not do.
        in_blocks = {name for name, parameter in model.named_parameters() if ".layers." in name and parameter.ndim == 2}
        matrices, others, others_decayed = [], [], []
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                (matrices if name in in_blocks else others_decayed if name in decayed else others).append(parameter)
        optimizer_class, settings = self.get_optimizer_cls_and_kwargs(self.args, model)
        auxiliary = optimizer_class(
            [
                {"params": others_decayed, "weight_decay": self.args.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            **settings,
        )
        muon = Muon(matrices, lr=self.muon_learning_rate, weight_decay=self.args.weight_decay, dtype=self.muon_dtype)
        self.optimizer = MuonWithAuxiliary(muon, auxiliary)
        return self.optimizer

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        return [name for name, parameter in model.named_parameters() if self.decay_everything or parameter.ndim >= 2]

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        if self.lr_scheduler is None:
            optimizer = self.optimizer if optimizer is None else optimizer
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.schedule)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, dict]:
        """Cross-entropy in nats per counted token of the whole accumulated batch, without materialising all logits."""
        if self.args.label_smoothing_factor == 0:
            inputs = {**inputs, "use_cache": False, "skip_logits": not return_outputs}
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        targets = inputs["shift_labels"].flatten()
        without_labels = {name: tensor for name, tensor in inputs.items() if name not in ("labels", "shift_labels")}
        outputs = model(**without_labels, use_cache=False)
        loss = F.cross_entropy(
            outputs.logits.flatten(0, 1).float(),
            targets,
            ignore_index=IGNORED,
            reduction="sum",
            label_smoothing=self.args.label_smoothing_factor,
        )
        if num_items_in_batch is None:
            loss = loss / (targets != IGNORED).sum()
        else:
            # The gradients of all processes are averaged, while the count is that of all processes together.
            shared = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
            loss = loss / num_items_in_batch * shared
        return (loss, outputs) if return_outputs else loss

    def training_step(self, *args, **kwargs) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        self.step_statistics.add_micro_batch(loss)
        return loss

    def _get_grad_norm(self, *args, **kwargs) -> float:
        grad_norm = super()._get_grad_norm(*args, **kwargs)
        if self.skipped_in_a_row:
            self.step_statistics.discard_step()
        else:
            self.step_statistics.end_step(grad_norm)
        return grad_norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Completes a training line before anybody sees it: metrics.jsonl and every tracker get the same figures."""
        if "loss" in logs:
            figures = self.step_statistics.summary(self.accelerator.gather, self.accelerator.device)
            logs |= figures | (self.speed_at(self.state.global_step) if self.speed_at else {})
            if self.max_skipped_steps or self.accelerator.scaler is not None:
                logs["skipped_steps"] = self.skipped_steps
            if self.skipped_in_a_row:  # the library's number is not that of a step that was made
                del logs["grad_norm"]
            if not figures:  # no step at all
                del logs["loss"]
        super().log(logs, start_time)

    def _progress(self) -> dict[str, Any]:
        return super()._progress() | {"step_statistics": self.step_statistics.state()}

    def _load_progress(self, progress: dict[str, Any]) -> None:
        super()._load_progress(progress)
        self.step_statistics.load_state(progress["step_statistics"])

    def evaluation_of(self, step: int) -> dict[str, float] | None:
        """The metrics of the validation part after this step, if they were the last that were measured."""
        return self._evaluation[1] if self._evaluation is not None and self._evaluation[0] == step else None

    def evaluate(
        self,
        eval_dataset: TokenWindows | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
        utf8_bytes: int | None = None,
    ) -> dict[str, float]:
        """Mean loss over every token of the windows, each counted once, whatever the number of processes.

        Returns:
            `{prefix}_loss` in nats per token, `{prefix}_bits_per_byte` of the text, `{prefix}_tokens`,
            `{prefix}_runtime` in seconds. Empty where it was abandoned for a stop, which a resumed run makes up for.

        Raises:
            RunStoppedError: asked to stop outside of training, where nothing needs to be saved.
        """
        windows = self.eval_dataset if eval_dataset is None else eval_dataset
        utf8_bytes = self.eval_utf8_bytes if utf8_bytes is None else utf8_bytes
        started_at = time.perf_counter()
        accelerator = self.accelerator
        model = self.model
        was_training = model.training
        model.eval()
        nats = tokens = 0.0
        abandoned = False
        # As many rounds on every rank, which may have to gather weights or to agree on a stop, and each window on one.
        ranks, batch_size = accelerator.num_processes, self.args.eval_batch_size
        loader = DataLoader(
            Subset(windows, range(accelerator.process_index, len(windows), ranks)),
            batch_size,
            collate_fn=collate_windows,
            generator=torch.Generator(),  # not the global one, whose numbers are for dropout
        )
        batches = iter(loader)
        for _ in range(math.ceil(math.ceil(len(windows) / ranks) / batch_size)):
            abandoned = self.stop.agreed(self.args.device)
            if abandoned:
                break
            batch = next(batches, None)
            counts = batch is not None
            batch = batch if counts else collate_windows([windows[0]])
            batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
            with torch.no_grad(), self.compute_loss_context_manager(), accelerator.autocast():
                loss = model(**batch, use_cache=False, skip_logits=True, num_items_in_batch=1).loss
            nats += loss.item() * counts
            tokens += (batch["shift_labels"] != IGNORED).sum().item() * counts
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        model.train(was_training)
        if abandoned:
            if not (self.is_in_train and self.state.global_step):
                self.stop.raise_if_asked()
            self.stop_here(evaluation_is_due=True)
            return {}
        if ranks > 1:
            totals = torch.tensor([nats, tokens], dtype=torch.float64, device=accelerator.device)
            nats, tokens = accelerator.reduce(totals, reduction="sum").tolist()
        metrics = {
            f"{metric_key_prefix}_loss": nats / tokens,
            f"{metric_key_prefix}_bits_per_byte": nats / math.log(2) / utf8_bytes,
            f"{metric_key_prefix}_tokens": int(tokens),
            f"{metric_key_prefix}_runtime": time.perf_counter() - started_at,
        }
        if metric_key_prefix == "eval":
            self._evaluation = self.state.global_step, metrics
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics
