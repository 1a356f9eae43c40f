"""From which checkpoint a run goes on when some are damaged, and when it is told."""

import re
import shutil

from benchmarks import faults
from tests.training.run.endings import calm_ending
from training.__main__ import main


def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(argv, tmp_path, capsys):
    expected = calm_ending(argv(), tmp_path)
    assert main(argv()) == 0
    run = tmp_path / "run"
    (run / "model").rename(tmp_path / "model")
    optimizer = run / "checkpoint-24" / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:-1])
    capsys.readouterr()
    assert main(argv()) == 0
    shown = capsys.readouterr()
    assert re.search(r"checkpoint-24 is set aside as set-aside-checkpoint-24-1: optimizer\.pt has .* bytes", shown.err)
    assert "resumed from checkpoint-21" in shown.out
    assert faults.ending(run) == expected


def test_no_whole_checkpoint_is_an_error_and_no_fresh_start(argv, tmp_path, capsys):
    assert main(argv()) == 0
    run = tmp_path / "run"
    (run / "model").rename(tmp_path / "model")
    for checkpoint in run.glob("checkpoint-*"):
        (checkpoint / "scheduler.pt").unlink()
    before = (run / "metrics.jsonl").read_text()
    assert main(argv()) == 2
    assert "has no checkpoint to go on from" in capsys.readouterr().err
    assert (run / "metrics.jsonl").read_text() == before


def test_resume_names_a_checkpoint_or_refuses_any(argv, tmp_path, capsys):
    expected = calm_ending(argv(), tmp_path)
    assert main(argv()) == 0
    run = tmp_path / "run"
    (run / "model").rename(tmp_path / "model")
    assert main([*argv(), "--resume", "never"]) == 2
    assert "--resume is never" in capsys.readouterr().err
    assert main([*argv(), "--resume", str(run / "checkpoint-99")]) == 2
    assert "checkpoint-99 cannot be used: it is no folder" in capsys.readouterr().err
    copy = shutil.copytree(run / "checkpoint-14", tmp_path / "a copy")
    assert main([*argv(), "--resume", str(copy)]) == 0
    assert "checkpoint-21 is set aside as" in capsys.readouterr().err
    assert faults.ending(run) == expected


def test_checkpoint_that_was_cut_off_is_passed_over(command, tmp_path, capsys):
    assert main(command()) == 0
    run = tmp_path / "run"
    shutil.rmtree(run / "model")
    (run / "checkpoint-12" / "trainer_state.json").unlink()
    assert main(command()) == 0
    assert "resumed from checkpoint-8" in capsys.readouterr().out
