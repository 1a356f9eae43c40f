"""Several processes of a run: the first one finds or prepares the data, and none is left waiting."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


TWO_PROCESSES = """
import os, sys
from pathlib import Path
import torch
from configuration.data import DataConfig
from training.data import mixture, preparation
from training.errors import InputError
from training.data.preparation import prepare_shards

rank, place = int(sys.argv[1]), Path(sys.argv[2])
torch.distributed.init_process_group("gloo", init_method=f"file://{place}/store", rank=rank, world_size=2)
mixture.survey = mixture.survey if rank == 0 else None  # the second one must not read the text

def attempt(say=lambda line: None, **fields):
    run = DataConfig(tokenize_threads=1, **{"corpus": str(place / "texts"), **fields})
    try:
        prepared = prepare_shards(run, 300, window=8, say=say)
        return f"{prepared.folder} {len(prepared.tokens('train'))}"
    except InputError as error:
        return f"error: {error}"

print(attempt(data_dir=str(place / "data")))
print(attempt(data_dir=str(place / "data"), corpus=str(place / "absent")))
machine = place / f"machine-{rank}"
machine.mkdir()
os.chdir(machine)
print(attempt(data_dir="data"))
preparation.open_corpora = lambda run, begun_on: sys.exit("out of memory")
print(attempt(data_dir="data"))
"""


@pytest.mark.slow
def test_the_first_process_decides_and_no_other_is_left_waiting(texts, tmp_path):
    words = [sys.executable, "-c", TWO_PROCESSES]
    variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen([*words, str(rank), tmp_path], env=variables, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        first, second = (process.communicate(timeout=240)[0].splitlines() for process in processes)
    finally:
        for process in processes:
            process.kill()
    (prepared,) = (tmp_path / "data").iterdir()
    assert first[0].startswith(f"{prepared} ")
    assert first[1] == f"error: corpus {tmp_path}/absent does not exist"
    assert first[2].startswith(f"error: a machine of this run does not have data/{prepared.name}, which the first")
    assert "put data_dir on a file system that all machines share, or copy the folder to each" in first[2]
    assert second == [*first, "error: the first process has failed"]
    assert [process.returncode for process in processes] == [1, 0]
