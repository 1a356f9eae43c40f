"""The launch files: read by the tools that they are for, as far as those are here, and true about our own program."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from benchmarks import faults
from modeling_gpt_scratch.modeling_gpt_scratch import GPTScratchDecoderLayer
from training.monitoring import read_metrics

ROOT = Path(__file__).parent.parent
LAUNCH = ROOT / "configuration" / "launch"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


@pytest.fixture
def argv(tmp_path):
    faults.write_corpus(tmp_path / "corpus")
    return lambda name, processes: faults.command(tmp_path, name, processes=processes, workers=0, steps=12)


def run(words: list[str], **environment: str) -> subprocess.CompletedProcess:
    variables = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"} | environment
    return subprocess.run(words, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.parametrize("name", ["ddp.yaml", "fsdp2.yaml"])
def test_accelerate_reads_the_file(name):
    config = load_config_from_file(str(LAUNCH / name))
    assert config.num_processes == 8
    assert config.mixed_precision == "no"  # the recipe's precision decides


def test_fsdp2_shards_our_layers():
    config = load_config_from_file(str(LAUNCH / "fsdp2.yaml"))
    assert config.fsdp_config["fsdp_version"] == 2
    assert config.fsdp_config["fsdp_transformer_layer_cls_to_wrap"] == GPTScratchDecoderLayer.__name__


TENSOR_PARALLEL = """
import sys
import torch
from modeling_gpt_scratch import GPTScratchForCausalLM

torch.set_num_threads(1)
whole = GPTScratchForCausalLM.from_pretrained(sys.argv[1])
parted = GPTScratchForCausalLM.from_pretrained(sys.argv[1], tp_plan="auto")
input_ids = torch.arange(16).reshape(2, 8)
outputs = [model(input_ids, labels=input_ids) for model in (whole, parted)]
for output in outputs:
    output.loss.backward()
layer = "layers.1.self_attn.q_proj.weight"
gradients = [model.model.get_parameter(layer).grad for model in (whole, parted)]
assert parted.model.get_parameter(layer).to_local().shape == (16, 32), "not parted"
torch.testing.assert_close(outputs[1].logits, outputs[0].logits, atol=1e-5, rtol=0)
torch.testing.assert_close(gradients[1].full_tensor(), gradients[0], atol=1e-6, rtol=1e-4)
"""


@pytest.mark.slow  # the oldest supported versions part models on GPUs alone
def test_two_processes_that_share_each_layer_compute_what_one_does(tiny_model, tmp_path):
    tiny_model().save_pretrained(tmp_path / "model")
    (tmp_path / "program.py").write_text(TENSOR_PARALLEL)
    process = run([*TORCHRUN, "--standalone", "--nproc-per-node", "2", tmp_path / "program.py", tmp_path / "model"])
    assert process.returncode == 0, process.stderr


def test_slurm_and_skypilot_files_are_what_their_tools_read():
    assert subprocess.run(["bash", "-n", LAUNCH / "slurm.sh"], check=False).returncode == 0
    options = re.findall(r"^#SBATCH --([a-z-]+)", (LAUNCH / "slurm.sh").read_text(), re.MULTILINE)
    assert {"signal", "requeue", "open-mode"} <= set(options)
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    assert task["resources"]["use_spot"]
    assert task["resources"]["job_recovery"]
    assert (ROOT / task["envs"]["RECIPE"]).is_file()


@pytest.mark.slow
def test_torchrun_gives_the_losses_of_one_process(argv, tmp_path):
    # Each process has its own numbers for dropout, and Muon's bf16 makes much of a difference in the last digit.
    options = [*(f"--{kind}_dropout=0" for kind in ("embedding", "attention", "residual")), "--muon_learning_rate=null"]
    assert run([sys.executable, "-m", "training", *argv("one", 1), *options]).returncode == 0
    torchrun = [*TORCHRUN, "--standalone", "--nproc-per-node", "2", "-m", "training"]
    finished = run([*torchrun, *argv("two", 2), *options])
    assert finished.returncode == 0, finished.stderr[-3000:]
    one, two = (
        [line["loss"] for line in read_metrics(tmp_path / name) if "learning_rate" in line] for name in ("one", "two")
    )
    assert len(one) == len(two) == 2
    assert two == pytest.approx(one, abs=1e-5)


@pytest.mark.slow
def test_two_agents_meet_and_train_one_model(argv, tmp_path):
    words = [*TORCHRUN, "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "test"]
    words += ["--rdzv-endpoint", f"127.0.0.1:{faults.free_port()}", "-m", "training", *argv("run", 2)]
    variables = os.environ | {"OMP_NUM_THREADS": "1"}
    agents = [subprocess.Popen(words, cwd=ROOT, env=variables, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        errors = [agent.communicate(timeout=240)[1] for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
    assert [agent.returncode for agent in agents] == [0, 0], errors[0][-2000:] + errors[1][-2000:]
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


@pytest.mark.slow
def test_fsdp_that_is_not_on_is_an_error(argv):
    words = [*TORCHRUN, "--standalone", "--nproc-per-node", "2", "-m", "training", *argv("run", 2)]
    finished = run(words, ACCELERATE_USE_FSDP="true")
    assert finished.returncode != 0
    assert "error: FSDP was asked for, but Accelerate has chosen MULTI_CPU here: use several GPUs" in finished.stderr
