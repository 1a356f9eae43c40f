"""Files that several processes share: what a hash is told of, and who has a lock."""

import hashlib
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from training.files import locked, sha256_of, weights_sha256

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("size", [0, 1, 2**18, 3 * 2**18 + 5])
def test_a_hash_is_that_of_all_bytes_and_each_is_told_once(size, tmp_path):
    content = bytes(range(256)) * (size // 256) + bytes(size % 256)
    (tmp_path / "file").write_bytes(content)
    told = []
    assert sha256_of(tmp_path / "file", told.append) == hashlib.sha256(content).hexdigest()
    assert sum(told) == size
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_weights_are_the_safetensors_files_by_name(tmp_path):
    for name in ("model-2.safetensors", "model-1.safetensors", "config.json"):
        (tmp_path / name).write_text(name)
    hashes = {
        name: hashlib.sha256(name.encode()).hexdigest() for name in ("model-1.safetensors", "model-2.safetensors")
    }
    assert list(weights_sha256(tmp_path).items()) == list(hashes.items())


def give_up():
    raise BlockingIOError("in use")


def test_a_second_holder_is_told_once_and_waits(tmp_path):
    file = tmp_path / "made" / "on the way" / "lock"
    is_told, has_lock, calls = threading.Event(), threading.Event(), []

    def come_second():
        with locked(file, lambda: (calls.append("busy"), is_told.set())):
            has_lock.set()

    with locked(file, pytest.fail):
        second = threading.Thread(target=come_second)
        second.start()
        assert is_told.wait(20)
        assert not has_lock.wait(0.2)
    second.join(20)
    assert has_lock.is_set()
    assert calls == ["busy"]


def test_whoever_will_not_wait_raises_and_leaves_the_lock_to_its_holder(tmp_path):
    with locked(tmp_path / "lock", pytest.fail):
        for _ in range(2):
            with pytest.raises(BlockingIOError, match="in use"), locked(tmp_path / "lock", give_up):
                pass
    with locked(tmp_path / "lock", pytest.fail):
        pass


def test_a_folder_that_cannot_be_made_ends_the_wait_for_its_lock(tmp_path, monkeypatch):
    folder, make_folder = tmp_path / "made", os.mkdir
    refusals = iter([FileNotFoundError("refused")] * 10)  # as /proc and automounted folders refuse; then the test ends

    def refuse(path, *arguments):
        if Path(path) == folder:
            raise next(refusals)
        make_folder(path, *arguments)

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(FileNotFoundError, match="refused"), locked(folder / "lock", pytest.fail):
        pass


def test_a_lock_whose_folder_is_removed_meanwhile_is_that_of_the_new_folder(tmp_path):
    file = tmp_path / "work" / "lock"
    is_told, has_lock, may_end = threading.Event(), threading.Event(), threading.Event()

    def come_second():
        with locked(file, is_told.set):
            has_lock.set()
            may_end.wait(20)

    with locked(file, pytest.fail):
        second = threading.Thread(target=come_second)
        second.start()
        assert is_told.wait(20)
        shutil.rmtree(file.parent)
    assert has_lock.wait(20)
    with pytest.raises(BlockingIOError), locked(file, give_up):
        pass
    may_end.set()
    second.join(20)


def test_a_folder_that_vanishes_before_its_lock_is_opened_is_made_again(tmp_path, monkeypatch):
    file, open_file = tmp_path / "work" / "lock", os.open

    def come_too_late(path, *arguments, **options):
        if Path(path) == file:
            monkeypatch.setattr(os, "open", open_file)
            shutil.rmtree(file.parent)
        return open_file(path, *arguments, **options)

    monkeypatch.setattr(os, "open", come_too_late)
    with locked(file, pytest.fail):
        assert file.exists()


HOLD = """
import sys, time
from pathlib import Path
from training.files import locked

with locked(Path(sys.argv[1]), sys.exit):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "lock"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(BlockingIOError), locked(tmp_path / "lock", give_up):
        pass
    holder.kill()
    holder.communicate()
    with locked(tmp_path / "lock", pytest.fail):
        pass
