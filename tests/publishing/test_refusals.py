"""What `hub_upload.py --dry-run` refuses, and why: folders, releases, options."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import hub_upload
from tests.publishing.model_folder import edit_config, edit_json


def spoil_weights(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def add_pickle(folder):
    torch.save({}, folder / "pytorch_model.bin")


def add_import(folder):
    file = folder / "modeling_gpt_scratch.py"
    file.write_text("import einops\n" + file.read_text())


def add_line(folder):
    file = folder / "modeling_gpt_scratch.py"
    file.write_text(file.read_text() + "\nprint('hello')\n")


def other_code(folder):
    auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
    edit_config(folder, auto_map=auto_map | {"AutoModel": "bob/model--modeling_bob.BobModel"})


def retrain(folder):
    weights = load_file(folder / "model.safetensors")
    save_file({name: weight + 0.1 for name, weight in weights.items()}, folder / "model.safetensors", {"format": "pt"})


FILES_REFUSED = [
    (lambda folder: shutil.rmtree(folder), "does not exist"),
    (lambda folder: (folder / "config.json").unlink(), "has no configuration (config.json): it is no model folder"),
    (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read"),
    (lambda folder: (folder / "config.json").write_text("[]"), "config.json cannot be read: it holds no mapping"),
    (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer (tokenizer.json or vocab.json)"),
    (
        lambda folder: (folder / "tokenizer_config.json").unlink(),
        "has no settings of the tokenizer (tokenizer_config.json)",
    ),
    (lambda folder: edit_json(folder / "tokenizer_config.json", auto_map={}), "a tokenizer with code of its own"),
    (
        lambda folder: (folder / "generation_config.json").unlink(),
        "has no settings for writing text (generation_config.json)",
    ),
    (lambda folder: (folder / "model.safetensors").unlink(), "has no weights"),
    (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 9), "model.safetensors cannot be read"),
    (spoil_weights, "model.safetensors holds NaN or infinity in model.norm.weight: take an earlier checkpoint"),
    (lambda folder: (folder / "optimizer.pt").touch(), "holds optimizer.pt, so it is a checkpoint to go on training"),
    (add_pickle, "pytorch_model.bin can run code when it is opened"),
    (lambda folder: (folder / "modeling_gpt_scratch.py").write_text("class"), "is not Python code"),
    (lambda folder: edit_config(folder, auto_map={"AutoModel": 3}), "auto_map is {'AutoModel': 3}, not this project's"),
    (
        lambda folder: edit_config(folder, custom_pipelines={}),
        "custom_pipelines, which name code that is not published",
    ),
    (lambda folder: edit_config(folder, _name_or_path="/srv/x"), "config.json has an absolute path as _name_or_path"),
    (add_import, "modeling_gpt_scratch.py, line 1: imports einops, which users may not have"),
    (add_line, "modeling_gpt_scratch.py is not this project's file, and nobody else's code is published"),
    (other_code, "bob/model--modeling_bob.BobModel"),
    (lambda folder: edit_config(folder, model_type="bob"), "only models of this project are published"),
    (lambda folder: edit_config(folder, architectures=["GPTScratchModel"]), "says architectures ['GPTScratchModel']"),
    (lambda folder: edit_config(folder, auto_map={}), "config.json's auto_map is {}, not this project's"),
    (
        lambda folder: (folder / "modeling_gpt_scratch.py").unlink(),
        "has no code (modeling_gpt_scratch.py): everybody else needs it",
    ),
    (lambda folder: edit_config(folder, hidden_size=40), "does not open: "),
    (lambda folder: (folder / "README.md").symlink_to(folder / "config.json"), "README.md is a symbolic link"),
    (lambda folder: (folder / "README.md").write_text("---\na: [\n---\n"), "README.md's metadata cannot be read"),
    (lambda folder: edit_json(folder.parent / "run.json", result="absent"), "is not finished: run.json"),
    (lambda folder: (folder.parent / "run.json").write_text("{"), "record beside"),
    (retrain, "are not those that the run beside it wrote, so its record says nothing of them"),
]


@pytest.mark.parametrize(("damage", "message"), FILES_REFUSED)
def test_a_folder_that_no_release_can_be_made_of_is_refused(damage, message, folder, capsys):
    damage(folder)
    assert hub_upload.main([str(folder), "alice/lighthouse", "--dry-run"]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert all(line.startswith("error: ") for line in captured.err.splitlines() if "Loading weights" not in line)
    assert "would be published" not in captured.out


def test_a_release_that_strangers_could_not_use_is_refused_with_every_reason(folder, capsys):
    (folder.parent / "run.json").unlink()  # the record of other weights
    weights = load_file(folder / "model.safetensors")
    embeddings = weights["model.embed_tokens.weight"]
    weights["model.embed_tokens.weight"] = torch.cat([embeddings, embeddings[:1]])
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    edit_config(folder, vocab_size=401, eos_token_id=3, num_hidden_layers=3)
    edit_json(folder / "generation_config.json", pad_token_id=7)
    edit_json(folder / "tokenizer_config.json", model_max_length=65)
    (folder / "README.md").write_text(f"---\nlanguage: English\n---\nTODO: hf_{'a1' * 20}\n")

    assert hub_upload.main([str(folder), "alice/lighthouse", "--dry-run"]) == 2
    captured = capsys.readouterr()
    for message in (
        "missing weights: model.layers.2.",
        "eos_token_id in config.json is 3, but the tokenizer's is 0",
        "pad_token_id in generation_config.json is 7, but the tokenizer's is 1",
        "the tokenizer's model_max_length is 65, but the model has 64 positions",
        "the tokenizer has 400 tokens, but vocab_size is 401: it belongs to another model",
        "README.md still says 'TODO'",
        "README.md holds a Hugging Face token",
        "the language 'English', which is no ISO 639 code",
    ):
        assert message in captured.err
    assert "a1a1" not in captured.err + captured.out
    assert "would be published" not in captured.out


def test_a_checkpoint_that_is_still_being_saved_is_refused(finished_run, tmp_path, capsys):
    shutil.copytree(finished_run / "model", tmp_path / ".saving" / "checkpoint-4")
    assert hub_upload.main([str(tmp_path / ".saving" / "checkpoint-4"), "alice/lighthouse", "--dry-run"]) == 2
    assert "is a checkpoint that is still being saved, or was given up" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "OWNER/NAME is missing"),
        (["alice"], "alice is no repository's name: write OWNER/NAME"),
        (["alice/-x"], "alice/-x is no repository's name: "),
        (["alice/a--b"], "alice/a--b is no repository's name: Cannot have -- or .."),
        (["alice/model.git"], "alice/model.git is no repository's name: "),
        (["alice/" + "x" * 97], "is no repository's name: "),
        (["alice/x", "--base-model", "runs/demo/model"], "runs/demo/model is no repository's name: write OWNER/NAME"),
        (["alice/x", "--check-with", "5.15.0,latest"], "'latest' is no version of Transformers"),
        (["alice/x", "--tag", 'v 1 "beta"'], "is no name that git allows"),
        (["alice/x", "--revision", "a..b"], "is no name that git allows"),
        (["alice/x", "--tag", "main"], "--tag main is the branch's name, which only one of the two can have"),
        (["alice/x", "--tag", "v1", "--revision", "v1"], "--tag v1 is the branch's name"),
        (["alice/x", "--license", "My Own"], "--license My Own is no licence's name on the Hub"),
        (["alice/x", "--create-pr", "--tag", "v1"], "--create-pr makes none: tag it when it is merged"),
        (["alice/x", "--create-pr", "--private"], "--create-pr needs one that exists"),
        (["alice/x", "--create-pr", "--revision", "b"], "leave one of the two out"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message, folder, capsys):
    assert hub_upload.main([str(folder), *options]) == 2
    assert message in capsys.readouterr().err
