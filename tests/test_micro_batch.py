"""`per_device_train_batch_size: auto`: the largest micro-batch that fits, at exactly the recipe's batch."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from configuration.recipe import load_recipe
from modeling_gpt_scratch import GPTScratchForCausalLM
from training import micro_batch
from training.batches import accumulation_steps
from training.errors import InputError
from training.micro_batch import CPU_SHARE, RESERVE, available_memory, choose_micro_batch, divisors, recipe_memory

CPU = torch.device("cpu")
ROOT = Path(__file__).parent.parent


def recipe(**settings):
    fields = {"model": "demo", "corpus": "x", "output_dir": "x", "hidden_size": 32, "num_hidden_layers": 2}
    fields |= {"vocab_size": 128, "max_position_embeddings": 32, "tokens_per_step": 32 * 96}
    fields |= {"per_device_train_batch_size": "auto"} | settings
    return load_recipe(None, {name: str(value) for name, value in fields.items()})


def holding(monkeypatch, windows: int) -> list[int]:
    """Stands for a device that holds so many windows; returns what is tried."""
    tried = []

    def fits(recipe, candidate, processes):
        tried.append(candidate)
        return candidate <= windows

    monkeypatch.setattr(micro_batch, "fits", fits)
    return tried


def test_divisors_come_largest_first():
    assert divisors(12) == [12, 6, 4, 3, 2, 1]
    assert divisors(1) == [1]


@pytest.mark.parametrize(("windows", "chosen"), [(1000, 96), (96, 96), (95, 48), (31, 24), (5, 4), (1, 1)])
def test_the_largest_divisor_that_fits_is_taken_and_the_batch_stays_whole(windows, chosen, monkeypatch):
    tried = holding(monkeypatch, windows)
    found = choose_micro_batch(recipe(), 1, recorded=None)
    assert found == chosen
    assert found * 32 * accumulation_steps(32 * 96, found, 32, 1) == 32 * 96
    assert tried == [candidate for candidate in divisors(96) if candidate >= chosen]


def test_a_number_in_the_recipe_is_not_questioned(monkeypatch):
    tried = holding(monkeypatch, 0)
    assert choose_micro_batch(recipe(per_device_train_batch_size=7), 1, recorded=3) == 7
    assert tried == []


def test_a_resumed_run_keeps_to_its_choice(monkeypatch):
    tried = holding(monkeypatch, 96)
    assert choose_micro_batch(recipe(), 1, recorded=3) == 3
    assert tried == []


def test_nothing_that_fits_is_an_error(monkeypatch):
    holding(monkeypatch, 0)
    with pytest.raises(InputError, match="not even one window fits in this device's memory: use a smaller model"):
        choose_micro_batch(recipe(), 1, recorded=None)


def test_a_batch_of_no_whole_windows_is_an_error(monkeypatch):
    holding(monkeypatch, 96)
    with pytest.raises(InputError, match="tokens_per_step is 33, but must be a multiple of 32"):
        choose_micro_batch(recipe(tokens_per_step=33), 1, recorded=None)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="tries in earnest there")
@pytest.mark.parametrize("windows", [12, 16, 48])
def test_on_a_cpu_the_estimate_must_fit_in_its_share_of_the_free_memory(windows, monkeypatch):
    needed = (recipe_memory(recipe(), windows).total + RESERVE) / CPU_SHARE
    monkeypatch.setattr(micro_batch, "available_memory", lambda: needed + 1)
    assert choose_micro_batch(recipe(), 1, recorded=None) == windows
    monkeypatch.setattr(micro_batch, "available_memory", lambda: needed - 1)
    assert choose_micro_batch(recipe(), 1, recorded=None) < windows
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(micro_batch, "available_memory", lambda: 2 * needed + 2)
    assert choose_micro_batch(recipe(), 1, recorded=None) == windows


def test_free_memory_is_less_than_the_machine_has():
    assert 2**27 < available_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("settings", [{}, {"precision": "bf16"}, {"gradient_checkpointing": "true"}], ids=str)
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable")
def test_a_tiny_step_fits_when_tried(settings, monkeypatch):
    calls = []
    forward = GPTScratchForCausalLM.forward

    def watch(self, **inputs):
        calls.append((tuple(inputs["input_ids"].shape), self.model.layers[0].gradient_checkpointing))
        return forward(self, **inputs)

    monkeypatch.setattr(GPTScratchForCausalLM, "forward", watch)
    assert micro_batch.step_fits(recipe(**settings), 3, 1, CPU)
    assert calls == [((3, 32), "gradient_checkpointing" in settings)] * 2


def test_a_step_that_runs_out_of_memory_does_not_fit(monkeypatch):
    def run_out(self, **inputs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(GPTScratchForCausalLM, "forward", run_out)
    assert not micro_batch.step_fits(recipe(), 3, 1, CPU)


def test_a_step_that_fails_otherwise_is_no_question_of_memory(monkeypatch):
    def fail(self, **inputs):
        raise RuntimeError("something else")

    monkeypatch.setattr(GPTScratchForCausalLM, "forward", fail)
    with pytest.raises(RuntimeError, match="something else"):
        micro_batch.step_fits(recipe(), 3, 1, CPU)


@pytest.mark.slow
def test_processes_agree_on_what_fits_in_all_of_them():
    program = """
import os
from tests.test_micro_batch import recipe
from training import micro_batch
room = 24 if os.environ["RANK"] == "0" else 6
micro_batch.fits = lambda recipe, candidate, processes: candidate <= room
print("found", micro_batch.choose_micro_batch(recipe(), 2, None), flush=True)
"""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    result = subprocess.run(
        [*command, sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
    )
    assert re.findall("6|[0-9]+", result.stdout).count("6") == 2, result.stderr  # the two may print at once
