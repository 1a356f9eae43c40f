"""Preparing data: the same bytes however many threads take part and however often they are killed."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from configuration.data import DataConfig
from training.data import duplicates, tokenization, writing
from training.data.duplicates import SeenDocuments
from training.data.preparation import prepare_shards
from training.data.shards import TokenShards
from training.errors import InputError

ROOT = Path(__file__).parents[3]
WORDS = ["seven", "ships", "and", "a", "letter", "came", "home", "because", "someone", "lit", "the", "lamp", "again"]


class Crash(BaseException):
    """Ends a preparation as no `except` of ours foresees."""


@pytest.fixture
def small(monkeypatch):
    """Many shards, many batches, and a state after each."""
    monkeypatch.setattr(writing, "TOKENS_PER_SHARD", 1000)
    monkeypatch.setattr(tokenization, "BATCH_CHARACTERS", 1000)
    monkeypatch.setattr(tokenization, "SECONDS_BETWEEN_STATES", 0)


@pytest.fixture
def texts(tmp_path) -> Path:
    """120 documents in a .jsonl file and a long one; 20 of them come twice."""
    words = random.Random(0)
    folder = tmp_path / "texts"
    folder.mkdir()
    documents = [" ".join(words.choices(WORDS, k=words.randrange(5, 60))) for _ in range(100)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in [*documents, *documents[:20]])
    (folder / "a.jsonl").write_text(lines)
    (folder / "b.txt").write_text("\n".join(documents[20:]))
    return folder


@pytest.fixture
def run_config(texts, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "tokenizer")

    def build(data: str, **fields) -> DataConfig:
        values = {"corpus": str(texts), "tokenize_threads": 1}
        return DataConfig(
            **values | {"tokenizer": str(tmp_path / "tokenizer"), "data_dir": str(tmp_path / data)} | fields
        )

    return build


def prepare(run: DataConfig, say=lambda line: None) -> TokenShards:
    return prepare_shards(run, 400, window=8, say=say)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("split", ["hash", "contiguous"])
def test_the_bytes_do_not_depend_on_the_number_of_threads(split, run_config, small):
    whole = prepare(run_config("one", split=split)).folder
    assert len(list(whole.glob("train-*"))) > 5
    for threads in (2, 3):
        other = prepare(run_config(f"{threads}", split=split, tokenize_threads=threads)).folder
        assert contents(other) == contents(whole)


@pytest.mark.parametrize(
    "fields",
    [
        {"deduplicate": True},
        {"split": "contiguous"},
        {"tokenizer": "train"},
        {"corpus": ["a.jsonl", "b.txt"], "split": "contiguous", "deduplicate": True},
    ],
    ids=str,
)
def test_a_crash_at_any_write_to_disk_changes_nothing(fields, run_config, texts, small, monkeypatch):
    if "corpus" in fields:
        fields = fields | {"corpus": [str(texts / name) for name in fields["corpus"]]}
    whole = contents(prepare(run_config("whole", **fields)).folder)
    sync, moments, crashes = os.fsync, random.Random(0), 0
    left = 0

    def fsync(descriptor):
        nonlocal left
        left -= 1
        if left == 0:
            raise Crash
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    for data in ("first", "second", "third"):
        run = run_config(data, **fields)
        while True:
            # Up to about as many as the last steps need, so that an end is reached now and then.
            left = moments.randrange(1, 60)
            try:
                folder = prepare(run).folder
                break
            except Crash:
                crashes += 1
                assert crashes < 200
                beside = {path.name.removesuffix(".partial") for path in Path(run.data_dir).iterdir()}
                assert len(beside) == 1
        assert contents(folder) == whole
    assert crashes >= 8


PROGRAM = """
import sys
from training import tokenize
from training.data import tokenization, writing
writing.TOKENS_PER_SHARD, tokenization.BATCH_CHARACTERS, tokenization.SECONDS_BETWEEN_STATES = 1000, 1500, 0
sys.exit(tokenize.main(sys.argv[1:]))
"""


def test_the_same_command_goes_on_after_sigkill_and_gives_the_same_bytes(run_config, texts, tmp_path, small):
    (tmp_path / "program.py").write_text(PROGRAM)
    run = run_config("data", split="hash")

    def start(data: Path) -> subprocess.Popen:
        values = {"model": "demo", "corpus": texts, "tokens_per_step": 1024, "output_dir": tmp_path / "run"}
        values |= {"split": "hash", "deduplicate": "true", "tokenize_threads": 2, "vocab_size": 400}
        values |= {"tokenizer": run.tokenizer, "data_dir": data, "max_position_embeddings": 32}
        words = [text for name, value in values.items() for text in (f"--{name}", str(value))]
        return subprocess.Popen(
            [sys.executable, tmp_path / "program.py", *words],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    whole = prepare(run_config("whole", split="hash", deduplicate=True)).folder
    moments = random.Random(1)
    killed = 0
    kills = 3
    for _ in range(kills):
        process = start(tmp_path / "data")
        done = _progress(tmp_path / "data")
        target = done + moments.randrange(1, 3)
        while process.poll() is None and _progress(tmp_path / "data") < target:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
    assert killed >= 2
    last = start(tmp_path / "data")
    said = last.communicate(timeout=120)[0]
    assert "going on after" in said or killed < kills  # it was finished before all kills
    (found,) = (tmp_path / "data").iterdir()
    assert contents(found) == contents(whole)


def _progress(data: Path) -> int:
    """One more than the finished shards that the saved state speaks of; 0 before there is one."""
    for state in data.glob("*.partial/state.json"):
        saved = json.loads(state.read_text())
        return 1 + sum(len(part["shards"]) for part in saved["parts"].values())
    return 0


def prepare_until_the_disk_is_full(run: DataConfig) -> Path:
    """Leaves off at the fourth shard; returns the work folder."""
    replace = Path.replace

    def replace_while_there_is_room(source, target):
        if Path(target).name.startswith("train-00003"):
            raise OSError(28, "No space left on device")
        return replace(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", replace_while_there_is_room)
        with pytest.raises(OSError, match="No space left"):
            prepare(run)
    (work,) = Path(run.data_dir).iterdir()
    return work


def test_finished_shards_are_kept_and_the_disk_may_be_full_meanwhile(run_config, small):
    run = run_config("data")
    work = prepare_until_the_disk_is_full(run)
    kept = {path.name: path.stat().st_ino for path in (work / "data").glob("train-*")}
    assert sorted(kept) == [f"train-{number:05d}.safetensors" for number in range(3)]
    said = []
    folder = prepare(run, said.append).folder
    assert said[0].startswith("going on after")
    assert {name: (folder / name).stat().st_ino for name in kept} == kept
    assert contents(folder) == contents(prepare(run_config("other")).folder)


def test_a_work_folder_that_lost_a_file_is_begun_anew(run_config, small):
    run = run_config("data")
    work = prepare_until_the_disk_is_full(run)
    (work / "data" / "train-00001.safetensors").write_bytes(b"")
    said = []
    folder = prepare(run, said.append).folder
    assert any("train-00001.safetensors has 0 bytes" in line and "beginning anew" in line for line in said)
    assert contents(folder) == contents(prepare(run_config("other")).folder)


def test_a_second_process_waits_for_the_first(run_config, small):
    folder = prepare(run_config("first")).folder
    run = run_config("data")
    work = Path(run.data_dir) / f"{folder.name}.partial"
    work.mkdir(parents=True)
    said, finished = [], []
    with FileLock(work / "lock"):
        thread = threading.Thread(target=lambda: finished.append(prepare(run, said.append)))
        thread.start()
        deadline = time.monotonic() + 20
        while not said and time.monotonic() < deadline:
            time.sleep(0.01)
        assert said == [f"another process is preparing {work.with_name(folder.name)}: waiting for it"]
        assert not finished
    thread.join(60)
    assert contents(finished[0].folder) == contents(folder)


def test_deduplication_keeps_the_first_of_equal_documents(run_config, texts, small):
    manifest = prepare(run_config("all", split="hash")).manifest
    kept = prepare(run_config("kept", split="hash", deduplicate=True))
    assert (manifest["corpus"]["documents"], kept.manifest["corpus"]["documents"]) == (121, 101)
    assert kept.manifest["corpus"]["duplicates_left_out"] == 20
    assert sum(part["documents"] for part in kept.manifest["parts"].values()) == 101
    text = "".join(kept.tokenizer.decode(kept.tokens(part)[:]) for part in kept.manifest["parts"])
    found = [document for document in text.split("<|endoftext|>") if document]
    assert len(found) == len(set(found)) == 101


def test_seen_documents_are_those_of_a_set(monkeypatch):
    monkeypatch.setattr(duplicates, "FEWEST_RECENT", 10)
    numbers = np.random.default_rng(0).integers(0, 300, 1000).tolist()
    digests = [number.to_bytes(8) + bytes(24) for number in numbers]
    expected, seen, keys = set(), SeenDocuments(), b""
    for at, digest in enumerate(digests):
        assert seen.add(digest) == (digest not in expected)
        expected.add(digest)
        if at == 500:  # as after an interruption
            keys += seen.new_keys()
            seen = SeenDocuments(keys)
        assert len(seen) == len(expected)
    assert len(keys) // 8 + len(seen.new_keys()) // 8 == len(expected)


def test_unusable_input_leaves_no_work_folder(run_config, texts, tmp_path):
    (texts / "a.jsonl").unlink()
    (texts / "b.txt").write_text("a b")
    with pytest.raises(InputError, match="less than one window"):
        prepare(run_config("deep/data", split="contiguous"))
    assert not (tmp_path / "deep").exists()
