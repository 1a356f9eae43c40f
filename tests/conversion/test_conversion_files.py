"""Files and folders that a conversion reads and writes: what is refused, and that nothing is left behind."""

from pathlib import Path

import pytest
import torch

from modeling_gpt_scratch import GPTScratchForCausalLM
from modeling_gpt_scratch.__main__ import main
from modeling_gpt_scratch.conversion import ConversionError, convert
from tests.conversion.conversions import RunsCommand, assert_refused_without_running, refusal, write_source


class Settings(dict):
    """Of a kind that is not made while a file is read."""


def test_missing_source_is_refused(tmp_path, capsys):
    assert "none.pth does not exist" in refusal(capsys, tmp_path, tmp_path / "none.pth")


def test_source_of_another_kind_is_refused(tmp_path, capsys):
    (tmp_path / "model.gguf").write_bytes(b"123")
    assert ".safetensors" in refusal(capsys, tmp_path, tmp_path / "model.gguf")


def test_folder_without_or_with_several_checkpoints_is_refused(tmp_path, capsys, book):
    source = tmp_path / "source"
    source.mkdir()
    assert "holds 0 checkpoints" in refusal(capsys, tmp_path, source)
    write_source(source, book[0].state_dict(), book[1], "a.pth")
    write_source(source, book[0].state_dict(), book[1], "b.pt")
    assert "holds 2 checkpoints (a.pth, b.pt)" in refusal(capsys, tmp_path, source)


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
@pytest.mark.parametrize(
    "damage", [lambda whole: b"", lambda whole: whole[:-500], lambda whole: whole[:-10], lambda whole: b"\x80" + whole]
)
def test_damaged_files_are_refused(tmp_path, capsys, book, name, damage):
    path = write_source(tmp_path, book[0].state_dict(), book[1], name)
    path.write_bytes(damage(path.read_bytes()))
    assert f"{name} cannot be read" in refusal(capsys, tmp_path, path)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_that_would_run_a_command_is_refused_and_does_not_run(capsys, tmp_path, book, zipped):
    path = write_source(tmp_path, {}, book[1])
    state_dict = {**book[0].state_dict(), "extra": RunsCommand(f"touch {tmp_path / 'ran'}")}
    torch.save(state_dict, path, _use_new_zipfile_serialization=zipped)
    assert_refused_without_running(capsys, tmp_path, path)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.ones(2)])
def test_file_that_holds_no_state_dict_is_refused(tmp_path, capsys, book, content):
    assert "state_dict()" in refusal(capsys, tmp_path, write_source(tmp_path, content, book[1]))


def test_classes_that_no_line_saves_readably_are_not_advised_to_be(tmp_path, capsys, book):
    path = write_source(tmp_path, {**book[0].state_dict(), "settings": Settings(a=1)}, book[1])
    said = refusal(capsys, tmp_path, path)
    assert "Settings" in said
    assert "save_readably" not in said
    assert "In the program that made it" in said


@pytest.mark.parametrize(
    "odd",
    [
        lambda tensor: tensor.to_sparse(),
        lambda tensor: tensor.to("meta"),
        lambda tensor: tensor.to(torch.float8_e4m3fn),
    ],
)
def test_tensors_that_are_no_plain_numbers_are_refused_by_name(tmp_path, capsys, book, odd):
    name, tensor = next(iter(book[0].state_dict().items()))
    path = write_source(tmp_path, {**book[0].state_dict(), name: odd(tensor)}, book[1])
    assert f"no plain numbers ({name} is" in refusal(capsys, tmp_path, path)


def test_a_file_that_holds_itself_is_refused(tmp_path, capsys, book):
    content = {"epoch": 1}
    content["model"] = content
    assert "state_dict()" in refusal(capsys, tmp_path, write_source(tmp_path, content, book[1]))


def test_existing_output_is_refused_and_untouched(tmp_path, capsys, book):
    source = write_source(tmp_path, book[0].state_dict(), book[1])
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "mine.txt").write_text("mine")
    assert "not an empty folder" in refusal(capsys, tmp_path, source)
    assert (tmp_path / "output" / "mine.txt").read_text() == "mine"
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConversionError, match="not an empty folder"):
        convert(source, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_empty_output_folder_is_used(tmp_path, book):
    (tmp_path / "output").mkdir()
    convert(write_source(tmp_path, book[0].state_dict(), book[1]), tmp_path / "output")
    assert (tmp_path / "output" / "model.safetensors").is_file()


def test_place_that_cannot_be_written_to_is_refused(tmp_path, capsys, book):
    source = write_source(tmp_path, book[0].state_dict(), book[1])
    (tmp_path / "output").symlink_to(source / "below" / "a-file")
    assert "Not a directory" in refusal(capsys, tmp_path, source)


def test_failure_while_writing_leaves_nothing(tmp_path, capsys, monkeypatch, book):
    source = write_source(tmp_path, book[0].state_dict(), book[1])

    def fail_late(model, folder):
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(GPTScratchForCausalLM, "save_pretrained", fail_late)
    assert "No space left on device" in refusal(capsys, tmp_path, source)


def test_abbreviated_options_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["convert", "a.pth", str(tmp_path / "output"), "--conf", "model.json"])
    assert stopped.value.code == 2
    assert "--conf" in capsys.readouterr().err
