"""Another recipe, model or text for the same run folder: refused by name, with the flag that allows it."""

import re
import shutil

import pytest
import torch
import yaml

from configuration.pretraining import PretrainingRecipe
from tests.training.run.disturbances import interrupt_at
from tests.training.run.endings import weights
from training.__main__ import main
from training.pretrain import Pretraining
from training.record import read_metrics
from training.run.fingerprint import HARMLESS, OTHER


@pytest.mark.parametrize(
    ("options", "group"),
    [
        ({"tokens_per_step": 512}, "batch"),
        ({"per_device_train_batch_size": 2}, "batch"),
        ({"max_steps": 30}, "horizon"),
        ({"learning_rate": 2e-3}, "horizon"),
        ({"shuffle": False}, "data"),
        ({"weight_decay": 0.3}, "other"),
    ],
)
def test_changes_are_refused_by_name_with_the_flag_that_allows_them(options, group, argv, tmp_path, capsys):
    assert main(argv()) == 0
    (tmp_path / "run" / "model").rename(tmp_path / "model")
    capsys.readouterr()
    assert main(argv(**options)) == 2
    errors = capsys.readouterr().err
    (name,) = options
    assert f"belongs to a run with another {group} ({name} was" in errors
    assert f"--allow_changed {group}" in errors
    assert main([*argv(**options), "--allow_changed", group]) == 0


def test_harmless_settings_change_at_any_time_and_no_weight_does(command, tmp_path, monkeypatch):
    whole, halted = tmp_path / "whole", tmp_path / "halted"
    assert main(command(output_dir=whole)) == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, 7)
        assert main(command(output_dir=halted)) == 130
    (tmp_path / "data").rename(tmp_path / "moved")
    changes = {
        "data_dir": tmp_path / "moved",
        "dataloader_num_workers": 1,
        "disable_tqdm": False,
        "eval_on_start": False,
        "eval_steps": 5,
        "logging_steps": 1,
        "run_name": "again",
        "save_steps": 3,
        "save_total_limit": 2,
        "tokenize_threads": 1,
    }
    assert main(command(output_dir=halted, **changes)) == 0
    expected = weights(whole)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(halted).items())
    assert {path.name for path in halted.glob("checkpoint-*")} >= {"checkpoint-9", "checkpoint-12"}
    lines = read_metrics(halted)
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, *range(5, 13)]
    assert [line["step"] for line in lines if "eval_loss" in line] == [0, 4, 5, 10, 12]
    settings = yaml.safe_load((halted / "recipe.yaml").read_text())
    assert (settings["run_name"], settings["logging_steps"], settings["data_dir"]) == ("again", 1, "moved")


def test_harmless_settings_leave_a_finished_run_finished(command, tmp_path, capsys):
    assert main(command(max_steps=2)) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert main(command(max_steps=2, logging_steps=1, eval_strategy="no", eval_steps=None, disable_tqdm=None)) == 0
    assert "is finished" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_harmless_settings_are_settings_and_in_no_group():
    assert PretrainingRecipe.settings().keys() >= HARMLESS
    groups = Pretraining.groups()
    assert {groups.group_of(name, 1, 2) for name in HARMLESS} == {OTHER}


def test_another_model_is_never_allowed(argv, tmp_path, capsys):
    assert main(argv()) == 0
    assert main([*argv(hidden_size=64), "--allow_changed", "other,horizon"]) == 2
    errors = capsys.readouterr().err
    assert "another model (hidden_size was 32, now 64" in errors
    assert "--allow_changed" not in errors


def test_folder_of_another_run_is_refused_and_untouched(command, tmp_path, capsys):
    assert main(command(max_steps=2)) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(command(max_steps=4, seed=1)) == 2
    assert "a run with another data and horizon (max_steps was 2, now 4; seed was 42, now 1)" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_run_that_began_on_other_data_is_not_continued(command, tmp_path, texts, capsys):
    corpus = tmp_path / "corpus"
    shutil.copytree(texts, corpus)
    assert main(command(corpus=corpus, max_steps=4)) == 0
    shutil.rmtree(tmp_path / "run" / "model")
    (corpus / "00.txt").write_text("Something else.\n" * 50)
    assert main(command(corpus=corpus, max_steps=4)) == 0  # its own is still there
    shutil.rmtree(tmp_path / "run" / "model")
    shutil.rmtree(tmp_path / "data")
    assert main(command(corpus=corpus, max_steps=4)) == 2
    assert re.search("a run with another data and tokenizer .*--allow_changed data,tokenizer", capsys.readouterr().err)
