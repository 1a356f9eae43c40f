"""Trackers: refused before anything is written, and given every figure."""

import types

import pytest

from training.__main__ import main
from training.errors import InputError
from training.record import read_metrics
from training.run import trackers
from training.run.monitor import TRAINING_FIGURES
from training.run.trackers import require_trackers


def test_missing_packages_are_named_with_the_remedy(monkeypatch, tmp_path):
    # A folder of the same name, as wandb leaves it behind, is no package.
    (tmp_path / "absent_tracker").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(trackers, "PACKAGES", ("json", "absent_tracker"))
    require_trackers(None)
    require_trackers("none")
    require_trackers(["json"])
    for report_to in ("absent_tracker", ["json", "absent_tracker"]):
        with pytest.raises(InputError, match=r"names absent_tracker, not installed here: pip install absent_tracker$"):
            require_trackers(report_to)


def test_wandb_without_a_login_is_refused_unless_it_stays_offline(monkeypatch):
    wandb = types.SimpleNamespace(login=lambda prompt, verify: prompt or verify)
    monkeypatch.setitem(trackers.sys.modules, "wandb", wandb)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with pytest.raises(InputError, match="nobody is logged in"):
        require_trackers("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    require_trackers("wandb")
    monkeypatch.delenv("WANDB_MODE")
    wandb.login = lambda prompt, verify: True
    require_trackers("wandb")


def test_tensorboard_gets_every_figure_of_a_training_line(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("A text that says the same again and again.\n" * 200)
    settings = {"model": "demo", "corpus": tmp_path / "texts", "output_dir": tmp_path / "run", "data_dir": tmp_path}
    settings |= {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    settings |= {"max_position_embeddings": 32, "tokens_per_step": 64, "per_device_train_batch_size": 2, "max_steps": 4}
    settings |= {"eval_strategy": "steps", "eval_steps": 2, "logging_steps": 2, "report_to": "tensorboard"}
    assert main(["pretrain", *(text for name, value in settings.items() for text in (f"--{name}", str(value)))]) == 0

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    lines = [line for line in read_metrics(tmp_path / "run") if "loss" in line]
    for name in set(TRAINING_FIGURES) - {"skipped_steps"}:  # a run that may not skip steps does not count them
        seen = [(event.step, event.value) for event in events.Scalars(f"train/{name}")]
        assert seen == [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in lines]  # kept as fp32
    assert [event.step for event in events.Scalars("eval/bits_per_byte")][:2] == [2, 4]
