"""A run that is stopped again and again, at any moment."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.run.disturbances import HAS_FORK

ROOT = Path(__file__).parents[3]


def fault_run(*arguments: str) -> dict:
    command = [sys.executable, "-m", "benchmarks.faults", *arguments]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return json.loads(finished.stdout.splitlines()[-1])


@HAS_FORK
@pytest.mark.parametrize(("processes", "kills"), [("1", "6"), ("2", "4")])
def test_a_killed_run_ends_bit_for_bit_like_an_undisturbed_one(processes, kills):
    figures = fault_run("--kills", kills, "--processes", processes, "--seed", "1")
    assert figures["kills"] >= int(kills) - 1  # the run may end before the last one
    assert figures["while saving"] >= 1
    assert figures["lines compared"] >= 8


@HAS_FORK
@pytest.mark.slow
@pytest.mark.parametrize(("processes", "name"), [("1", "INT"), ("2", "TERM")])
def test_a_run_that_is_asked_to_stop_ends_bit_for_bit_like_an_undisturbed_one(processes, name):
    figures = fault_run("--kills", "2", "--steps", "60", "--signal", name, "--processes", processes)
    assert figures["kills"] == 2
    assert figures["resumed"] == figures["kills"]
