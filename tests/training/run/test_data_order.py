"""The order in which a run sees its data."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import faults
from tests.training.run.disturbances import HAS_FORK

ROOT = Path(__file__).parents[3]

ORDER = """
import os, sys
from pathlib import Path
from benchmarks import faults
from configuration.pretraining import PretrainingRecipe
from training.record import read_metrics
from training.run.trainer import ReliableTrainer
from training.run.folder import RunFolder
from training.data.work_folder import work_on

workplace, processes, workers = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
training_step = ReliableTrainer.training_step
name = "calm"


def note(trainer, model, inputs, *rest):
    with (workplace / f"{name}-{os.environ.get('RANK', '0')}.txt").open("a") as stream:
        print(trainer.state.global_step, inputs["input_ids"].tolist(), file=stream)
    return training_step(trainer, model, inputs, *rest)


ReliableTrainer.training_step = note
log = workplace / "log.txt"
command = faults.command(workplace, name, processes, workers, 60)
assert faults.wait(faults.start(command, processes, log)) == [0] * processes, log.read_text()[-2000:]
name = "stopped"
command = faults.command(workplace, name, processes, workers, 60)
children = faults.start(command, processes, log)
assert faults.wait_until(lambda: len(read_metrics(workplace / name)) >= 3, children, 60)
os.kill(children[0], 15)
assert faults.wait(children) == [143] * processes, log.read_text()[-2000:]
assert faults.wait(faults.start(command, processes, log)) == [0] * processes, log.read_text()[-2000:]
"""


@HAS_FORK
@pytest.mark.parametrize(("processes", "workers"), [(1, 2), (2, 0)])
def test_the_data_come_in_the_same_order_after_a_stop(processes, workers, tmp_path):
    faults.write_corpus(tmp_path / "corpus")
    arguments = [str(tmp_path), str(processes), str(workers)]
    finished = subprocess.run(
        [sys.executable, "-c", ORDER, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=180, check=False
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    for rank in range(processes):
        calm, stopped = ((tmp_path / f"{name}-{rank}.txt").read_text().splitlines() for name in ("calm", "stopped"))
        assert len(calm) == 60 * 2
        assert stopped == calm
    if processes == 2:
        assert (tmp_path / "calm-0.txt").read_text() != (tmp_path / "calm-1.txt").read_text()
