"""The library's Trainer on token windows: exact token counts, a loss without full logits, our order."""

import math
import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset, Subset
from transformers import Trainer

from ..data.windows import IGNORED, TokenWindows, WindowOrder, collate_windows
from .trainer import ReliableTrainer


class WindowTrainer(Trainer):
    """Trains a `GPTScratchForCausalLM` on [`TokenWindows`].

    Args:
        order: which window comes when; overrides the library's sampler.
        eval_utf8_bytes: size of the evaluation text, for bits per byte; `None` where the tokens do not hold all of it.
        **kwargs: those of `transformers.Trainer`.
    """

    def __init__(self, *, order: WindowOrder, eval_utf8_bytes: int | None, **kwargs):
        super().__init__(data_collator=collate_windows, **kwargs)
        self.order = order
        self.eval_utf8_bytes = eval_utf8_bytes
        # The library's smoother takes the labels away from the model and, for classes that it does not know, compares
        # each position with its own input. `compute_loss` smooths instead.
        self.label_smoother = None

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> WindowOrder:
        return self.order

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

    def evaluate(
        self,
        eval_dataset: TokenWindows | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
        utf8_bytes: int | None = None,
    ) -> dict[str, float]:
        """Mean loss over every token of the windows, each counted once, whatever the number of processes.

        Returns:
            `{prefix}_loss` in nats per token, `{prefix}_bits_per_byte` of the text where its size is known,
            `{prefix}_tokens`, `{prefix}_runtime` in seconds.
        """
        windows = eval_dataset
        if windows is None:
            windows, utf8_bytes = self.eval_dataset, self.eval_utf8_bytes
        started_at = time.perf_counter()
        was_training = self.model.training
        self.model.eval()
        nats = tokens = 0.0
        for batch, counts in self._batches_for_every_rank(windows):
            with torch.no_grad(), self.compute_loss_context_manager(), self.accelerator.autocast():
                loss = self.model(**batch, use_cache=False, skip_logits=True, num_items_in_batch=1).loss
            nats += loss.item() * counts
            tokens += (batch["shift_labels"] != IGNORED).sum().item() * counts
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        self.model.train(was_training)
        if self.accelerator.num_processes > 1:
            totals = torch.tensor([nats, tokens], dtype=torch.float64, device=self.accelerator.device)
            nats, tokens = self.accelerator.reduce(totals, reduction="sum").tolist()
        metrics = {
            f"{metric_key_prefix}_loss": nats / tokens,
            **({f"{metric_key_prefix}_bits_per_byte": nats / math.log(2) / utf8_bytes} if utf8_bytes else {}),
            f"{metric_key_prefix}_tokens": int(tokens),
            f"{metric_key_prefix}_runtime": time.perf_counter() - started_at,
        }
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _batches_for_every_rank(self, windows: TokenWindows) -> Iterator[tuple[dict[str, torch.Tensor], bool]]:
        """Batches of this rank's windows, and whether they count: as many on every rank, which may have to gather
        weights or to agree on a stop, and each window on one."""
        ranks, batch_size = self.accelerator.num_processes, self.args.eval_batch_size
        loader = DataLoader(
            Subset(windows, range(self.accelerator.process_index, len(windows), ranks)),
            batch_size,
            collate_fn=collate_windows,
            generator=torch.Generator(),  # not the global one, whose numbers are for dropout
        )
        batches = iter(loader)
        for _ in range(math.ceil(math.ceil(len(windows) / ranks) / batch_size)):
            batch = next(batches, None)
            counts = batch is not None
            batch = batch if counts else collate_windows([windows[0]])
            yield {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}, counts


class GPTScratchTrainer(ReliableTrainer, WindowTrainer):
    """[`WindowTrainer`], made safe."""
