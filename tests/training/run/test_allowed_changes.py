"""Another recipe, model or text for the same run folder: refused by name, with the flag that allows it."""

import re
import shutil

import pytest

from training.__main__ import main


@pytest.mark.parametrize(
    ("options", "group"),
    [
        ({"tokens_per_step": 512}, "batch"),
        ({"per_device_train_batch_size": 2}, "batch"),
        ({"max_steps": 30}, "horizon"),
        ({"learning_rate": 2e-3}, "horizon"),
        ({"shuffle": False}, "data"),
        ({"save_steps": 5}, "other"),
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
