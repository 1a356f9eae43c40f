"""Our Trainer counts tokens exactly, in training and evaluation."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from modeling_gpt_scratch import GPTScratchForCausalLM
from tests.modeling.comparison import cache_of
from tests.training.run.tiny_trainers import LENGTH, history
from training.data.windows import TokenWindows, collate_windows
from training.errors import InputError
from training.run.window_trainer import GPTScratchTrainer


@pytest.mark.parametrize("batch_size", [1, 4, 8])
def test_evaluation_weighs_every_token_alike_whatever_the_batch(batch_size, build_trainer):
    trainer = build_trainer(per_device_eval_batch_size=batch_size)
    ids = torch.from_numpy(trainer.eval_dataset.tokens.ids)
    nats = 0.0
    with torch.no_grad():
        for start in range(0, len(ids) - 1, LENGTH):
            window = ids[start : start + LENGTH + 1]
            logits = trainer.model.eval()(window[:-1].unsqueeze(0)).logits[0]
            nats += F.cross_entropy(logits, window[1:], reduction="sum").item()
    metrics = trainer.evaluate()
    assert metrics["eval_tokens"] == len(ids) - 1 == 83
    assert metrics["eval_loss"] == pytest.approx(nats / 83, rel=1e-6)
    assert metrics["eval_bits_per_byte"] == pytest.approx(nats / math.log(2) / 200, rel=1e-6)


def test_evaluation_leaves_the_training_mode_alone(build_trainer):
    trainer = build_trainer()
    for training in (True, False):
        trainer.model.train(training)
        trainer.evaluate()
        assert trainer.model.training is training


def test_our_batches_count_every_prediction(build_trainer):
    trainer = build_trainer()
    batches = list(DataLoader(trainer.train_dataset, 8, collate_fn=collate_windows))[:2]
    assert trainer._get_num_items_in_batch(batches, torch.device("cpu")) == 2 * 8 * LENGTH


def test_training_visits_the_windows_in_their_order(build_trainer, monkeypatch):
    seen = []
    trainer = build_trainer(gradient_accumulation_steps=2)
    get = TokenWindows.__getitem__
    monkeypatch.setattr(TokenWindows, "__getitem__", lambda self, index: (seen.append(index), get(self, index))[1])
    trainer.train()
    assert seen[: 3 * 16] == list(trainer.order)


def test_a_training_line_tells_of_every_step_since_the_one_before(build_trainer):
    common = {"gradient_accumulation_steps": 2, "max_steps": 6, "max_grad_norm": 0.5}
    single, triple = build_trainer(**common), build_trainer(**common, logging_steps=3)
    for trainer in (single, triple):
        trainer.train()
    losses, norms = history(single, "loss"), history(single, "grad_norm")
    assert len(set(losses)) == 6
    for name, expected in (
        ("loss", [sum(losses[:3]) / 3, sum(losses[3:]) / 3]),
        ("loss_min", [min(losses[:3]), min(losses[3:])]),
        ("loss_max", [max(losses[:3]), max(losses[3:])]),
        ("grad_norm_max", [max(norms[:3]), max(norms[3:])]),
        ("clipped", [sum(norm > 0.5 for norm in norms[:3]) / 3, sum(norm > 0.5 for norm in norms[3:]) / 3]),
    ):
        assert history(triple, name) == pytest.approx(expected, rel=1e-12)


def test_a_line_of_one_step_has_the_loss_that_the_library_counts(build_trainer, monkeypatch):
    trainer = build_trainer(gradient_accumulation_steps=2)
    counted, log = [], GPTScratchTrainer.log
    monkeypatch.setattr(
        GPTScratchTrainer, "log", lambda self, logs, *args: (counted.append(logs.get("loss")), log(self, logs, *args))
    )
    trainer.train()
    assert history(trainer, "loss") == [loss for loss in counted if loss is not None]


def test_training_passes_no_logits_and_no_cache_around(build_trainer, monkeypatch):
    calls = []
    forward = GPTScratchForCausalLM.forward

    def watch(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        calls.append((output.logits, cache_of(output)))
        return output

    monkeypatch.setattr(GPTScratchForCausalLM, "forward", watch)
    trainer = build_trainer()
    trainer.train()
    trainer.evaluate()
    assert calls
    assert set(calls) == {(None, None)}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_accumulation_changes_nothing(smoothing, build_trainer):
    runs = []
    for micro_batch, accumulation in ((8, 1), (2, 4)):
        trainer = build_trainer(
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=accumulation,
            label_smoothing_factor=smoothing,
        )
        trainer.train()
        runs.append((history(trainer, "loss"), history(trainer, "grad_norm")))
    for whole, accumulated in zip(*runs, strict=True):
        assert len(whole) == 3
        assert accumulated == pytest.approx(whole, abs=1e-5)  # sums in another order


def test_label_smoothing_compares_with_the_next_token(build_trainer):
    trainer = build_trainer(label_smoothing_factor=0.1)
    batch = next(iter(DataLoader(trainer.train_dataset, 2, collate_fn=collate_windows)))
    logits = trainer.model(batch["input_ids"]).logits
    expected = F.cross_entropy(logits.flatten(0, 1), batch["shift_labels"].flatten(), label_smoothing=0.1)
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(expected.item(), rel=1e-6)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(build_trainer().evaluate()["eval_loss"], rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_masked_documents_have_the_loss_of_each_alone(smoothing, build_trainer):
    trainer = build_trainer(document_start=5, label_smoothing_factor=smoothing)
    windows = trainer.train_dataset
    batch = collate_windows([windows[index] for index in range(len(windows))])
    assert (batch["input_ids"][:, 1:] == 5).sum() > 3
    nats = 0.0
    for ids, targets in zip(batch["input_ids"], batch["shift_labels"], strict=True):
        bounds = [0, *[i for i in range(1, LENGTH) if ids[i] == 5], LENGTH]
        for start, end in itertools.pairwise(bounds):
            logits = trainer.model(ids[None, start:end]).logits[0]
            nats += F.cross_entropy(logits, targets[start:end], reduction="sum", label_smoothing=smoothing).item()
    loss = trainer.compute_loss(trainer.model, batch).item()
    assert loss == pytest.approx(nats / (64 * LENGTH), rel=1e-5)
    del batch["position_ids"]
    assert abs(trainer.compute_loss(trainer.model, batch).item() - loss) > 1e-5


def test_evaluation_masks_documents_too(build_trainer):
    masked, unmasked = build_trainer(document_start=5), build_trainer()
    ids = torch.from_numpy(masked.eval_dataset.tokens.ids)
    nats = 0.0
    for start in range(0, len(ids) - 1, LENGTH):
        window = ids[start : start + LENGTH + 1]
        bounds = [0, *[i for i in range(1, len(window) - 1) if window[i] == 5], len(window) - 1]
        for first, end in itertools.pairwise(bounds):
            logits = masked.model.eval()(window[None, first:end]).logits[0]
            nats += F.cross_entropy(logits, window[first + 1 : end + 1], reduction="sum").item()
    assert masked.evaluate()["eval_loss"] == pytest.approx(nats / (len(ids) - 1), rel=1e-6)
    assert masked.evaluate()["eval_loss"] != unmasked.evaluate()["eval_loss"]


@pytest.mark.slow
def test_a_compiled_model_trains_to_the_same_losses(build_trainer):
    losses = []
    for compiled in (False, True):
        trainer = build_trainer(torch_compile=compiled)
        trainer.train()
        losses.append(history(trainer, "loss"))
        assert not any("_orig_mod" in name for name in trainer.accelerator.unwrap_model(trainer.model).state_dict())
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)  # fused operations round otherwise


@pytest.mark.parametrize("tied", [True, False])
def test_a_checkpoint_is_loaded_whole_without_a_word_or_not_at_all(
    tied, tiny_model, build_trainer, tmp_path, monkeypatch
):
    saved = tiny_model(tie_word_embeddings=tied)
    build_trainer(model=saved).save_model(str(tmp_path / "saved"))
    trainer = build_trainer(model=GPTScratchForCausalLM(saved.config))
    with monkeypatch.context() as patch:
        patch.setattr("transformers.trainer.logger.warning", pytest.fail)
        trainer._load_from_checkpoint(str(tmp_path / "saved"))
    expected = saved.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in trainer.model.state_dict().items())
    state_dict = load_file(tmp_path / "saved" / "model.safetensors")
    del state_dict["model.norm.weight"]
    save_file(state_dict, tmp_path / "saved" / "model.safetensors")
    with pytest.raises(InputError, match=r"choose another output_dir \(.*model\.norm\.weight"):
        trainer._load_from_checkpoint(str(tmp_path / "saved"))


@pytest.mark.parametrize("muon_learning_rate", [None, 0.02])
def test_training_learns(muon_learning_rate, build_trainer):
    trainer = build_trainer(muon_learning_rate=muon_learning_rate, max_steps=60, logging_steps=5)
    trainer.train()
    losses = history(trainer, "loss")
    assert losses[-1] < losses[0] - 0.4  # 64 windows of random ids: it can only memorise
