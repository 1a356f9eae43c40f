"""The launch files: read by the tools that they are for, as far as those are here, and true about our own program."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from torch.distributed.run import get_args_parser

from benchmarks import faults
from configuration.pretraining import PretrainingRecipe
from modeling_gpt_scratch.modeling_gpt_scratch import GPTScratchDecoderLayer
from training.__main__ import COMMANDS
from training.pretrain import Pretraining
from training.record import read_metrics
from training.run.command import program_parser, read_command

ROOT = Path(__file__).parents[2]
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


STAND_IN = r"""#!/usr/bin/env bash
# In the place of every program of .venv/bin: notes how it was called. The Hub is a folder. A run saves a checkpoint,
# waits until it is in the bucket, if there is one, and saves another.
printf '%s\t' "$(basename "$0")" "$@" >> "$CALLS"
echo >> "$CALLS"
case "$(basename "$0") $1 $2" in
"hf buckets sync")
    from=${3/hf:\/\//$HUB/} to=${4/hf:\/\//$HUB/}
    mkdir -p "$from" "$to"
    cp -r "$from/." "$to" ;;
"torchrun --standalone --nproc-per-node")
    while [ "$1" != --output_dir ]; do shift; done
    mkdir -p "$2"
    name=checkpoint-$(ls "$2" | wc -l)
    mkdir "$2/$name"
    for _ in {1..100}; do
        [ ! -d "$HUB" ] || [ -d "$HUB/buckets/alice/run/$name" ] && mkdir "$2/$name-sent" && exit "$CODE"
        sleep 0.1
    done ;;
esac
"""


@pytest.fixture
def machine(tmp_path):
    """A machine without GPUs and network that has the launch files and recipes. Runs a script and returns the calls."""
    clone = tmp_path / "clone"
    shutil.copytree(ROOT / "configuration", clone / "configuration", ignore=shutil.ignore_patterns("__pycache__"))
    programs = clone / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("hf", "python", "torchrun"):
        (programs / name).write_text(STAND_IN)
        (programs / name).chmod(0o755)
    (clone / "Makefile").write_text("environment:\n")

    def start(words: list, folder: Path, code: int = 0, **environment: str) -> list[list[str]]:
        folder.mkdir(exist_ok=True)
        calls = folder / "calls"
        variables = {"PATH": os.environ["PATH"], "HUB": str(tmp_path / "hub"), "CALLS": str(calls), "CODE": str(code)}
        calls.unlink(missing_ok=True)
        finished = subprocess.run(
            words, cwd=folder, env=variables | environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert finished.returncode == code, finished.stderr
        return [line.rstrip("\t").split("\t") for line in calls.read_text().splitlines()]

    return start


def recipe_of(call: list[str]) -> PretrainingRecipe:
    """The recipe of a call of our own program, by torchrun or not, read by the parsers of both."""
    words = call[1:]
    if call[0] == "torchrun":
        arguments = get_args_parser().parse_args(words)
        words = ["-m" if arguments.module else "", arguments.training_script, *arguments.training_script_args]
    assert words[:2] == ["-m", "training"]
    assert words[2] in COMMANDS
    parser = program_parser(Pretraining, words[2], description="")
    return read_command(parser, Pretraining, words[3:])[0]


def test_skypilot_fetches_and_prepares_what_its_run_reads(machine, tmp_path):
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    environment = task["envs"] | {"SKYPILOT_NUM_GPUS_PER_NODE": "8"}
    setup, train = (task[name].replace(' "/runs/', ' "runs/') for name in ("setup", "run"))
    fetch, prepare = machine(["bash", "-c", setup], tmp_path / "clone", **environment)
    recipe = recipe_of(prepare)
    dataset = task["envs"]["DATASET"]
    assert fetch == ["hf", "download", "--repo-type", "dataset", dataset, "--local-dir", recipe.data.corpus]
    assert list(task["file_mounts"]) == ["/runs"]
    (train,) = machine(["bash", "-c", train], tmp_path / "clone", **environment)
    assert recipe_of(train) == recipe  # the corpus and data_dir among it
    assert prepare[-2:] == train[-2:] == ["--output_dir", "runs/blog-baseline"]  # so that tokenize sees the run
    assert recipe_of(train).training["output_dir"] == "runs/blog-baseline"

    own = environment | {"RECIPE": "configuration/recipes/demo.yaml", "DATASET": "none"}
    (prepare,) = machine(["bash", "-c", setup], tmp_path / "clone", **own)
    assert recipe_of(prepare).data.corpus == "stdlib"


def test_a_hugging_face_job_sends_its_run_to_the_bucket_and_the_next_attempt_goes_on_from_there(machine, tmp_path):
    script = tmp_path / "clone" / "configuration" / "launch" / "hf-jobs.sh"
    words = ["bash", script, "alice/run", "configuration/recipes/blog-baseline.yaml"]
    words += ["--seed", "3", "--allow_changed", "horizon"]
    (tmp_path / "hub").mkdir()
    bucket = tmp_path / "hub" / "buckets" / "alice" / "run"
    for attempt, code in enumerate((1, 0)):
        fetch, begin, prepare, *rest = machine(words, tmp_path / f"job{attempt}", code, SECONDS_BETWEEN_COPIES="0.2")
        train = next(call for call in rest if call[0] == "torchrun")
        recipe = recipe_of(train)
        assert recipe.training["seed"] == 3
        assert recipe_of(prepare) == recipe  # and so tokenize sees the run
        assert fetch[-1] == recipe.data.corpus
        assert begin[1:] == ["buckets", "sync", "hf://buckets/alice/run", recipe.training["output_dir"]]
        sends = [call for call in rest if call[0] == "hf"]
        assert len(sends) >= 2  # while the run is going on, and at its end
        assert all(call[1:5] == ["buckets", "sync", *reversed(begin[3:])] for call in sends)
        assert all({".saving/*", ".model-*", ".lock"} <= set(call) for call in sends)  # half-written or of this machine
    assert {path.name for path in bucket.iterdir()} == {f"checkpoint-{n}{s}" for n in (0, 2) for s in ("", "-sent")}


def hf(*words: str) -> str:
    finished = run([sys.executable, "-m", "huggingface_hub.cli.hf", *words], COLUMNS="200", HF_HUB_OFFLINE="1")
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.slow  # and the oldest supported version has no jobs with volumes
def test_the_installed_hf_takes_the_commands_of_the_launch_files(tmp_path, monkeypatch):
    text = (LAUNCH / "hf-jobs.sh").read_text()
    comments = "\n".join(line.removeprefix("#") for line in text.splitlines() if line.startswith("#  "))
    (tmp_path / "code").mkdir()
    commands = [shlex.split(line) for line in comments.replace("\\\n", "").splitlines()]
    (job,) = (words[1:] for words in commands if words[1:3] == ["jobs", "run"])
    job[job.index("code:/code")] = f"{tmp_path}/code:/code"
    image = job.index("python:3.12")
    shown = hf(*job[:image], "--dry-run", *job[image:])
    for line in (
        r"flavor +a100x8",
        r"timeout +2d",
        r"image +python:3.12",
        r"command +bash /code/.*/blog-baseline.yaml",
    ):
        assert re.search(line, shown), shown
    assert (ROOT / job[image + 2].removeprefix("/code/")).is_file()
    text += (LAUNCH / "skypilot.yaml").read_text()
    for command in ("buckets create", "buckets sync", "download"):
        lines = re.findall(rf"/hf {command} (.*)", text)
        options = {option for line in lines for option in re.findall(r"--[a-z-]+", line)}
        assert options
        assert options <= set(re.findall(r"--[a-z-]+", hf(*command.split(), "--help")))


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
