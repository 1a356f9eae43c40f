"""A table beside its own runs, read again."""

import csv
import json
import shutil

from tests.training.data.tales import TALES
from training.__main__ import main


def test_a_run_on_a_table_beside_it_goes_on_without_reading_itself(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "tales.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "tale"], *enumerate([*TALES, "", 'Two lines,\n"quoted".'])])
    words = "pretrain --model demo --corpus . --text_field tale --output_dir run --tokens_per_step 64 --vocab_size 300"
    words += " --hidden_size 32 --num_hidden_layers 1 --max_position_embeddings 32 --per_device_train_batch_size 2"
    words += " --max_steps 4 --save_steps 2 --split hash --tokenize_threads 1 --disable_tqdm true"
    assert main(words.split()) == 0
    assert "rows without text, skipped: 1\n" in capsys.readouterr().out
    (prepared,) = (tmp_path / "data").iterdir()
    assert json.loads((prepared / "manifest.json").read_text())["corpus"]["documents"] == len(TALES) + 1

    for name in ("run/model", "run/checkpoint-4", "data"):  # as after a kill, and with all to be read again
        shutil.rmtree(tmp_path / name)
    assert main(words.split()) == 0
    said = capsys.readouterr().out
    assert ": not read: 1 folder (run 1)" in said
    assert "resumed from checkpoint-2" in said
    assert [prepared] == list((tmp_path / "data").iterdir())
    assert (tmp_path / "run" / "model").is_dir()
