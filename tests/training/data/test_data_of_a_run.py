"""A run that has begun keeps to its data: without the text, and whatever the Hub has now."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import HTTPError
from safetensors.torch import load_file

from tests.training.data.tales import TALES, prepare
from training.__main__ import main
from training.data import hub_source
from training.data.corpus import Document
from training.data.made_from import MADE_FROM
from training.data.shards import data_record
from training.errors import InputError


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
