"""What a release holds, and where it lies while `hub_upload.py --dry-run` looks at it."""

import json
import shutil
import tempfile
from pathlib import Path

import torch

import hub_upload
from modeling_gpt_scratch import GPTScratchForTokenClassification
from publishing.contents import CODE_FILES
from publishing.release import prepare_release, staging_folder
from publishing.source import read_config
from publishing.verification import check_release
from tests.measurements import OPENED
from tests.publishing.model_folder import MODEL, RECORD, edit_json


def test_a_good_folder_is_listed(folder, monkeypatch, capsys):
    monkeypatch.setattr(hub_upload, "check_release", lambda *_: [OPENED])
    (folder / "notes.txt").write_text("private")
    (folder / "training_args.bin").write_bytes(b"left by a Trainer")
    assert hub_upload.main([str(folder), "alice/lighthouse", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "it opens with Transformers 5.23.0: " in printed
    listed, left_out = printed.split("stays here:")
    assert left_out.strip() == "notes.txt, training_args.bin"
    assert {line.split("bytes  ")[1] for line in listed.splitlines() if "bytes  " in line} == MODEL | RECORD


def test_a_release_of_another_form_is_whole_too(folder, tmp_path):
    edit_json(folder / "generation_config.json", do_sample=True, temperature=0.7)
    (tmp_path / "native").mkdir()
    native = prepare_release(folder, tmp_path / "native", "alice/lighthouse", native=True)
    assert set(native.files) == {name for name in MODEL | RECORD if not name.endswith(".py")}
    assert "auto_map" not in read_config(native.folder)
    assert json.loads((native.folder / "tokenizer_config.json").read_text())["tokenizer_class"] == "GPT2Tokenizer"
    assert set(CODE_FILES) <= set(native.left_at_home)
    settings = json.loads((native.folder / "generation_config.json").read_text())
    assert (settings["do_sample"], settings["temperature"], settings["max_length"]) == (True, 0.7, 64)
    assert "trust_remote_code" not in (native.folder / "README.md").read_text()
    assert check_release(native)[0]["code"].startswith("transformers.models.gpt2")

    GPTScratchForTokenClassification.from_pretrained(folder).to(torch.bfloat16).save_pretrained(tmp_path / "tagger")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, tmp_path / "tagger")
    (tmp_path / "tagging").mkdir()
    tagging = prepare_release(tmp_path / "tagger", tmp_path / "tagging", "alice/tagger")
    assert set(tagging.files) == MODEL - {"generation_config.json"}
    assert "entity" in check_release(tagging)[0]["answer"]


def test_a_model_is_published_from_a_place_that_cannot_be_written(folder, monkeypatch):
    make = tempfile.mkdtemp

    def refuse(suffix=None, prefix=None, dir=None):
        if dir is not None:
            raise PermissionError(f"{dir} is for reading only")
        return make(suffix, prefix, dir)

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with staging_folder(folder) as staging:
        assert staging.parent == Path(tempfile.gettempdir())
    assert not staging.exists()


def test_a_release_lies_beside_its_model_while_it_is_checked(folder, monkeypatch, capsys):
    seen = []

    def look(release, token, versions):
        weights = release.files["model.safetensors"]
        seen.append((release.folder.parent, release.folder.name[:9], weights.stat().st_ino))
        return [OPENED]

    monkeypatch.setattr(hub_upload, "check_release", look)
    assert hub_upload.main([str(folder), "--dry-run"]) == 0
    assert seen == [(folder.parent.resolve(), ".release-", (folder / "model.safetensors").stat().st_ino)]
    assert not list(folder.parent.glob(".release-*"))
    assert "would be published as v1:" in capsys.readouterr().out
