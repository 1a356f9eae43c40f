"""`python -m training pretrain`, from the command line to the finished folder."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Trainer

from modeling_gpt_scratch import durable
from tests.training.run.endings import weights
from training.__main__ import main
from training.record import read_metrics
from training.run.folder import RunFolder
from training.run.monitor import TRAINING_FIGURES
from training.run.window_trainer import GPTScratchTrainer

ROOT = Path(__file__).parents[2]
RECORDS = ("recipe.yaml", "run.json", "metrics.jsonl", ".lock")


def test_a_run_leaves_records_charts_checkpoints_and_a_model_that_opens(command, tmp_path, capsys):
    assert main(command()) == 0
    run = tmp_path / "run"
    expected = {*RECORDS, "loss.png", "gradient_norm.png", "learning_rate.png", "speed.png", "model"}
    assert {path.name for path in run.iterdir()} == expected | {"checkpoint-4", "checkpoint-8", "checkpoint-12"}
    assert all((run / name).read_bytes().startswith(b"\x89PNG") for name in expected if name.endswith(".png"))

    lines = read_metrics(run)
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6, 8, 10, 12]
    assert [line["step"] for line in lines if "eval_loss" in line] == [0, 4, 8, 12]
    assert all(line["tokens"] == 128 * line["step"] for line in lines)
    assert lines[1].keys() == {"step", "tokens", "elapsed_seconds", *TRAINING_FIGURES} - {"skipped_steps"}
    assert lines[1]["loss_min"] < lines[1]["loss"] < lines[1]["loss_max"]

    record = json.loads((run / "run.json").read_text())
    result = record["result"]
    assert result["eval_loss"] < result["initial"]["eval_loss"] - 0.5
    assert (result["tokens"], result["steps"]) == (12 * 128, 12)
    assert {"python", "torch", "transformers"} <= record["versions"].keys()
    sizes = {"parameters": result["parameters"], "steps": 12, "tokens": 12 * 128}
    assert record["planned"].pop("muon_dtype") in ("fp32", "bf16")  # what this machine multiplies faster
    assert record["planned"] == sizes | {"micro_batch": 2}
    assert result["peak_flops"] > 0
    assert 0 < result["mfu"] < 1

    model = AutoModelForCausalLM.from_pretrained(run / "model")
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    assert (model.config.eos_token_id, model.config.pad_token_id) == (0, 1)
    assert (model.config.use_cache, model.generation_config.max_length, tokenizer.model_max_length) == (True, 32, 32)
    assert model.config.residual_dropout == 0.1
    assert (run / "checkpoint-12" / "modeling_gpt_scratch.py").exists()
    assert yaml.safe_load((run / "recipe.yaml").read_text())["adam_beta1"] == 0.9

    printed = capsys.readouterr().out
    assert f"validation: {result['initial']['eval_loss']:.4f} -> {result['eval_loss']:.4f} nats per token" in printed
    assert "bits per byte" in printed


@pytest.mark.slow
def test_a_run_on_weighted_corpora_says_their_shares_and_goes_on_to_the_same_end(command, texts, tmp_path, capsys):
    (tmp_path / "line.txt").write_text("一二三四五六七八九十" * 300)
    corpora = {"corpus": f"[{texts}, {tmp_path / 'line.txt'}]", "corpus_weights": "[1, 3]", "max_steps": 8}
    assert main(command(**corpora)) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if " visited " in line]
    assert [line.split(";")[-1] for line in lines] == [" 25.0% of the run's windows", " 75.0% of the run's windows"]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [corpus["corpus"] for corpus in record["data"]["corpus"]["corpora"]] == [texts.name, "line"]
    whole = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    for path in ("model", "checkpoint-8"):
        shutil.rmtree(tmp_path / "run" / path)
    assert main(command(**corpora | {"corpus_weights": "[3, 1]"})) == 2
    assert "corpus_weights was [1.0, 3.0], now [3.0, 1.0]" in capsys.readouterr().err
    (prepared,) = (tmp_path / "data").iterdir()
    assert main(command(**corpora | {"corpus": prepared})) == 0  # the prepared data stand for the list
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() == whole


def test_records_hold_no_path_or_name_of_this_machine(texts, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(command(max_steps=2)) == 0  # told in absolute paths
    records = [Path("run", name) for name in RECORDS] + list(Path("data").glob("*/manifest.json"))
    assert len(records) == 5
    for name in (str(tmp_path), str(texts), str(ROOT), os.uname().nodename):
        assert not any(name in record.read_text() for record in records)


def test_finished_run_shows_its_result_and_trains_no_more(command, tmp_path, capsys, monkeypatch):
    assert main(command(max_steps=2)) == 0
    first = capsys.readouterr().out
    monkeypatch.setattr(Trainer, "train", None)
    assert main(command(max_steps=2)) == 0
    again = capsys.readouterr().out
    assert f"{tmp_path / 'run'} is finished" in again
    assert first.splitlines()[-4:] == again.splitlines()[-4:]


def test_the_last_weights_are_validated_once(command, monkeypatch):
    measured, evaluate = [], GPTScratchTrainer.evaluate

    def count(self, *args, metric_key_prefix="eval", **options):
        measured.append((self.state.global_step, metric_key_prefix))
        return evaluate(self, *args, metric_key_prefix=metric_key_prefix, **options)

    monkeypatch.setattr(GPTScratchTrainer, "evaluate", count)
    assert main(command(max_steps=4, eval_on_start=False, save_strategy="no")) == 0
    assert measured == [(4, "eval"), (4, "test")]


@pytest.mark.parametrize("where", ["__init__", "training_step"])
def test_memory_that_runs_out_is_called_by_its_name(where, command, tmp_path, capsys, monkeypatch):
    def run_out(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(GPTScratchTrainer, where, run_out)
    assert main(command()) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: the device is out of memory (CUDA out of memory.")
    assert "per_device_train_batch_size" in error
    assert "gradient_checkpointing" in error


def test_a_run_is_finished_when_its_model_is_surely_on_the_disk_and_not_before(command, tmp_path, monkeypatch):
    flushed, flush, finish = set(), durable.flush, RunFolder.finish

    def watch(self, result):
        files = {path.relative_to(self.path) for path in self.model.rglob("*")}
        assert {path.name for path in files} >= {"model.safetensors", "config.json", "tokenizer.json"}
        assert {path.name for path in files} <= flushed
        finish(self, result)

    monkeypatch.setattr(durable, "flush", lambda path: (flushed.add(path.name), flush(path)))
    monkeypatch.setattr(RunFolder, "finish", watch)
    assert main(command(save_strategy="no", max_steps=2)) == 0
    assert "result" in json.loads((tmp_path / "run" / "run.json").read_text())


def test_model_that_cannot_be_saved_leaves_no_half_of_it(command, tmp_path, capsys, monkeypatch):
    def disk_full(self, folder):
        (Path(folder) / "vocab.json").write_text("half")
        raise OSError(28, "No space left on device")

    assert main(command(output_dir=tmp_path / "first", save_strategy="no", max_steps=2)) == 0  # prepares the data
    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", disk_full)
    assert main(command(save_strategy="no", max_steps=2)) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not list(tmp_path.glob("run/*model*"))


def test_bf16_trains_by_autocast_and_keeps_fp32_weights(command, tmp_path):
    assert main(command(precision="bf16", max_steps=4)) == 0
    assert {tensor.dtype for tensor in weights(tmp_path / "run").values()} == {torch.float32}
    result = json.loads((tmp_path / "run" / "run.json").read_text())["result"]
    assert result["eval_loss"] < result["initial"]["eval_loss"]


def test_epochs_become_whole_steps(command, tmp_path):
    assert main(command(max_steps=None, num_train_epochs=2, save_strategy="no", eval_strategy="no")) == 0
    (manifest,) = tmp_path.glob("data/*/manifest.json")
    windows = (json.loads(manifest.read_text())["parts"]["train"]["tokens"] - 1) // 32
    result = json.loads((tmp_path / "run" / "run.json").read_text())["result"]
    assert result["steps"] == -(-2 * windows // 4)


def test_help_lists_the_settings(capsys):
    assert main(["--help"]) == 0
    with pytest.raises(SystemExit):
        main(["pretrain", "--help"])
    printed = capsys.readouterr().out
    assert "--tokens_per_step" in printed
    assert "--learning_rate" in printed
