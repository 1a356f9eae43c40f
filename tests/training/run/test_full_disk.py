"""A disk without space while a checkpoint is saved."""

import resource
import signal

import pytest

from benchmarks import faults
from tests.training.run.endings import calm_ending
from training.__main__ import main
from training.run.trainer import ReliableTrainer


def test_a_full_disk_costs_a_checkpoint_and_not_the_run(argv, tmp_path, caplog):
    expected = calm_ending(argv(), tmp_path)
    run = tmp_path / "run"
    publish = ReliableTrainer._save_checkpoint

    def with_little_space(trainer, model, trial):
        """From the first checkpoint's weights on, no file of its may grow beyond 64 KiB: they are 145 KiB large."""
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        if trainer.state.global_step == 7:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
        try:
            publish(trainer, model, trial)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        if trainer.state.global_step == 7:
            assert not list(run.glob("*checkpoint*"))
            assert not (run / ".saving").exists()

    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ReliableTrainer, "_save_checkpoint", with_little_space)
            assert main(argv()) == 0
    finally:
        signal.signal(signal.SIGXFSZ, previous)
    assert caplog.text.count("checkpoint-7 could not be saved, training goes on") == 1
    assert {path.name for path in run.glob("*checkpoint*")} == {"checkpoint-14", "checkpoint-21", "checkpoint-24"}
    assert faults.ending(run) == expected
