"""A finished run that is made longer."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, Trainer

from benchmarks.faults import without_times
from tests.training.run.disturbances import interrupt_at
from tests.training.run.endings import assert_opens_as, weights
from training.__main__ import main
from training.files import weights_sha256
from training.record import read_metrics
from training.run import folder as run_folder
from training.run.monitor import RunMonitor


def extension(command, **options) -> list[str]:
    """The command that makes eight steps of a run of four."""
    return [*command(max_steps=8, logging_steps=1, **options), "--allow_changed", "horizon"]


def test_a_finished_run_is_extended_and_keeps_its_model_until_the_new_one_is_complete(
    command, tmp_path, capsys, monkeypatch, trained_logits
):
    run = tmp_path / "run"
    assert main(command(max_steps=4, logging_steps=1)) == 0
    first, record = weights(run), json.loads((run / "run.json").read_text())
    seen = []
    on_step_end, describe = RunMonitor.on_step_end, run_folder.describe_environment
    environment = describe() | {"git_commit": "another"}

    def look(self, args, state, control, **kwargs):
        on_step_end(self, args, state, control, **kwargs)
        seen.append((state.global_step, "result" in json.loads((run / "run.json").read_text())))
        assert all(torch.equal(tensor, first[name]) for name, tensor in weights(run).items())

    monkeypatch.setattr(RunMonitor, "on_step_end", look)
    monkeypatch.setattr(run_folder, "describe_environment", lambda: environment)
    assert main(extension(command)) == 0
    assert "resumed from checkpoint-4" in capsys.readouterr().out
    assert seen == [(5, False), (6, False), (7, False), (8, False)]

    extended = json.loads((run / "run.json").read_text())
    assert (extended["result"]["steps"], extended["result"]["tokens"]) == (8, 8 * 128)
    assert extended["planned"]["steps"] == 8
    assert extended["earlier_results"] == [record["result"]]
    assert extended["starts"] == [*record["starts"], {"step": 4, "tokens": 4 * 128, **environment}]
    assert extended["git_commit"] == "another"
    assert extended["result"]["model_sha256"] == weights_sha256(run / "model") != record["result"]["model_sha256"]
    assert_opens_as(run / "model", trained_logits[8])
    lines = [line for line in read_metrics(run) if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6, 7, 8]
    # Linear from 0.02 to 0: over four steps at first, and from there on as if it had always been over eight.
    assert [line["learning_rate"] for line in lines] == pytest.approx(
        [0.02 * (1 - step / 4) for step in range(4)] + [0.02 * (1 - step / 8) for step in range(4, 8)]
    )

    monkeypatch.setattr(Trainer, "train", None)
    with (run / "recipe.yaml").open("a") as stream:
        stream.write("field_of_the_future: 1\n")
    assert main(command(max_steps=8, logging_steps=1)) == 0
    shown = capsys.readouterr()
    assert f"{run} is finished" in shown.out
    assert f"{run}/recipe.yaml: this version of the library does not know field_of_the_future\n" in shown.err


def test_an_extension_that_was_killed_goes_on_to_the_very_same_end(command, tmp_path, monkeypatch, capsys):
    whole, halted = tmp_path / "whole", tmp_path / "halted"
    for folder in (whole, halted):
        assert main(command(max_steps=4, logging_steps=1, save_steps=2, output_dir=folder)) == 0
    assert main(extension(command, save_steps=2, output_dir=whole)) == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, 7)
        assert main(extension(command, save_steps=2, output_dir=halted)) == 130
    AutoModelForCausalLM.from_pretrained(halted / "model")
    capsys.readouterr()
    assert main(extension(command, save_steps=2, output_dir=halted)) == 0
    assert "resumed from checkpoint-6" in capsys.readouterr().out
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(halted).items())
    assert without_times(halted) == without_times(whole)


@pytest.mark.parametrize(
    ("options", "steps", "message"),
    [
        ({"save_strategy": "no"}, 8, "is finished and has no checkpoint to go on from"),
        ({"save_strategy": "no"}, 2, "is finished after 4 steps, and 2 are asked for: ask for more"),
    ],
)
def test_what_cannot_be_extended_stays_as_it_is(options, steps, message, command, tmp_path, capsys):
    assert main(command(max_steps=4, eval_strategy="no", **options)) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert main([*command(max_steps=steps, eval_strategy="no", **options), "--allow_changed", "horizon"]) == 2
    assert message in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_fewer_steps_than_a_checkpoint_has_are_refused(command, tmp_path, capsys):
    assert main(command(max_steps=4)) == 0
    shutil.rmtree(tmp_path / "run" / "model")
    before = (tmp_path / "run" / "run.json").read_text()
    assert main([*command(max_steps=2), "--allow_changed", "horizon"]) == 2
    assert "checkpoint-4 has made 4 steps, more than the 2 that are asked for" in capsys.readouterr().err
    assert (tmp_path / "run" / "run.json").read_text() == before
