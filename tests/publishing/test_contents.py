"""What a release consists of is said once, and selection, refusals, deletions and the docs follow."""

import re
from pathlib import Path

import pytest

from modeling_gpt_scratch.conversion.tokenizer import TOKENIZER_FILES
from publishing.contents import CODE_FILES, PARTS, code_files, is_stale, missing_from, parts_in

PAGE = (Path(__file__).parents[2] / "docs" / "publish-your-model.md").read_text(encoding="utf-8")


def test_the_code_files_are_those_that_the_library_saves(tiny_model, tmp_path):
    tiny_model().save_pretrained(tmp_path)
    assert sorted(file.name for file in tmp_path.glob("*.py")) == list(CODE_FILES)


def test_another_code_file_is_found_by_its_import(tmp_path):
    (tmp_path / "modeling_gpt_scratch.py").write_text("import torch\nfrom .loss_gpt_scratch import loss\n")
    (tmp_path / "loss_gpt_scratch.py").write_text("from .configuration_gpt_scratch import GPTScratchConfig\n")
    (tmp_path / "configuration_gpt_scratch.py").write_text("")
    names = ("configuration_gpt_scratch.py", "loss_gpt_scratch.py", "modeling_gpt_scratch.py")
    assert code_files(tmp_path / "modeling_gpt_scratch.py") == names


def test_a_release_and_a_conversion_take_the_same_files_of_a_tokenizer():
    listed = [name for part in PARTS if "tokenizer" in part.title for name in part.patterns]
    assert sorted(listed) == sorted(TOKENIZER_FILES)


def test_a_folders_parts_are_taken_and_nothing_else(tmp_path):
    taken = {"config.json", "model-00001-of-00002.safetensors", "vocab.json", CODE_FILES[0]}
    for name in (*taken, "README.md", "run.json", "notes.txt", "adapter_model.safetensors", "helpers.py"):
        (tmp_path / name).touch()
    (tmp_path / "merges.txt").mkdir()
    assert {file.name for file in parts_in(tmp_path, "model")} == taken
    assert [file.name for file in parts_in(tmp_path, "run")] == ["run.json"]


def test_every_required_part_is_missed(tmp_path):
    required = [part for part in PARTS if part.required_by]
    assert len(required) == 5 + len(CODE_FILES)
    for part in required:
        assert any(
            f"({' or '.join(part.patterns)}): {part.remedy}" in line
            for line in missing_from(tmp_path, part.required_by)
        )
        (tmp_path / part.patterns[-1].replace("?", "0")).touch()
    assert [missing_from(tmp_path, part.required_by) for part in required] == [[]] * len(required)


@pytest.mark.parametrize(
    ("path", "stale"),
    [
        *((pattern.replace("?", "0").replace("*", "task"), True) for part in PARTS for pattern in part.patterns),
        ("loss_gpt_scratch.py", True),
        ("modeling_other.py", True),
        ("training_args.bin", True),
        ("last-checkpoint/optimizer.pt", True),
        ("last-checkpoint/global_step4/rank_0.pt", True),
        ("tokenizer.model", True),
        ("model.gguf", False),
        ("onnx/model.onnx", False),
        ("onnx/decoder.bin", False),
        ("images/loss.png", False),
        (".gitattributes", False),
        (".eval_results/more/task.yaml", False),
        ("LICENSE", False),
    ],
)
def test_what_an_earlier_release_left_is_stale_and_what_others_put_there_is_not(path, stale):
    assert is_stale(path) == stale


def test_the_docs_list_the_same_parts():
    origins = {"model": "the model folder", "run": "the run folder around it", "release": "written anew"}
    rows = re.findall(r"^\| (.+?) \| (`.+?`) \| (.+?) \|$", PAGE, flags=re.MULTILINE)
    listed = {(title, file, origin) for title, files, origin in rows for file in re.findall("`(.+?)`", files)}
    assert listed == {(part.title, file, origins[part.origin]) for part in PARTS for file in part.patterns}
