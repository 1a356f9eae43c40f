"""`pretrain --dry_run`: says what a recipe means and needs, and leaves everything as it was."""

import re

import pytest
import torch
import yaml

from configuration.pretraining import MODELS, PretrainingRecipe
from training.__main__ import main
from training.planning import dry_run

BASELINE = str(MODELS.parent / "recipes" / "blog-baseline.yaml")
MINIMAL = ["--model", "demo", "--corpus", "/absent", "--tokens_per_step", "4096", "--output_dir", "runs/x"]


@pytest.fixture(autouse=True)
def known_device(monkeypatch, tmp_path):
    """A device of 1 TFLOP/s and 64 GiB, and an empty folder to look for traces in."""
    monkeypatch.setattr(dry_run, "measured_peak", lambda device, dtype: 1e12)
    monkeypatch.setattr(dry_run, "available_memory", lambda: 64 * 2**30)
    monkeypatch.chdir(tmp_path)


def plan(capsys, *argv: str) -> tuple[dict, dict[str, str]]:
    assert main(["pretrain", *argv, "--dry_run"]) == 0
    printed = capsys.readouterr().out
    return yaml.safe_load(printed), dict(re.findall(r"^# (\w+): +(.*)$", printed, flags=re.MULTILINE))


def test_it_prints_the_resolved_recipe_and_writes_nothing(capsys, tmp_path):
    settings, _ = plan(capsys, BASELINE, "--seed", "7")
    recipe = PretrainingRecipe.load(MODELS.parent / "recipes" / "blog-baseline.yaml", {"seed": "7"})
    assert settings == yaml.safe_load(recipe.dump())
    assert list(tmp_path.iterdir()) == []


def test_it_needs_no_corpus_and_counts_what_the_run_will_do(capsys):
    _, lines = plan(capsys, BASELINE)
    assert lines["parameters"] == "163,009,536"
    assert lines["step"] == "98,304 tokens = 96 windows of 1,024 = 12 (at a time) x 8 (accumulated) x 1 (processes)"
    assert lines["steps"] == "33,165, 3,260,252,160 tokens, 20.0 a parameter"
    assert lines["operations"] == "2.79e+18, 8.54e+08 a token"


def test_processes_share_the_step(capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert plan(capsys, BASELINE)[1]["step"].endswith("= 12 (at a time) x 1 (accumulated) x 8 (processes)")


def test_the_number_of_steps_is_unknown_where_epochs_count(capsys):
    _, lines = plan(capsys, *MINIMAL, "--num_train_epochs", "2.5")
    assert lines["steps"] == "known when the corpus is tokenized, since max_steps is not set: 2.5 epochs"
    assert lines["operations"] == "2.83e+07 a token"
    assert "without evaluations" not in lines["time"]


@pytest.mark.skipif(torch.accelerator.is_available(), reason="the figures of a CPU")
def test_the_time_follows_from_the_peak(capsys):
    _, lines = plan(capsys, *MINIMAL, "--max_steps", "1000")
    per_token = 6 * (4 * 12 * 256**2 + 4096 * 256) + 12 * 4 * 256 * 256
    assert lines["time"].startswith(f"about {1000 * 4096 * per_token / 0.8e12 / 60:.1f} minutes without evaluations")
    assert f"at {0.8e12 / per_token:,.0f} tokens/s: 80% (assumed) of 1 TFLOP/s" in lines["time"]


@pytest.mark.skipif(torch.accelerator.is_available(), reason="a CPU has bf16, fast or not")
def test_a_precision_that_is_slow_here_is_named_beside_the_time(capsys, monkeypatch):
    rates = {torch.float32: 70e9, torch.bfloat16: 12e9}
    monkeypatch.setattr("training.optimization.precision.matmul_rates", lambda device, dtypes, width: rates)
    _, lines = plan(capsys, *MINIMAL, "--max_steps", "9", "--precision", "bf16")
    assert lines["time"].endswith(
        "; precision is bf16, but this device multiplies 12 GFLOP/s in bf16 and 70 in fp32: fp32 is faster"
    )


@pytest.mark.skipif(torch.accelerator.is_available(), reason="this device may have fp16")
def test_a_recipe_for_another_device_can_be_planned(capsys):
    _, lines = plan(capsys, BASELINE)
    assert lines["time"].startswith("not for this device: precision is fp16, which this device does not have")
    assert lines["memory"].endswith("this device has 64.00 GiB")


def test_an_automatic_micro_batch_is_found(capsys, monkeypatch):
    monkeypatch.setattr("training.planning.micro_batch.fits", lambda recipe, candidate, *where: candidate <= 7)
    settings, lines = plan(capsys, *MINIMAL, "--per_device_train_batch_size", "auto")
    assert settings["per_device_train_batch_size"] == "auto"
    assert "= 4 (at a time) x 4 (accumulated) x" in lines["step"]


def test_padding_counts(capsys):
    _, lines = plan(capsys, *MINIMAL, "--vocab_size", "4000", "--pad_vocab_to_multiple_of", "128")
    assert lines["parameters"] == f"{4_273_664 - (4096 - 4096 // 128 * 128) * 256:,}"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--tokens_per_step", "5000"], "tokens_per_step is 5000, but must be a multiple of 2048"),
        (["--warmup_steps", "9", "--max_steps", "8"], "warmup_steps (9) and decay_steps (0)"),
        (["--learning_rat", "1"], "learning_rat is no setting"),
    ],
)
def test_what_would_fail_later_fails_here(argv, message, capsys, tmp_path):
    assert main(["pretrain", *MINIMAL, *argv, "--dry_run"]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
