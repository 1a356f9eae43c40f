"""A run that ended in the middle of something goes on from there."""

import json

import torch
from transformers import AutoModelForCausalLM

from benchmarks.faults import without_times
from configuration.pretraining import PretrainingRecipe
from tests.training.run.disturbances import interrupt_at
from tests.training.run.endings import assert_opens_as, weights
from training.__main__ import main
from training.pretrain import Pretraining
from training.record import read_metrics
from training.run.folder import RunFolder


def test_interrupted_run_goes_on_to_the_very_same_end(command, tmp_path, capsys, monkeypatch):
    whole, halted = tmp_path / "whole", tmp_path / "halted"
    assert main(command(output_dir=whole)) == 0

    with monkeypatch.context() as patch:
        interrupt_at(patch, 7)
        assert main(command(output_dir=halted)) == 130
    assert not (halted / "model").exists()
    assert max(line["step"] for line in read_metrics(halted)) == 6
    capsys.readouterr()

    assert main(command(output_dir=halted)) == 0
    assert "resumed from checkpoint-4" in capsys.readouterr().out
    expected = weights(whole)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(halted).items())
    assert without_times(halted) == without_times(whole)


def test_a_compiled_run_leaves_models_that_open_and_goes_on_after_an_interruption(
    command, tmp_path, monkeypatch, trained_logits
):
    # The names that compiling leaves do not depend on the backend, and this one is ready at once.
    compiled = {"torch_compile": True, "torch_compile_backend": "eager", "eval_strategy": "no", "eval_on_start": False}
    whole, halted = tmp_path / "whole", tmp_path / "halted"
    assert main(command(output_dir=whole, max_steps=6, save_steps=2, **compiled)) == 0
    assert trained_logits.keys() == {2, 4, 6}
    for name, step in (("checkpoint-2", 2), ("checkpoint-6", 6), ("model", 6)):
        assert_opens_as(whole / name, trained_logits[step])
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        assert main(command(output_dir=halted, max_steps=6, save_steps=2, **compiled)) == 130
    assert main(command(output_dir=halted, max_steps=6, save_steps=2, **compiled)) == 0
    expected = weights(whole)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(halted).items())


def test_interrupt_while_finishing_loses_nothing(command, tmp_path, monkeypatch):
    def interrupt(self, result):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "finish", interrupt)
        assert main(command()) == 130
    assert "result" not in json.loads((tmp_path / "run" / "run.json").read_text())
    assert main(command()) == 0
    AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    assert "result" in json.loads((tmp_path / "run" / "run.json").read_text())


def test_a_run_that_was_killed_while_it_wrote_its_first_records_begins_anew(command, tmp_path):
    (tmp_path / "run").mkdir()
    for name in ("recipe.yaml", "recipe.yaml.new", "run.json.new"):
        (tmp_path / "run" / name).write_text("half a")
    assert main(command(save_strategy="no", max_steps=2)) == 0
    recipe = PretrainingRecipe.load(tmp_path / "run" / "recipe.yaml", {"output_dir": str(tmp_path / "run")})
    assert RunFolder(Pretraining(recipe)).result()
