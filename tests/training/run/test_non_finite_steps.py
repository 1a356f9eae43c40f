"""Steps whose loss or gradient is no number: stopped at, left out, or overflows of fp16."""

import re

import pytest
import torch
from accelerate import Accelerator
from transformers import AutoModelForCausalLM

from benchmarks import faults
from tests.training.run.endings import calm_ending, weights
from training.__main__ import main
from training.record import read_metrics
from training.run.checkpoints import manifest_of
from training.run.trainer import ReliableTrainer


def poison(monkeypatch, steps: set[int]) -> None:
    """Makes the second micro-batch of these steps give a gradient that is not a number."""
    training_step = ReliableTrainer.training_step
    calls = []

    def poisoned(trainer, model, inputs, *rest):
        loss = training_step(trainer, model, inputs, *rest)
        calls.append(1)
        if trainer.state.global_step + 1 in steps and len(calls) % 2 == 0:
            next(model.parameters()).grad[3, 5] = torch.nan
            loss = loss * torch.nan
        return loss

    monkeypatch.setattr(ReliableTrainer, "training_step", poisoned)


def test_a_gradient_that_is_no_number_stops_the_run_before_it_changes_a_weight(argv, tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        poison(patch, {17})
        assert main(argv()) == 1
    errors = capsys.readouterr().err
    assert "training broke down in step 17: the gradient norm is nan; no weight was changed by it" in errors
    assert "the last checkpoint is checkpoint-14" in errors
    assert not (tmp_path / "run" / "model").exists()
    assert main(argv()) == 0  # without the poison, from there
    assert "resumed from checkpoint-14" in capsys.readouterr().out


def test_such_steps_can_be_left_out_so_many_in_a_row(argv, tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        poison(patch, {3, 4, 10})
        assert main(argv(max_skipped_steps=2, logging_steps=1)) == 0
    lines = [line for line in read_metrics(tmp_path / "run") if "learning_rate" in line]
    assert [line["step"] for line in lines] == [step for step in range(1, 25) if step not in (3, 4, 10)]
    assert [line["skipped_steps"] for line in lines][:4] == [0, 0, 2, 2]
    assert lines[-1]["skipped_steps"] == 3
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path / "run").values())
    with monkeypatch.context() as patch:
        poison(patch, {3, 4, 5})
        assert main(argv(max_skipped_steps=2, output_dir=tmp_path / "other")) == 1
    assert "broke down in step 5" in capsys.readouterr().err


@pytest.fixture
def fp16(monkeypatch):
    """Runs with `precision: fp16` on the CPU: real autocast and a real scaler, which nobody offers for CPUs. Its scale
    begins high, so that the first steps overflow."""
    scalers = []
    accelerator_init = Accelerator.__init__

    def init(accelerator, *args, **options):
        accelerator_init(accelerator, *args, **options)
        assert accelerator.mixed_precision == "fp16"
        accelerator.scaler, accelerator.native_amp = torch.amp.GradScaler("cpu", init_scale=2.0**24), True
        scalers.append(accelerator.scaler)

    monkeypatch.setattr(Accelerator, "__init__", init)
    monkeypatch.setattr("training.run.lifecycle.precision_arguments", lambda precision: {"fp16": True, "use_cpu": True})
    # CPUs take seconds for a large product in fp16.
    monkeypatch.setattr("training.run.lifecycle.slow_precision", lambda recipe, device: None)
    monkeypatch.setattr("training.run.speed.measured_peak", lambda device, dtype: 1e9)
    return scalers


@pytest.mark.parametrize("muon_learning_rate", ["0.02", "null"])  # fused AdamW alone leaves steps out by itself
def test_fp16_overflows_are_left_out_counted_and_gone_on_from(fp16, muon_learning_rate, argv, tmp_path, monkeypatch):
    command = argv(precision="fp16", logging_steps=1, muon_learning_rate=muon_learning_rate)
    expected = calm_ending(command, tmp_path)
    (scaler,) = fp16
    lines = [line for line in read_metrics(tmp_path / "calm") if "learning_rate" in line]
    overflows = lines[-1]["skipped_steps"]
    assert 1 <= overflows < 20
    assert scaler.get_scale() == 2.0 ** (24 - overflows)
    assert len(lines) == 24 - overflows  # a step that was left out has no line
    assert "scaler.pt" in manifest_of(tmp_path / "calm" / "checkpoint-24")["files"]
    model, found = AutoModelForCausalLM.from_pretrained(tmp_path / "calm" / "model", output_loading_info=True)
    assert not any(found.values())
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())

    training_step, steps = ReliableTrainer.training_step, []

    def interrupt(trainer, *rest):
        steps.append(trainer.state.global_step)
        if steps[-1] == 10:
            raise KeyboardInterrupt
        return training_step(trainer, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(ReliableTrainer, "training_step", interrupt)
        assert main(command) == 130
    assert main(command) == 0
    assert fp16[-1].get_scale() == scaler.get_scale()  # of the checkpoint, not begun anew
    assert faults.ending(tmp_path / "run") == expected


def test_fp16_that_only_overflows_ends_the_run_and_says_so(fp16, argv, tmp_path, capsys, monkeypatch):
    poison(monkeypatch, set(range(1, 25)))
    assert main(argv(precision="fp16")) == 1
    errors = capsys.readouterr().err
    assert re.search(
        r"training broke down in step 21: the gradient norm is nan in 21 steps in a row, though the", errors
    )
    assert "the last checkpoint is checkpoint-14" in errors


def test_a_step_that_is_left_out_changes_no_weight(argv, tmp_path, monkeypatch):
    seen = []
    step_end = ReliableTrainer._get_grad_norm

    def remember(trainer, *arguments, **options):
        seen.append({name: tensor.clone() for name, tensor in trainer.model.state_dict().items()})
        return step_end(trainer, *arguments, **options)

    poison(monkeypatch, {5})
    monkeypatch.setattr(ReliableTrainer, "_get_grad_norm", remember)
    assert main(argv(max_skipped_steps=1, weight_decay=0.1)) == 0
    assert all(torch.equal(tensor, seen[5][name]) for name, tensor in seen[4].items())  # before steps 5 and 6
    assert not torch.equal(seen[5]["model.norm.weight"], seen[6]["model.norm.weight"])


def test_training_that_breaks_down_stops_and_leaves_no_model(command, tmp_path, capsys):
    assert main(command(learning_rate="1e6", weight_decay="1e6", muon_learning_rate=None, max_grad_norm=0)) == 1
    errors = capsys.readouterr().err
    assert re.search(r"error: training broke down in step \d: the gradient norm is (inf|nan); no weight was", errors)
    assert not (tmp_path / "run" / "model").exists()
