"""A run under the rules of Windows, as far as they can be imitated: it ends, goes on, and is extended."""

import sys

import pytest

from tests.training.run.disturbances import interrupt_at
from tests.training.run.windows_rules import follow_windows_rules
from training.__main__ import main

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="imitated by what Linux says of open files")


@pytest.mark.slow
def test_a_run_is_interrupted_resumed_and_extended_under_the_rules_of_windows(command, tmp_path, monkeypatch):
    settings = {"save_steps": 2, "save_total_limit": 1, "eval_on_start": False, "eval_strategy": "no"}
    run = command(max_steps=4, **settings)
    with monkeypatch.context() as patch:
        refused = follow_windows_rules(patch)
        interrupt_at(patch, 3)
        assert main(run) == 130
    with monkeypatch.context() as patch:
        refused += follow_windows_rules(patch)
        assert main(run) == 0
        assert main([*command(max_steps=6, **settings), "--allow_changed", "horizon"]) == 0
        assert {path.name for path in (tmp_path / "run").glob("checkpoint-*")} == {"checkpoint-6"}
    assert {line.partition(":")[0].rpartition(".")[2] for line in refused} <= {"partial/lock"}  # which may stay


def test_a_run_that_does_not_begin_says_why_under_the_rules_of_windows(command, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        follow_windows_rules(patch)
        assert main(command(tokens_per_step=100)) == 2
    assert "error: tokens_per_step is 100" in capsys.readouterr().err
    assert main(command(max_steps=2)) == 0  # the lock's file, which stays, is in nobody's way
