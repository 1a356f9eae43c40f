"""A finished run that is asked for again, with other settings: what goes on, how, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import TrainingArguments

from training.__main__ import main
from training.record import read_metrics
from training.run.checkpoints import OPTIMIZER
from training.run.folder import RunFolder
from training.run.speed import Speed


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Builds the command line of a tiny run; `place/run` has finished it, in four steps of AdamW."""
    place = tmp_path_factory.mktemp("changed")
    (place / "corpus.txt").write_text("".join(f"Line {number} of a text that goes on.\n" for number in range(400)))

    def build(run: Path | None = None, **options) -> list[str]:
        values = {
            "model": "demo",
            "corpus": place / "corpus.txt",
            "tokens_per_step": 128,
            "output_dir": run or place / "run",
            "data_dir": place / "data",
            "vocab_size": 300,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "max_position_embeddings": 32,
            "per_device_train_batch_size": 2,
            "max_steps": 4,
            "learning_rate": "1e-2",
            "save_steps": 2,
            "logging_steps": 1,
            "disable_tqdm": True,
        } | options
        return ["pretrain", *(text for name, value in values.items() for text in (f"--{name}", str(value)))]

    assert main(build()) == 0
    return build


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of the finished run, to be changed."""
    whole = Path(finished()[finished().index("--output_dir") + 1])
    return shutil.copytree(whole, tmp_path / "run")


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("options", [{"muon_learning_rate": 0.02}, {"optim": "sgd"}, {"weight_decay_on": "everything"}])
def test_a_run_with_another_optimizer_is_refused_and_stays_finished(options, finished, run, capsys):
    before = contents(run)
    assert main([*finished(run, max_steps=6, **options), "--allow_changed", "horizon,other"]) == 2
    error = capsys.readouterr().err
    assert f"another optimizer ({next(iter(options))} was" in error
    assert "--allow_changed" not in error
    assert contents(run) == before


def test_another_runs_checkpoint_with_another_optimizer_is_refused(finished, run, tmp_path, capsys):
    start = ["--resume", str(run / "checkpoint-2"), "--allow_changed", "horizon"]
    assert main([*finished(tmp_path / "fresh", muon_learning_rate=0.02), *start]) == 2
    assert "another optimizer (muon was False, now True)" in capsys.readouterr().err
    assert not (tmp_path / "fresh").exists()


def test_changed_settings_of_the_optimizer_take_effect(finished, run):
    changed = {"weight_decay": 0.3, "adam_beta2": 0.9, "max_steps": 6}
    assert main([*finished(run, **changed), "--allow_changed", "horizon,other"]) == 0
    groups = torch.load(run / "checkpoint-6" / OPTIMIZER, weights_only=True)["param_groups"]
    assert {group["weight_decay"] for group in groups if group["params"]} == {0.0, 0.3}
    assert {tuple(group["betas"]) for group in groups} == {(0.9, 0.9)}


def test_a_run_whose_extension_was_killed_as_it_began_plans_what_it_does(finished, run, monkeypatch):
    def killed(self, *arguments):
        write_record(self, *arguments)
        raise KeyboardInterrupt

    write_record = RunFolder._write_record
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "_write_record", killed)
        assert main([*finished(run, max_steps=6), "--allow_changed", "horizon"]) == 130
    assert main(finished(run)) == 0
    record = json.loads((run / "run.json").read_text())
    assert record["planned"]["steps"] == record["result"]["steps"] == 4


def test_tokens_are_counted_by_the_step_whose_size_may_change(finished, run):
    words = ["--allow_changed", "batch,horizon"]
    assert main([*finished(run, tokens_per_step=64, max_steps=6), *words]) == 0
    assert [line["tokens"] for line in read_metrics(run) if "loss" in line] == [128, 256, 384, 512, 576, 640]
    record = json.loads((run / "run.json").read_text())
    assert record["planned"]["tokens"] == record["result"]["tokens"] == 640


def test_speed_is_that_of_what_was_trained_here(finished, run, tmp_path, monkeypatch):
    monkeypatch.setattr(Speed, "elapsed_seconds", property(lambda self: 10.0))
    monkeypatch.setattr(Speed, "since_last_line", lambda self, step: {})
    start = ["--resume", str(run / "checkpoint-2")]
    assert main([*finished(tmp_path / "fresh"), *start]) == 0
    result = json.loads((tmp_path / "fresh" / "run.json").read_text())["result"]
    assert (result["tokens"], result["tokens_per_second"]) == (4 * 128, 2 * 128 / 10)


def test_one_process_with_several_gpus_is_refused(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 4))
    assert main(finished(tmp_path / "fresh")) == 2
    assert "torchrun --nproc-per-node 4 -m training pretrain" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ["--resume", "never"]),
        ({}, ["--resume", "absent"]),
        ({"weight_decay": 0.3}, ["--allow_changed", "other"]),
        ({"learning_rate": 0.1}, ["--allow_changed", "horizon"]),
    ],
)
def test_a_finished_run_that_is_to_do_no_more_steps_says_so(options, words, finished, run, capsys):
    before = contents(run)
    assert main([*finished(run, **options), *words]) == 2
    assert "is finished after 4 steps, and 4 are asked for: ask for more (max_steps)" in capsys.readouterr().err
    assert contents(run) == before
