"""Signals, closed terminals and output that nobody reads."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from transformers.trainer_callback import CallbackHandler

from benchmarks import faults
from tests.training.run.disturbances import HAS_FORK
from tests.training.run.endings import calm_ending
from training.__main__ import main
from training.run.interruption import StopRequest
from training.run.lasting_output import lasting_output

ROOT = Path(__file__).parents[3]

SIGNALS = """
import os, sys
from pathlib import Path
from tests.training.run.disturbances import signalled
workplace = Path(sys.argv[1])
print(signalled(sys.argv[4:], workplace, int(sys.argv[2]), int(sys.argv[3]), "loss"))
"""


def listen_to_terminals() -> None:
    """What a shell starts in the background ignores SIGINT, and under nohup SIGHUP; it would hand that down."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@HAS_FORK
@pytest.mark.parametrize(("number", "processes"), [(signal.SIGHUP, 1), (signal.SIGTERM, 2), (signal.SIGINT, 2)])
def test_a_signal_to_one_process_saves_the_step_and_ends_all(number, processes, argv, tmp_path):
    command = argv(processes, max_steps=3000, decay_steps=10)
    arguments = [str(tmp_path), str(processes), str(int(number)), *command]
    finished = subprocess.run(
        [sys.executable, "-c", SIGNALS, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        preexec_fn=listen_to_terminals,
    )
    log = (tmp_path / "log.txt").read_text()
    assert finished.stdout.splitlines()[-1:] == [str([128 + number] * processes)], finished.stderr + log[-2000:]
    (name,) = re.findall(r"the same command goes on from (checkpoint-\d+)\n", log)
    newest = max((tmp_path / "run").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert newest.name == name
    assert "Traceback" not in log


@pytest.mark.parametrize("evaluation", [1, 2, 3])
def test_a_stop_during_an_evaluation_is_made_up_for(evaluation, argv, tmp_path, monkeypatch, capsys):
    command = argv(per_device_eval_batch_size=1)
    expected = calm_ending(command, tmp_path)
    predicted, on_prediction_step = [], CallbackHandler.on_prediction_step

    def interrupt(handler, *rest):
        predicted.append(1)
        if len(predicted) == 3 + 9 * (evaluation - 1):
            os.kill(os.getpid(), signal.SIGTERM)
        return on_prediction_step(handler, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(CallbackHandler, "on_prediction_step", interrupt)
        assert main(command) == 143
    assert "the same command goes on from checkpoint-" in capsys.readouterr().err
    assert main(command) == 0
    assert faults.ending(tmp_path / "run") == expected


def test_under_nohup_a_closed_terminal_is_no_reason_to_stop():
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop = StopRequest()
        with stop.listening():
            os.kill(os.getpid(), signal.SIGHUP)
            stop.raise_if_asked()
    finally:
        signal.signal(signal.SIGHUP, previous)


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_output_that_nobody_reads_any_more_is_no_reason_to_stop(name, monkeypatch):
    reader, writer = os.pipe()
    with open(writer, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, name, stream)
        with lasting_output():
            print("seen", file=getattr(sys, name), flush=True)
            assert os.read(reader, 10) == b"seen\n"
            os.close(reader)
            for _ in range(3):
                print("unseen", file=getattr(sys, name), flush=True)
            assert main(["--help" if name == "stdout" else "nonsense"]) == (0 if name == "stdout" else 2)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="stands for a full disk")
def test_a_program_outlives_output_that_is_closed_or_on_a_full_disk():
    words = f"{sys.executable} -m training --help"
    for redirection in (">&-", "2>&-", ">/dev/full", "2>/dev/full"):
        finished = subprocess.run(["sh", "-c", f"{words} {redirection}"], cwd=ROOT, capture_output=True, check=False)
        assert finished.returncode == 0, (redirection, finished.stderr)


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_no_model_folder(command, tmp_path):
    program = [sys.executable, "-m", "training", *command(max_steps=100_000)]
    process = subprocess.Popen(
        program,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        # What a shell starts in the background ignores SIGINT, and would hand that down to here.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "run/checkpoint-4/trainer_state.json").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert re.search(r"the same command goes on from checkpoint-\d+\ninterrupted\n$", errors)
    assert "Traceback" not in errors
    assert not list((tmp_path / "run").glob("*model*"))
