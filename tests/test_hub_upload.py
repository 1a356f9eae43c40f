"""The upload's dry run: a folder that a stranger can open is listed, any other is refused with the reason."""

import json
import shutil

import pytest
import torch

import hub_upload
from modeling_gpt_scratch import GPTScratchForCausalLM


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory, tiny_config, tokenizer):
    folder = tmp_path_factory.mktemp("published") / "model"
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
    GPTScratchForCausalLM(tiny_config(vocab_size=400, **special)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(model_folder, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(model_folder, tmp_path / "model")


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_a_good_folder_is_opened_as_a_stranger_and_listed(folder, capsys):
    (folder / "notes.txt").write_text("private")
    assert hub_upload.main([str(folder), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "opens in a process without this clone" in printed
    listed, left_out = printed.split("would stay here:")
    assert left_out.strip() == "notes.txt"
    for name in ("config.json", "model.safetensors", "modeling_gpt_scratch.py", "tokenizer.json"):
        assert f"bytes  {name}\n" in listed


def add_pickle(folder):
    torch.save({}, folder / "optimizer.pt")


def add_import(folder):
    file = folder / "modeling_gpt_scratch.py"
    file.write_text("import einops\n" + file.read_text())


def drop_class(folder):
    file = folder / "modeling_gpt_scratch.py"
    file.write_text(file.read_text().replace("class GPTScratchModel(", "class Renamed("))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "does not exist"),
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is not JSON"),
        (lambda folder: (folder / "tokenizer_config.json").unlink(), "has no tokenizer_config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no weights"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 9), "model.safetensors cannot be read"),
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json holds no mapping"),
        (lambda folder: edit_config(folder, auto_map={"AutoModel": 3}), "auto_map's AutoModel is 3, not module.Class"),
        (lambda folder: (folder / "modeling_gpt_scratch.py").write_text("class"), "is not Python code"),
        (add_pickle, "optimizer.pt can run code when it is opened"),
        (add_import, "modeling_gpt_scratch.py, line 1: imports einops, which users may not have"),
        (drop_class, "but modeling_gpt_scratch.py has no class GPTScratchModel"),
        (lambda folder: edit_config(folder, auto_map={}), "config.json has no AutoModelForCausalLM in auto_map"),
        (
            lambda folder: (folder / "modeling_gpt_scratch.py").unlink(),
            "but the folder holds no modeling_gpt_scratch.py of its own",
        ),
        (lambda folder: edit_config(folder, hidden_size=40), "does not open in a process without this clone"),
        (lambda folder: edit_config(folder, num_hidden_layers=3), "missing weights: model.layers.2."),
        (lambda folder: edit_config(folder, num_hidden_layers=1), "unexpected weights: model.layers.1."),
        (
            lambda folder: edit_config(folder, eos_token_id=3),
            "eos_token_id is 0 in the tokenizer, but 3 in config.json",
        ),
    ],
)
def test_a_folder_that_strangers_could_not_use_is_refused(damage, message, folder, capsys):
    damage(folder)
    assert hub_upload.main([str(folder), "--dry-run"]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert all(line.startswith("error: ") for line in captured.err.splitlines())
    assert "would be published" not in captured.out


def test_nothing_but_a_dry_run_is_offered(folder, capsys):
    with pytest.raises(SystemExit) as exit_:
        hub_upload.main([str(folder)])
    assert exit_.value.code == 2
    assert "--dry-run" in capsys.readouterr().err
