"""What comes in a run's way: an interruption between two steps, a signal to one of its processes."""

import os
from pathlib import Path

import pytest

from benchmarks import faults
from training.record import read_metrics
from training.run.monitor import RunMonitor

HAS_FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")


def interrupt_at(monkeypatch, step: int) -> None:
    """Ends a run between two steps, without any chance to save."""
    on_step_end = RunMonitor.on_step_end

    def interrupt(self, args, state, control, **kwargs):
        on_step_end(self, args, state, control, **kwargs)
        if state.global_step == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunMonitor, "on_step_end", interrupt)


def signalled(argv: list[str], tmp_path: Path, processes: int, number: int, when: str) -> list[int]:
    """Exit codes of a run of which one process got a signal, at a step or in an evaluation."""
    run = tmp_path / "run"
    children = faults.start(argv, processes, tmp_path / "log.txt")

    def reached() -> bool:
        return any(when in line and line["step"] >= 5 for line in read_metrics(run))

    assert faults.wait_until(reached, children, 60), (tmp_path / "log.txt").read_text()[-2000:]
    os.kill(children[-1], number)
    return faults.wait(children)
