"""A folder that another command is at work in."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configuration.pretraining import PretrainingRecipe
from tests.training.run.disturbances import HAS_FORK
from training.__main__ import main
from training.data.work_folder import work_on
from training.pretrain import Pretraining
from training.run.folder import RunFolder

ROOT = Path(__file__).parents[3]


def test_a_second_command_is_refused_while_the_first_lives(argv, tmp_path, capsys):
    command = argv(max_steps=3000, decay_steps=10)
    process = subprocess.Popen(
        [sys.executable, "-m", "training", *command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "run" / "run.json").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert main(command) == 2
        assert "is in use by another command" in capsys.readouterr().err
    finally:
        process.kill()
        process.wait()
    assert main([*command, "--allow_changed", "horizon", "--max_steps", "60"]) == 0


def hold_run(place: Path):
    settings = {"model": "demo", "corpus": "x", "tokens_per_step": "2048", "output_dir": str(place)}
    return RunFolder(Pretraining(PretrainingRecipe.load(None, settings))).lock()


@HAS_FORK
@pytest.mark.parametrize("hold", [hold_run, lambda place: work_on(place, say=pytest.fail)], ids=["run", "data"])
def test_a_lock_ends_with_its_process_though_a_worker_of_it_lives_on(hold, tmp_path):
    ready, end = os.pipe(), os.pipe()
    parent = os.fork()
    if not parent:
        with hold(tmp_path / "place"):
            (tmp_path / "place.txt").write_text("something, so that the folder is not taken back")
            if os.fork():
                os.write(ready[1], b"!")
                signal.pause()
            os.close(end[1])
            os.read(end[0], 1)  # the worker lives until the test has ended
            os._exit(0)
    try:
        os.read(ready[0], 1)
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        with hold(tmp_path / "place"):
            pass
    finally:
        os.close(end[1])
