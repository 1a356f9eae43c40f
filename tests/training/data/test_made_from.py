"""Prepared data is found again without reading the text, and without the text, by the note of what it was made from."""

import errno
import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from tests.training.data.tales import prepare
from training.data import made_from, mixture, text_preparation
from training.data.made_from import MADE_FROM
from training.data.shards import data_record
from training.errors import InputError


@pytest.fixture
def read_nothing(monkeypatch):
    """From here on, reading a corpus or making data fails."""

    def forbid():
        monkeypatch.setattr(mixture, "survey", None)
        monkeypatch.setattr(text_preparation, "_TextPreparation", None)

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
