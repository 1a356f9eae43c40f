"""Prepared data is enough: found again without reading the text, and without the text, the tokenizer or the Hub."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock
from huggingface_hub.errors import HTTPError
from safetensors.torch import load_file

from configuration.data import DataConfig
from training.__main__ import main
from training.data import hub_source, made_from, preparation
from training.data.corpus import Document
from training.data.made_from import MADE_FROM
from training.data.preparation import prepare_shards
from training.data.shards import TokenShards, data_record
from training.data.tokenizer import train_tokenizer
from training.data.work_folder import work_on
from training.errors import InputError

ROOT = Path(__file__).parents[3]
TALES = [f"Tale {number}: one lamp, {number} ships and a letter that came home.\n" for number in range(60)]


@pytest.fixture
def texts(tmp_path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number, tale in enumerate(TALES):
        (folder / f"{number:02}.txt").write_text(tale * 4)
    return folder


@pytest.fixture
def run_config(texts, tokenizer, tmp_path):
    """A run on `texts` with an existing tokenizer; fields can be overridden."""
    tokenizer.save_pretrained(tmp_path / "tokenizer")

    def build(**fields) -> DataConfig:
        values = {"corpus": str(texts), "tokenize_threads": 1}
        return DataConfig(
            **values | {"tokenizer": str(tmp_path / "tokenizer"), "data_dir": str(tmp_path / "data")} | fields
        )

    return build


def prepare(run: DataConfig, say=lambda line: None, **options) -> TokenShards:
    return prepare_shards(run, 400, window=8, say=say, **options)


@pytest.fixture
def read_nothing(monkeypatch):
    """From here on, reading a corpus or making data fails."""

    def forbid():
        monkeypatch.setattr(preparation, "survey", None)
        monkeypatch.setattr(preparation, "_Preparation", None)

    return forbid


def test_an_unchanged_corpus_is_not_read_again(run_config, read_nothing):
    first = prepare(run_config())
    read_nothing()
    assert prepare(run_config()).folder == first.folder
    with pytest.raises(TypeError):  # another recipe does have to read it
        prepare(run_config(deduplicate=True))


def test_a_change_is_noticed_even_where_size_and_time_are_kept(run_config, texts):
    first = prepare(run_config())
    file = texts / "07.txt"
    times = file.stat()
    file.write_text(file.read_text().replace("lamp", "lump"))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (times.st_size, times.st_mtime_ns)
    second = prepare(run_config())
    assert second.folder != first.folder
    (texts / "60.txt").write_text("One more.")
    assert prepare(run_config()).folder not in (first.folder, second.folder)


def test_files_that_only_look_newer_lead_to_the_same_data(run_config, texts, read_nothing):
    first = prepare(run_config())
    (texts / "07.txt").touch()
    assert prepare(run_config()).folder == first.folder
    read_nothing()
    assert prepare(run_config()).folder == first.folder  # which is noted for the next time


def test_without_the_text_what_was_made_of_it_is_used_and_said(run_config, texts):
    first = prepare(run_config())
    shutil.rmtree(texts)
    said = []
    found = prepare(run_config(), said.append)
    assert (found.folder, found.manifest) == (first.folder, first.manifest)
    assert said == [f"corpus {texts} does not exist: going on with {first.folder}, which was made from it"]
    for other in ({"split": "hash"}, {"tokenizer": "train"}, {"data_dir": str(texts.parent / "elsewhere")}):
        with pytest.raises(InputError, match="does not exist"):
            prepare(run_config(**other))
    assert not (texts.parent / "elsewhere").exists()
    moved = first.folder.parent.rename(texts.parent / "elsewhere")
    assert prepare(run_config(data_dir=str(moved))).folder == moved / first.folder.name


def test_without_the_tokenizer_the_one_beside_the_tokens_is_used_if_the_text_is_the_same(run_config, texts, tmp_path):
    first = prepare(run_config())
    shutil.rmtree(tmp_path / "tokenizer")
    said = []
    assert prepare(run_config(), said.append).folder == first.folder
    assert said == [f"{tmp_path}/tokenizer does not exist: going on with {first.folder}, which was made from it"]
    (texts / "07.txt").write_text("Another.")
    with pytest.raises(InputError, match="tokenizer does not exist"):
        prepare(run_config())


def test_of_two_states_of_a_lost_text_none_is_guessed_but_a_run_keeps_its_own(run_config, texts):
    first = prepare(run_config())
    (texts / "07.txt").write_text("Another.")
    second = prepare(run_config())
    shutil.rmtree(texts)
    with pytest.raises(InputError, match=r"had different contents when .* were made: name one of them as corpus") as no:
        prepare(run_config())
    assert all(str(prepared.folder) in str(no.value) for prepared in (first, second))
    for prepared in (first, second):
        assert prepare(run_config(), begun_on=data_record(prepared.folder)).folder == prepared.folder
        assert prepare(run_config(corpus=str(prepared.folder))).folder == prepared.folder


def test_a_copy_of_prepared_data_is_no_other_state_of_its_text(run_config, texts):
    first = prepare(run_config())
    copy = Path(shutil.copytree(first.folder, first.folder.with_name("copy")))
    shutil.rmtree(texts)
    assert prepare(run_config()).folder in (first.folder, copy)


def test_a_run_keeps_its_data_although_its_text_has_changed(run_config, texts):
    first = prepare(run_config())
    record = data_record(first.folder)
    (texts / "07.txt").write_text("Another.")
    said = []
    assert prepare(run_config(), said.append, begun_on=record).folder == first.folder
    assert said == [f"the run goes on with the data that it began on, {first.folder}"]
    assert prepare(run_config()).folder != first.folder
    shutil.rmtree(first.folder)
    assert data_record(prepare(run_config(), begun_on=record).folder) != record  # which the run then refuses


def test_a_damaged_note_is_made_again(run_config, read_nothing):
    first = prepare(run_config())
    for damage in ("{", "[]"):
        (first.folder / MADE_FROM).write_text(damage)
        assert prepare(run_config()).folder == first.folder
    read_nothing()
    assert prepare(run_config()).folder == first.folder


def test_a_note_names_no_path(run_config, tmp_path):
    noted = (prepare(run_config()).folder / MADE_FROM).read_text()
    assert str(tmp_path) not in noted
    assert "texts" not in noted


def test_prepared_data_that_cannot_be_written_is_used_as_it_is(run_config, texts, monkeypatch):
    first = prepare(run_config())
    (texts / "07.txt").touch()
    before = (first.folder / MADE_FROM).read_bytes()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert prepare(run_config()).folder == first.folder
    assert (first.folder / MADE_FROM).read_bytes() == before


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENOLCK])
def test_prepared_data_is_used_where_no_note_can_be_written(number, run_config, texts, monkeypatch):
    first = prepare(run_config())
    (texts / "07.txt").touch()

    def fail(*arguments, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(*((made_from, "write_durably") if number == errno.ENOSPC else (FileLock, "acquire")), fail)
    assert prepare(run_config()).folder == first.folder


def test_a_process_that_comes_while_the_work_folder_is_removed_is_no_error(tmp_path, monkeypatch):
    folder = tmp_path / "d"
    rmdir = os.rmdir

    def come_first(path, **options):
        (tmp_path / "d.partial" / "lock").touch()
        monkeypatch.setattr(os, "rmdir", rmdir)
        rmdir(path, **options)

    with work_on(folder, print) as work:
        work.data.mkdir()
        work.complete(folder)
        monkeypatch.setattr(os, "rmdir", come_first)
    assert (tmp_path / "d.partial" / "lock").exists()
    with work_on(folder, print):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_prepared_data_is_a_corpus_wherever_it_lies(run_config, texts, tmp_path):
    first = prepare(run_config())
    there = Path(shutil.copytree(first.folder, tmp_path / "elsewhere" / "copied"))
    for gone in (texts, tmp_path / "data"):
        shutil.rmtree(gone)
    for tokenizer in ("train", str(tmp_path / "tokenizer")):  # `train` is what a recipe says that says nothing
        found = prepare(run_config(corpus=str(there), tokenizer=tokenizer))
        assert (found.folder, found.manifest) == (there, first.manifest)
        assert len(found.tokenizer) == 400
    said = []
    shutil.rmtree(tmp_path / "tokenizer")
    assert prepare(run_config(corpus=str(there)), said.append).folder == there
    assert said == [f"{tmp_path}/tokenizer does not exist: going on with the one in {there}"]
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tokenizer": "{other}"}, "tokenizer is .*other, but was another one"),
        ({"split": "hash"}, "split is hash, but was contiguous"),
        ({"split_fractions": [0.8, 0.1, 0.1]}, r"split_fractions is \[0.8, 0.1, 0.1\], but was \[0.9, 0.05, 0.05\]"),
        ({"deduplicate": True}, "deduplicate is True, but was False"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_prepared_data_contradicts_are_refused(fields, message, run_config, tmp_path):
    train_tokenizer(iter(TALES), 300).save_pretrained(tmp_path / "other")
    folder = prepare(run_config()).folder
    fields = {name: str(tmp_path / "other") if value == "{other}" else value for name, value in fields.items()}
    with pytest.raises(InputError, match=f"was prepared otherwise: {message}"):
        prepare(run_config(corpus=str(folder), **fields))
    agreeing = {"split": "contiguous", "split_fractions": [0.9, 0.05, 0.05]}
    assert prepare(run_config(corpus=str(folder), **agreeing)).folder == folder


def test_a_vocabulary_that_prepared_data_does_not_fill_is_said(run_config):
    folder = prepare(run_config()).folder
    said = []
    prepare_shards(run_config(corpus=str(folder), tokenizer="train"), 1000, window=8, say=said.append)
    assert said == [f"vocab_size is 1,000, but the tokenizer in {folder} has 400 tokens"]


def test_prepared_data_of_a_larger_vocabulary_is_refused(run_config):
    folder = prepare(run_config()).folder
    with pytest.raises(InputError, match="the tokenizer has 400 tokens, but vocab_size is 399"):
        prepare_shards(run_config(corpus=str(folder), tokenizer="train"), 399, window=8, say=print)


@pytest.fixture
def argv(tmp_path):
    """A run of four steps with two checkpoints; options can be overridden."""

    def build(corpus: Path | str, **options) -> list[str]:
        values = {"model": "demo", "corpus": corpus, "tokens_per_step": 64, "output_dir": tmp_path / "run"}
        values |= {"data_dir": tmp_path / "data", "vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 1}
        values |= {"max_position_embeddings": 32, "per_device_train_batch_size": 2, "tokenize_threads": 1}
        values |= {"max_steps": 4, "save_steps": 2, "disable_tqdm": True, "split": "hash"} | options
        return ["pretrain", *(text for name, value in values.items() for text in (f"--{name}", str(value)))]

    return build


def cut_back(run: Path) -> dict:
    """Leaves a finished run as it was after its first checkpoint; returns its weights."""
    weights = load_file(run / "model" / "model.safetensors")
    for name in ("model", "checkpoint-4"):
        shutil.rmtree(run / name)
    return weights


def same(weights: dict, run: Path) -> bool:
    found = load_file(run / "model" / "model.safetensors")
    return all(found[name].equal(tensor) for name, tensor in weights.items())


def test_a_run_goes_on_to_the_same_end_with_its_prepared_data_alone(argv, run_config, texts, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(argv(texts)) == 0
    (prepared,) = (tmp_path / "data").iterdir()
    shutil.rmtree(texts)

    weights = cut_back(run)
    (prepared / MADE_FROM).unlink()  # so that the run's record alone says which data it is
    assert main(argv(texts)) == 0
    assert "resumed from checkpoint-2" in capsys.readouterr().out
    assert same(weights, run)

    assert main(argv(prepared)) == 0
    assert f"{run} is finished" in capsys.readouterr().out
    cut_back(run)
    assert main(argv(prepared)) == 0
    assert "resumed from checkpoint-2" in capsys.readouterr().out
    assert same(weights, run)

    (tmp_path / "other.txt").write_text("".join(TALES))
    other_text = prepare(run_config(corpus=str(tmp_path / "other.txt"))).folder
    other_split = Path(shutil.copytree(prepared, tmp_path / "split"))
    manifest = json.loads((other_split / "manifest.json").read_text())
    manifest["split"]["boundaries"] = [0.5, 0.75]
    (other_split / "manifest.json").write_text(json.dumps(manifest))
    for other in (other_text, other_split):
        assert main(argv(other)) == 2
        assert "belongs to a run with another data (corpus was" in capsys.readouterr().err


class FakeHub:
    """Answers for `HfApi`: the dataset's newest commit, or that the Hub cannot be reached."""

    commit: str | None = "a" * 40

    def dataset_info(self, repository: str, revision: str | None) -> SimpleNamespace:
        if self.commit is None:
            raise HTTPError("no route to host")
        return SimpleNamespace(sha=self.commit)


@pytest.fixture
def dataset(monkeypatch) -> type[FakeHub]:
    pytest.importorskip("datasets")

    def documents(self, skip=0, state=None):
        first = "Published" if self.description["revision"] == "a" * 40 else "Revised"
        for number, tale in enumerate(TALES[skip:]):
            yield Document.of(f"{first} as number {number}. {tale}" * 3, "a row")

    hub = type("Hub", (FakeHub,), {})
    monkeypatch.setattr(hub_source, "HfApi", hub)
    monkeypatch.setattr(hub_source.HubCorpus, "documents", documents)
    monkeypatch.setattr(hub_source.HubCorpus, "state", lambda self: None)
    return hub


FRACTIONS = [0.6, 0.2, 0.2]


def test_a_run_keeps_to_the_commit_that_it_began_on(dataset, argv, run_config, tmp_path, capsys):
    run = tmp_path / "run"
    command = argv("hf:owner/tales", split_fractions=FRACTIONS)
    assert main(command) == 0
    record = json.loads((run / "run.json").read_text())["data"]
    assert record["corpus"]["revision"] == "a" * 40
    dataset.commit = "b" * 40  # the dataset's main has moved
    weights = cut_back(run)
    shutil.rmtree(tmp_path / "data")  # so that it must be prepared again, and of the same commit
    assert main(["tokenize", *command[1:], "--resume", "auto"]) == 0
    (prepared,) = (tmp_path / "data").iterdir()
    assert data_record(prepared) == record
    assert main(command) == 0
    assert [prepared] == list((tmp_path / "data").iterdir())
    assert "resumed from checkpoint-2" in capsys.readouterr().out
    assert same(weights, run)
    for options in ({"max_steps": 9}, {"output_dir": tmp_path / "data"}):  # which are not that run
        assert main(["tokenize", *argv("hf:owner/tales", split_fractions=FRACTIONS, **options)[1:]]) == 0
    assert len(list((tmp_path / "data").iterdir())) == 2

    config = run_config(corpus="hf:owner/tales", split_fractions=FRACTIONS)
    assert prepare(config).manifest["corpus"]["revision"] == "b" * 40
    dataset.commit = None  # nobody needs to ask what a commit is
    assert prepare(config, begun_on=record).manifest["corpus"]["revision"] == "a" * 40


def test_without_the_hub_a_dataset_is_what_was_made_of_it(dataset, run_config):
    run = run_config(corpus="hf:owner/tales", split_fractions=FRACTIONS)
    first = prepare(run)
    dataset.commit = None
    said = []
    assert prepare(run, said.append).folder == first.folder
    assert said == [
        f"dataset owner/tales cannot be found: no route to host: going on with {first.folder}, which was made from it"
    ]
    with pytest.raises(InputError, match="dataset owner/other cannot be found: no route to host"):
        prepare(run_config(corpus="hf:owner/other"))


TWO_PROCESSES = """
import os, sys
from pathlib import Path
import torch
from configuration.data import DataConfig
from training.data import preparation
from training.errors import InputError
from training.data.preparation import prepare_shards

rank, place = int(sys.argv[1]), Path(sys.argv[2])
torch.distributed.init_process_group("gloo", init_method=f"file://{place}/store", rank=rank, world_size=2)
survey = preparation.survey
preparation.survey = survey if rank == 0 else None  # the second one must not read the text

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
preparation.open_corpus = lambda run: sys.exit("out of memory")
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
