"""What a recipe's settings do to a whole run."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from modeling_gpt_scratch import GPTScratchForCausalLM
from training.__main__ import main
from training.errors import InputError
from training.optimization import precision
from training.optimization.precision import set_cpu_matmul_precision
from training.planning import micro_batch
from training.record import read_metrics
from training.run.monitor import RunMonitor


@pytest.fixture
def run(tmp_path):
    """Trains a tiny model; returns its run folder."""
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(20):
        (texts / f"{number:02}.txt").write_text(f"Line {number} of a text that says the same again.\n" * 8)

    def run(name: str = "run", code: int = 0, **settings) -> Path:
        values = {
            "model": "demo",
            "corpus": texts,
            "output_dir": tmp_path / name,
            "data_dir": tmp_path / "data",
            "vocab_size": 300,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "max_position_embeddings": 32,
            "tokens_per_step": 256,
            "per_device_train_batch_size": 4,
            "max_steps": 4,
            "learning_rate": "1e-2",
            "save_steps": 2,
            "logging_steps": 1,
            "eval_on_start": True,
            "disable_tqdm": True,
        } | settings
        argv = [text for key, value in values.items() for text in (f"--{key}", str(value))]
        assert main(["pretrain", *argv]) == code
        return tmp_path / name

    return run


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def first_loss(folder: Path) -> float:
    return json.loads((folder / "run.json").read_text())["result"]["initial"]["eval_loss"]


@pytest.mark.skipif(torch.accelerator.is_available(), reason="tries in earnest there")
def test_an_automatic_micro_batch_gives_the_same_run_and_is_kept_when_resumed(run, monkeypatch):
    monkeypatch.setattr(micro_batch, "fits", lambda recipe, candidate, *where: candidate <= 5)
    expected = weights(run("by_hand", residual_dropout=0.1))

    def interrupt(self, args, state, control, **kwargs):
        if state.global_step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunMonitor, "on_step_end", interrupt)
        folder = run("auto", code=130, per_device_train_batch_size="auto", residual_dropout=0.1)
    assert json.loads((folder / "run.json").read_text())["planned"]["micro_batch"] == 4
    monkeypatch.setattr(micro_batch, "fits", lambda recipe, candidate, *where: candidate <= 2)
    found = weights(run("auto", per_device_train_batch_size="auto", residual_dropout=0.1))
    # Dropout draws its numbers for each micro-batch, so another division of the batch would give other weights.
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def multiplies_fast(monkeypatch, dtype: torch.dtype) -> None:
    """Stands for a device that multiplies this type ten times as fast as any other."""
    monkeypatch.setattr(
        precision, "matmul_rates", lambda device, dtypes, width: {d: 7e10 if d == dtype else 7e9 for d in dtypes}
    )


def test_muons_type_is_the_first_machines_and_is_kept_on_another(run, monkeypatch):
    multiplies_fast(monkeypatch, torch.bfloat16)
    expected = weights(run("whole", muon_learning_rate=0.02))

    def interrupt(self, args, state, control, **kwargs):
        if state.global_step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunMonitor, "on_step_end", interrupt)
        folder = run("moved", code=130, muon_learning_rate=0.02)
    multiplies_fast(monkeypatch, torch.float32)
    found = weights(run("moved", muon_learning_rate=0.02))
    assert json.loads((folder / "run.json").read_text())["planned"]["muon_dtype"] == "bf16"
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.skipif(torch.accelerator.is_available(), reason="a CPU has bf16, fast or not")
def test_a_slow_precision_is_allowed_and_said_with_both_rates(run, monkeypatch, capsys):
    line = "precision is bf16, but this device multiplies 7 GFLOP/s in bf16 and 70 in fp32: fp32 is faster"
    multiplies_fast(monkeypatch, torch.float32)
    run("slow", precision="bf16", max_steps=1)
    assert capsys.readouterr().err.count(line) == 1
    multiplies_fast(monkeypatch, torch.bfloat16)
    run("fast", precision="bf16", max_steps=1)
    assert "GFLOP/s" not in capsys.readouterr().err


def test_a_padded_vocabulary_has_rows_that_no_token_uses(run, tmp_path):
    folder = run(pad_vocab_to_multiple_of=128, max_steps=1)
    assert first_loss(folder) == pytest.approx(np.log(384), abs=0.1)  # it begins by guessing
    assert weights(folder)["model.embed_tokens.weight"].shape == (384, 32)
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    assert model.config.vocab_size == 384
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    assert len(tokenizer) <= 300
    shards = [load_file(path)["tokens"] for path in (tmp_path / "data").rglob("*.safetensors")]
    assert shards
    assert max(int(np.asarray(shard).max()) for shard in shards) < len(tokenizer)


def test_document_masking_trains_and_evaluates_with_positions(run, monkeypatch):
    seen = []
    forward = GPTScratchForCausalLM.forward

    def watch(self, **inputs):
        if "shift_labels" in inputs:  # and not when the finished model is opened again
            seen.append((self.training, inputs.get("position_ids")))
        return forward(self, **inputs)

    monkeypatch.setattr(GPTScratchForCausalLM, "forward", watch)
    run(document_masking=True)
    for mode in (True, False):
        positions = [found for training, found in seen if training is mode]
        assert positions
        assert all(found is not None and found.max() < 32 for found in positions)
        assert any((found[:, 1:] == 0).any() for found in positions)


def test_the_initialisation_is_that_of_the_recipe(run):
    assert first_loss(run(initialization="pytorch", max_steps=1)) > 10


@pytest.mark.parametrize(("weight_decay_on", "rates"), [("matrices", {0.0, 0.1}), ("everything", {0.1})])
def test_weight_decay_acts_where_the_recipe_says(weight_decay_on, rates, run):
    folder = run(weight_decay=0.1, weight_decay_on=weight_decay_on)
    saved = torch.load(folder / "checkpoint-4" / "optimizer.pt", weights_only=True)
    assert {group["weight_decay"] for group in saved["param_groups"] if group["params"]} == rates


def test_the_rates_follow_the_schedule(run):
    folder = run(schedule="linear", warmup_steps=2, decay_steps=2, learning_rate_floor=0.5)
    assert [line["learning_rate"] for line in read_metrics(folder) if "loss" in line] == [0.005, 0.01, 0.01, 0.0075]


@pytest.mark.skipif(torch.accelerator.is_available(), reason="a setting for CPUs")
def test_the_precision_of_matrix_products_on_cpus_is_a_setting(run):
    try:
        run(cpu_matmul_precision="medium", max_steps=1)
        assert torch.get_float32_matmul_precision() == "medium"
        set_cpu_matmul_precision("highest")
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_on_accelerators_the_precision_for_cpus_is_refused(monkeypatch):
    monkeypatch.setattr(precision.torch.accelerator, "is_available", lambda: True)
    set_cpu_matmul_precision("highest")
    with pytest.raises(InputError, match="cpu_matmul_precision is medium, but this run is on no CPU"):
        set_cpu_matmul_precision("medium")
