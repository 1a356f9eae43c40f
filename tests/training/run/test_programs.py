"""A program that declares itself has all that a run has; regression.py is one, on the library's own Trainer."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

from benchmarks.faults import without_times
from configuration.fields import setting
from tests.training.run import regression
from tests.training.run.regression import Line, Regression, RegressionRecipe
from training.__main__ import main as training
from training.errors import InputError
from training.record import program_of, read_metrics, read_record
from training.run.exit_codes import exit_code_of
from training.run.monitor import RunMonitor
from training.view.server import WatchedRun

ROOT = Path(__file__).parents[3]


@pytest.fixture
def argv(tmp_path):
    """The command line of a short regression; options can be overridden."""

    def build(**options) -> list[str]:
        values = {
            "slope": 2,
            "output_dir": tmp_path / "run",
            "learning_rate": 0.1,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "max_steps": 40,
            "save_steps": 8,
            "logging_steps": 3,
            "eval_on_start": True,
            "eval_strategy": "steps",
            "eval_steps": 10,
            "disable_tqdm": True,
        }
        return [text for name, value in (values | options).items() for text in (f"--{name}", str(value))]

    return build


def run(argv: list[str]) -> int:
    return exit_code_of(lambda: regression.main(argv))


def ending(folder: Path) -> tuple[dict[str, list], list[dict]]:
    timed = ("examples_per_second", "eval_samples_per_second", "eval_steps_per_second")
    lines = [{name: value for name, value in line.items() if name not in timed} for line in without_times(folder)]
    weights = Line.from_pretrained(folder / "model").state_dict()
    return {name: tensor.tolist() for name, tensor in weights.items()}, lines


def test_it_leaves_what_every_run_leaves(argv, tmp_path, capsys):
    assert run(argv()) == 0
    assert "40 steps of 8 examples" in (shown := capsys.readouterr().out)
    assert "320 examples in" in shown
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names >= {"recipe.yaml", "run.json", "metrics.jsonl", "loss.png", "speed.png", "checkpoint-40", "model"}
    record = read_record(tmp_path / "run")
    assert (record["program"], record["parent"]) == ("regression", None)
    assert record["result"]["eval_loss"] < record["result"]["initial"]["eval_loss"] / 5
    lines = [line for line in read_metrics(tmp_path / "run") if "loss" in line]
    assert [line["examples"] for line in lines] == [8 * step for step in range(3, 40, 3)]
    assert all(line["loss_min"] <= line["loss"] <= line["loss_max"] for line in lines)
    (weight,) = (tensor for name, tensor in ending(tmp_path / "run")[0].items() if name == "linear.weight")
    torch.testing.assert_close(torch.tensor(weight), torch.tensor([[2.0]]), atol=0.4, rtol=0)  # less, by dropout
    page = WatchedRun(tmp_path / "run").page()
    assert "regression" in page
    assert "tokens" not in page
    assert run(argv()) == 0
    assert "is finished" in capsys.readouterr().out


def test_after_sigkill_it_goes_on_to_the_same_end(argv, tmp_path, capsys):
    long = {"max_steps": 600, "save_steps": 20}
    words = argv(**long)
    killed = subprocess.Popen(
        [sys.executable, "-m", "tests.training.run.regression", *words],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (tmp_path / "run" / "checkpoint-40").exists():
        assert killed.poll() is None
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "run" / "model").exists()
    assert run(words) == 0
    assert "resumed from checkpoint-" in capsys.readouterr().out
    assert run(argv(output_dir=tmp_path / "calm", **long)) == 0
    assert ending(tmp_path / "run") == ending(tmp_path / "calm")


@pytest.mark.parametrize("event", ["on_step_end", "on_prediction_step"])
def test_a_signal_stops_it_and_the_same_command_goes_on(event, argv, tmp_path, monkeypatch, capsys):
    assert run(argv(output_dir=tmp_path / "calm")) == 0

    def terminate(self, args, state, control, **kwargs):
        if state.global_step == 10:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(RunMonitor, event, terminate)
        assert run(argv()) == 128 + signal.SIGTERM
    assert "the same command goes on from checkpoint-10" in capsys.readouterr().err
    assert run(argv()) == 0
    assert ending(tmp_path / "run") == ending(tmp_path / "calm")


def test_its_settings_are_compared_by_its_groups(argv, capsys):
    assert run(argv(max_steps=8)) == 0
    for changes, group in (
        ({"slope": 3}, "data"),
        ({"gradient_accumulation_steps": 4}, "batch"),
        ({"max_steps": 9}, "horizon"),
        ({"weight_decay": 0.5}, "other"),
    ):
        assert run(argv(**{"max_steps": 8} | changes)) == 2
        assert f"--allow_changed {group}" in capsys.readouterr().err
    assert run([*argv(max_steps=16), "--allow_changed", "horizon"]) == 0
    assert run(argv(slop=3)) == 2
    assert "slop is no setting: did you mean slope?" in capsys.readouterr().err


def test_a_checkpoint_of_another_folder_is_compared_by_its_batch(argv, tmp_path, capsys):
    assert run(argv(max_steps=8)) == 0
    other = argv(max_steps=8, output_dir=tmp_path / "other", gradient_accumulation_steps=4)
    assert run([*other, "--resume", str(tmp_path / "run" / "checkpoint-8")]) == 2
    assert "gradient_accumulation_steps was 2, now 4" in capsys.readouterr().err


def test_a_required_number_may_be_zero(argv, tmp_path):
    assert run(argv(slope=0, max_steps=2)) == 0
    assert yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["slope"] == 0


@pytest.mark.parametrize("name", ["per_device_train_batch_size", "gradient_accumulation_steps"])
@pytest.mark.parametrize("number", [0, -2])
def test_a_batch_of_nothing_is_refused_before_there_is_a_run(name, number, argv, tmp_path, capsys):
    assert run(argv(**{name: number})) == 2
    assert f"{name} is {number}, but must be at least 1" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_a_programs_trainer_refuses_is_said_in_its_own_words(argv, monkeypatch, capsys):
    def refuse(*args, **run):
        raise InputError("the points are too few")

    monkeypatch.setattr(regression.Regression, "make_trainer", refuse)
    assert run(argv()) == 2
    assert "error: the points are too few" in capsys.readouterr().err


def test_data_with_numbers_as_keys_are_the_same_when_they_are_read_back(argv, monkeypatch):
    prepare = regression.Regression.prepare
    monkeypatch.setattr(
        regression.Regression, "prepare", lambda *args: {**prepare(*args), "counts": {"of": {2: 1, 10: 1}}}
    )
    assert run(argv(max_steps=8)) == 0
    assert run([*argv(max_steps=16), "--allow_changed", "horizon"]) == 0


def test_a_setting_cannot_have_the_name_of_another_one():
    @dataclass(frozen=True, kw_only=True)
    class Settings:
        report_to: str = setting("a name that the library has")

    @dataclass(frozen=True, kw_only=True)
    class Doubled(RegressionRecipe):
        own: Settings

    with pytest.raises(TypeError, match="Doubled has report_to twice"):
        Doubled.settings()


def test_a_program_without_evaluation_data_is_refused_before_it_trains(argv, tmp_path, monkeypatch, capsys):
    make_trainer = Regression.make_trainer

    def without_data(self, model, args, **run):
        self.points = self.points[::2]
        trainer = make_trainer(self, model, args, **run)
        trainer.eval_dataset = None
        return trainer

    monkeypatch.setattr(Regression, "make_trainer", without_data)
    assert run(argv(eval_strategy="no", eval_on_start=False)) == 2
    assert "regression has no data to measure its model on" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_another_programs_run_is_left_alone(argv, command, tmp_path, capsys):
    assert run(argv(max_steps=8)) == 0
    assert training(command(output_dir=tmp_path / "run")) == 2
    assert "holds a run of regression, not of pretrain" in capsys.readouterr().err


def test_a_run_of_the_version_before_goes_on_to_the_same_end(command, tmp_path, capsys, monkeypatch):
    def stop(self, args, state, control, **kwargs):
        if state.global_step == 9:
            raise KeyboardInterrupt

    assert training(command(output_dir=tmp_path / "calm")) == 0
    with monkeypatch.context() as patch:
        patch.setattr(RunMonitor, "on_step_end", stop)
        assert training(command()) == 130
    # What it wrote otherwise: no program, and settings in one list, one of which has another name now.
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (program_of(record), record.pop("parent")) == (record.pop("program"), None)
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    settings = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    settings["tokenize_processes"] = settings.pop("tokenize_threads")
    (tmp_path / "run" / "recipe.yaml").write_text(yaml.safe_dump(settings))
    assert training(command()) == 0
    assert "resumed from checkpoint-8" in capsys.readouterr().out
    assert without_times(tmp_path / "run") == without_times(tmp_path / "calm")
