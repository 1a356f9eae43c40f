"""A stock Trainer gets what it expects from the model and from our batches."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from transformers import Trainer

from tests.training.run.tiny_trainers import LENGTH, Vector, history, training_arguments
from training.data.windows import TokenWindows, collate_windows

FINE_TUNING = (Path(__file__).parents[3] / "docs" / "fine-tuning.md").read_text(encoding="utf-8")


def test_the_documented_loss_function_smooths_shifted_labels_in_a_stock_trainer(tiny_model, tmp_path):
    documented = re.search(r"```python\n(import.*?def smoothed_loss.*?)```", FINE_TUNING, re.DOTALL).group(1)
    namespace = {}
    exec(documented, namespace)
    ids = torch.randint(0, 128, (4, 9))
    labels = ids.clone()
    labels[:, 0] = -100  # no target, but counted as one by the Trainer of transformers 5.15
    labels[1, :5] = -100
    rows = [{"input_ids": row, "labels": row_labels} for row, row_labels in zip(ids, labels, strict=True)]
    logits = tiny_model()(ids).logits[:, :-1].flatten(0, 1)
    expected = F.cross_entropy(logits, labels[:, 1:].flatten(), label_smoothing=0.1).item()
    for micro_batch, accumulation in ((4, 1), (2, 2)):
        args = training_arguments(
            tmp_path, max_steps=1, per_device_train_batch_size=micro_batch, gradient_accumulation_steps=accumulation
        )
        loss = {"compute_loss_func": namespace["smoothed_loss"]}
        trainer = Trainer(tiny_model(), args, train_dataset=rows, eval_dataset=rows, **loss)
        assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-5)
        trainer.train()
        assert history(trainer, "loss") == pytest.approx([expected], abs=1e-5)


class UnevenRows(torch.utils.data.Dataset):
    """What a user has: dicts with ids and labels, some of which do not count."""

    def __len__(self):
        return 16

    def __getitem__(self, index):
        ids = torch.randint(0, 128, (12,), generator=torch.Generator().manual_seed(index))
        labels = ids.clone()
        labels[: index % 9] = -100
        return {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}


def test_stock_trainer_gives_the_same_loss_with_and_without_accumulation(tiny_model, tmp_path):
    runs = []
    for micro_batch, accumulation in ((8, 1), (2, 4)):
        args = training_arguments(
            tmp_path, max_steps=2, per_device_train_batch_size=micro_batch, gradient_accumulation_steps=accumulation
        )
        trainer = Trainer(tiny_model(), args, train_dataset=UnevenRows())
        trainer.train()
        runs.append((history(trainer, "loss"), history(trainer, "grad_norm")))
    for whole, accumulated in zip(*runs, strict=True):
        assert len(whole) == 2
        assert accumulated == pytest.approx(whole, abs=1e-5)  # sums in another order


def test_stock_trainer_reports_the_evaluation_loss(tiny_model, tmp_path):
    model = tiny_model()
    args = training_arguments(tmp_path, per_device_eval_batch_size=16)
    metrics = Trainer(model, args, eval_dataset=UnevenRows()).evaluate()
    rows = [UnevenRows()[index] for index in range(16)]
    ids, labels = (torch.stack([row[name] for row in rows]) for name in ("input_ids", "labels"))
    expected = F.cross_entropy(model(ids).logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert metrics["eval_loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_stock_trainer_evaluates_our_batches_by_their_shifted_labels(tiny_model, tmp_path):
    model = tiny_model()
    windows = TokenWindows(Vector(4 * LENGTH + 1), LENGTH)
    args = training_arguments(tmp_path, remove_unused_columns=False)
    metrics = Trainer(model, args, data_collator=collate_windows, eval_dataset=windows).evaluate()
    batch = next(iter(DataLoader(windows, 4, collate_fn=collate_windows)))
    expected = F.cross_entropy(model(batch["input_ids"]).logits.flatten(0, 1), batch["shift_labels"].flatten())
    assert metrics["eval_loss"] == pytest.approx(expected.item(), rel=1e-5)
