"""`per_device_train_batch_size: auto`: the largest micro-batch that fits, at exactly the recipe's batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from configuration.pretraining import PretrainingRecipe
from modeling_gpt_scratch import GPTScratchForCausalLM
from training.errors import InputError
from training.optimization.steps import accumulation_steps
from training.planning import micro_batch
from training.planning.micro_batch import (
    CPU_SHARE,
    RESERVE,
    available_memory,
    choose_micro_batch,
    divisors,
    recipe_memory,
)

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[3]


TINY = {
    "model": "demo",
    "corpus": "x",
    "output_dir": "x",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "vocab_size": 128,
    "max_position_embeddings": 32,
    "tokens_per_step": 32 * 96,
    "per_device_train_batch_size": "auto",
}


def recipe(**settings):
    return PretrainingRecipe.load(None, {name: str(value) for name, value in {**TINY, **settings}.items()})


def holding(monkeypatch, windows: int) -> list[int]:
    """Stands for a device that holds so many windows; returns what is tried."""
    tried = []

    def fits(recipe, candidate, processes, device):
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
    found = choose_micro_batch(recipe(), 1, CPU, recorded=None)
    assert found == chosen
    assert found * 32 * accumulation_steps(32 * 96, found, 32, 1) == 32 * 96
    assert tried == [candidate for candidate in divisors(96) if candidate >= chosen]


def test_a_number_in_the_recipe_is_not_questioned(monkeypatch):
    tried = holding(monkeypatch, 0)
    assert choose_micro_batch(recipe(per_device_train_batch_size=7), 1, CPU, recorded=3) == 7
    assert tried == []


def test_a_resumed_run_keeps_to_its_choice(monkeypatch):
    tried = holding(monkeypatch, 96)
    assert choose_micro_batch(recipe(), 1, CPU, recorded=3) == 3
    assert tried == []


def test_a_recorded_choice_that_no_longer_divides_the_batch_is_made_anew(monkeypatch):
    holding(monkeypatch, 50)
    assert choose_micro_batch(recipe(), 1, CPU, recorded=5) == 48
    assert choose_micro_batch(recipe(), 6, CPU, recorded=48) == 16


def test_nothing_that_fits_is_an_error(monkeypatch):
    holding(monkeypatch, 0)
    with pytest.raises(InputError, match="not even one window fits in this device's memory: use a smaller model"):
        choose_micro_batch(recipe(), 1, CPU, recorded=None)


def test_a_batch_of_no_whole_windows_is_an_error(monkeypatch):
    holding(monkeypatch, 96)
    with pytest.raises(InputError, match="tokens_per_step is 33, but must be a multiple of 32"):
        choose_micro_batch(recipe(tokens_per_step=33), 1, CPU, recorded=None)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="tries in earnest there")
@pytest.mark.parametrize("windows", [12, 16, 48])
def test_on_a_cpu_the_estimate_must_fit_in_its_share_of_the_free_memory(windows, monkeypatch):
    needed = (recipe_memory(recipe(), windows).total + RESERVE) / CPU_SHARE
    monkeypatch.setattr(micro_batch, "available_memory", lambda: needed + 1)
    assert choose_micro_batch(recipe(), 1, CPU, recorded=None) == windows
    monkeypatch.setattr(micro_batch, "available_memory", lambda: needed - 1)
    assert choose_micro_batch(recipe(), 1, CPU, recorded=None) < windows
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(micro_batch, "available_memory", lambda: 2 * needed + 2)
    assert choose_micro_batch(recipe(), 1, CPU, recorded=None) == windows


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


@pytest.mark.parametrize("found", [True, False])
def test_each_process_tries_on_its_own_device(found, monkeypatch):
    tried = []
    monkeypatch.setattr(micro_batch, "step_fits", lambda *trial: tried.append(trial[1:]) or found)
    assert micro_batch.fits(recipe(), 3, 8, torch.device("cuda", 5)) is found
    assert tried == [(3, 8, torch.device("cuda", 5))]


@pytest.mark.parametrize("asked_by", ["recipe", "launcher"])
def test_a_model_that_is_to_be_sharded_is_not_tried_whole(asked_by, monkeypatch):
    tried = holding(monkeypatch, 96)
    if asked_by == "launcher":
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    fsdp = {"fsdp": "full_shard"} if asked_by == "recipe" else {}
    with pytest.raises(InputError, match="is auto, which tries the whole model on one device, but FSDP leaves it only"):
        choose_micro_batch(recipe(**fsdp), 2, CPU, recorded=None)
    assert tried == []
    assert choose_micro_batch(recipe(per_device_train_batch_size=7, **fsdp), 2, CPU, recorded=None) == 7


# Two processes between which the memory is unequal, and that would choose another type for Muon each by itself.
UNEQUAL = """
import os
import sys
from pathlib import Path
import torch
from accelerate import PartialState
from training.optimization import precision
from training.planning import micro_batch
from training.__main__ import main
from training.optimization.muon import Muon

rank = int(os.environ["RANK"])
notes = []
step = Muon.step


def fits(recipe, candidate, processes, device):
    notes.append(f"tried on {device.type}, joined: {torch.distributed.is_initialized()}")
    return candidate <= (24, 6)[rank]


def watched_step(self):
    notes.append(f"step in {self.dtype}")
    return step(self)


micro_batch.fits = fits
Muon.step = watched_step
precision.matmul_rates = lambda *where: {torch.float32: 1.0, torch.bfloat16: (2.0, 0.1)[rank]}
code = main(sys.argv[2:])
Path(sys.argv[1], f"notes-{rank}").write_text("\\n".join(sorted(set(notes))))
sys.exit(code)
"""


@pytest.mark.slow
def test_two_processes_agree_and_leave_a_model_that_opens(tmp_path):
    Path(tmp_path, "text.txt").write_text("A line of a text that says the same again.\n" * 400)
    places = {"corpus": tmp_path / "text.txt", "output_dir": tmp_path / "run", "data_dir": tmp_path / "data"}
    options = {**TINY, **places, "vocab_size": 300, "muon_learning_rate": 0.02, "max_steps": 2, "disable_tqdm": True}
    words = ["pretrain", *(f"--{name}={value}" for name, value in options.items())]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    finished = subprocess.run(
        [*torchrun, sys.executable, "-c", UNEQUAL, str(tmp_path), *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    planned = json.loads((tmp_path / "run" / "run.json").read_text())["planned"]
    assert (planned["micro_batch"], planned["muon_dtype"]) == (6, "bf16")
    for rank in range(2):
        notes = (tmp_path / f"notes-{rank}").read_text().splitlines()
        assert notes == ["step in torch.bfloat16", "tried on cpu, joined: True"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    assert model(torch.tensor([[3, 1, 4]])).logits.isfinite().all()
