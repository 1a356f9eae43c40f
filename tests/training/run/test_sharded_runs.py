"""A run in shards (FSDP2), on CPUs that count as GPUs here: what it leaves is what any other run leaves."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks import faults
from training.__main__ import main
from training.record import read_metrics

ROOT = Path(__file__).parents[3]
IDS = [[3, 1, 4, 1, 5, 9, 2, 6]]

# Two processes; the first one writes down what the live model says at each step at which it is saved.
RUN = """
import json, os, sys
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

from benchmarks import faults
from tests.training.run.sharding import shard_on_cpus
from training.run.trainer import ReliableTrainer

workplace, ids = Path(sys.argv[1]), torch.tensor(json.loads(sys.argv[2]))
portable_model = ReliableTrainer.portable_model


def watch(trainer):
    assert all(isinstance(weight, DTensor) for weight in trainer.model.model.layers.parameters())
    with torch.no_grad():
        logits = trainer.model.eval()(ids).logits.tolist()
    trainer.model.train()
    if trainer.is_world_process_zero():
        with (workplace / "logits.jsonl").open("a") as stream:
            print(json.dumps([trainer.state.global_step, logits]), file=stream)
    return portable_model(trainer)


ReliableTrainer.portable_model = watch
shard_on_cpus()
log = workplace / "log.txt"
command = [*faults.command(workplace, "run", 2, 0, 12), "--logging_steps", "1"]
assert faults.wait(faults.start(command, 2, log)) == [0, 0], log.read_text()[-3000:]
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks its processes")
def test_a_sharded_run_leaves_models_that_open_and_goes_on_in_shards_or_whole(tmp_path):
    def sharded_run() -> None:
        program = [sys.executable, "-c", RUN, str(tmp_path), json.dumps(IDS)]
        finished = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
        assert finished.returncode == 0, finished.stderr[-3000:]

    faults.write_corpus(tmp_path / "corpus")
    run = tmp_path / "run"
    sharded_run()
    expected, lines = faults.ending(run), [json.loads(line) for line in (tmp_path / "logits.jsonl").open()]
    logits = {step: torch.tensor(numbers) for step, numbers in lines}
    assert logits.keys() == {7, 12}
    for name, step in (("checkpoint-7", 7), ("checkpoint-12", 12), ("model", 12)):
        assert {path.suffix for path in (run / name).iterdir()} <= {".json", ".py", ".safetensors", ".pt", ".pth"}
        assert "FSDP" not in (run / name / "config.json").read_text()
        assert (run / name / "modeling_gpt_scratch.py").is_file()
        model, found = AutoModelForCausalLM.from_pretrained(run / name, output_loading_info=True)
        assert not any(found.values())
        with torch.no_grad():  # whole matrices are multiplied in another order than their shards
            torch.testing.assert_close(model(torch.tensor(IDS)).logits, logits[step], atol=1e-5, rtol=0)
    norms = [line["grad_norm"] for line in read_metrics(run) if "grad_norm" in line]
    assert len(norms) == 12

    shutil.rmtree(run / "model")
    shutil.rmtree(run / "checkpoint-12")
    shutil.copytree(run, tmp_path / "whole")
    sharded_run()
    assert faults.ending(run) == expected
    command = [*faults.command(tmp_path, "whole", 1, 0, 12), "--logging_steps", "1", "--allow_changed", "batch"]
    assert main(command) == 0  # by one process, from the same checkpoint
    whole = [line["grad_norm"] for line in read_metrics(tmp_path / "whole") if "grad_norm" in line]
    assert whole[:7] == norms[:7]
    assert whole[7:] == pytest.approx(norms[7:], rel=0.1)  # dropout draws other numbers in one process
    state = torch.load(tmp_path / "whole" / "checkpoint-12" / "optimizer.pt", weights_only=True)["state"]
    assert state["model.norm.weight"]["step"] == 12  # and the optimizer's state came along
