"""What a saved folder and a built wheel promise to people who do not have this repository."""

import ast
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.strangers import run_as_stranger

REPOSITORY = Path(__file__).resolve().parents[2]
CODE_FILES = ["configuration_gpt_scratch.py", "loss_gpt_scratch.py", "modeling_gpt_scratch.py"]
PROMPTS = ["It was a bright morning", "Seven ships", "When night fell he lit the lamp. What else"]

STRANGER = """
import json
import sys

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, pipeline

folder, prompts = sys.argv[1], json.loads(sys.argv[2])
trust = {"trust_remote_code": True}
torch.set_num_threads(1)

config = AutoConfig.from_pretrained(folder, **trust)
base = AutoModel.from_pretrained(folder, **trust)
model = AutoModelForCausalLM.from_pretrained(folder, **trust)
tokenizer = AutoTokenizer.from_pretrained(folder, **trust)
batch = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
with torch.no_grad():
    logits = model(**batch).logits
    hidden_states = base(**batch).last_hidden_state

generate = pipeline("text-generation", model=folder, tokenizer=folder, **trust)
untold = generate(prompts[0], do_sample=False, return_tensors=True)[0]["generated_token_ids"]
options = {"max_new_tokens": 12, "do_sample": False, "return_full_text": False}
together = generate(prompts, batch_size=len(prompts), **options)

model.save_pretrained("again")
again = AutoModelForCausalLM.from_pretrained("again", **trust)
with torch.no_grad():
    logits_again = again(**batch).logits

print(
    json.dumps(
        {
            "modules": [type(thing).__module__ for thing in (config, base, model, generate.model, again)],
            "classes": [type(thing).__name__ for thing in (config, base, model, generate.model, again)],
            "batch": {name: tensor.tolist() for name, tensor in batch.items()},
            "logits": logits.tolist(),
            "hidden_states": hidden_states.tolist(),
            "logits_again": logits_again.tolist(),
            "untold": untold,
            "text": generate(prompts[0], max_new_tokens=5, do_sample=False)[0]["generated_text"],
            "together": [result[0]["generated_text"] for result in together],
            "alone": [generate(prompt, **options)[0]["generated_text"] for prompt in prompts],
        }
    )
)
"""


@pytest.fixture(scope="module")
def stranger(tiny_model, tokenizer, tmp_path_factory):
    """A model folder, and what a process that has only this folder reports about it."""
    workplace = tmp_path_factory.mktemp("stranger")
    model = tiny_model(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.generation_config.max_length = model.config.max_position_embeddings
    model.save_pretrained(workplace / "model")
    tokenizer.save_pretrained(workplace / "model")

    report, stderr = run_as_stranger(STRANGER, "model", json.dumps(PROMPTS), workplace=workplace)
    return SimpleNamespace(model=model, workplace=workplace, stderr=stderr, **report)


def test_auto_classes_use_the_code_in_the_folder(stranger):
    assert [module.split(".")[0] for module in stranger.modules] == ["transformers_modules"] * 5
    causal_lm = "GPTScratchForCausalLM"
    assert stranger.classes == ["GPTScratchConfig", "GPTScratchModel", causal_lm, causal_lm, causal_lm]


def test_the_tokenizer_encodes_and_pads_as_here(stranger, tokenizer):
    expected = tokenizer(PROMPTS, padding=True, padding_side="left")
    assert stranger.batch["input_ids"] == expected["input_ids"]
    assert stranger.batch["attention_mask"] == expected["attention_mask"]
    assert [row[0] for row in stranger.batch["attention_mask"]] == [0, 0, 1]  # padded on the left


def test_outputs_equal_those_of_this_process(stranger):
    batch = {name: torch.tensor(rows) for name, rows in stranger.batch.items()}
    with torch.no_grad():
        logits = stranger.model(**batch).logits
        hidden_states = stranger.model.model(**batch).last_hidden_state
    # The same weights, code and machine; only the placement of tensors in memory may differ.
    exact = {"atol": 1e-6, "rtol": 0}
    torch.testing.assert_close(torch.tensor(stranger.logits), logits, **exact)
    torch.testing.assert_close(torch.tensor(stranger.logits_again), logits, **exact)
    torch.testing.assert_close(torch.tensor(stranger.hidden_states), hidden_states, **exact)


def test_pipeline_told_no_length_fills_the_models_positions_at_most(stranger, tokenizer):
    prompt = tokenizer(PROMPTS[0])["input_ids"]
    assert stranger.untold[: len(prompt)] == prompt
    continuation = stranger.untold[len(prompt) :]
    assert len(stranger.untold) == 64 or continuation[-1] == tokenizer.eos_token_id
    assert 0 < len(continuation) <= 64 - len(prompt)


def test_pipeline_told_a_number_of_new_tokens_continues_the_prompt(stranger, tokenizer):
    prompt = tokenizer(PROMPTS[0], return_tensors="pt")
    expected = stranger.model.generate(**prompt, max_length=None, max_new_tokens=5, do_sample=False)[0]
    assert stranger.text.startswith(PROMPTS[0])
    assert stranger.text == tokenizer.decode(expected, skip_special_tokens=True)


def test_pipeline_continues_a_batch_of_uneven_prompts_as_one_by_one(stranger):
    assert all(stranger.alone)
    assert stranger.together == stranger.alone


def test_a_folder_saved_by_the_remote_code_stands_alone_too(stranger):
    first, again = (stranger.workplace / name for name in ("model", "again"))
    for name in CODE_FILES:
        assert (again / name).read_text() == (first / name).read_text()
    auto_maps = [json.loads((folder / "config.json").read_text())["auto_map"] for folder in (first, again)]
    assert auto_maps[0] == auto_maps[1]
    assert auto_maps[0].keys() == {
        "AutoConfig",
        "AutoModel",
        "AutoModelForCausalLM",
        "AutoModelForSequenceClassification",
        "AutoModelForTokenClassification",
    }


def test_every_weight_is_found_in_the_folder(stranger):
    for complaint in ("newly initialized", "UNEXPECTED", "MISSING", "MISMATCH"):
        assert complaint not in stranger.stderr, stranger.stderr


@pytest.mark.parametrize("name", CODE_FILES)
def test_code_files_import_only_what_a_stranger_has(name, stranger):
    source = (stranger.workplace / "model" / name).read_text()
    assert source == (REPOSITORY / "modeling_gpt_scratch" / name).read_text()
    relative, packages = [], set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            relative.append("." * node.level + (node.module or ""))
        elif isinstance(node, ast.ImportFrom):
            packages.add(node.module.split(".")[0])
    assert packages - sys.stdlib_module_names <= {"torch", "transformers", "huggingface_hub"}
    assert relative == ([".configuration_gpt_scratch", ".loss_gpt_scratch"] if name.startswith("modeling") else [])


def test_the_wheel_holds_the_model_package_alone(tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        if (REPOSITORY / name).is_file():
            shutil.copy(REPOSITORY / name, tree)
    ignore = shutil.ignore_patterns("__pycache__")
    # The folders that live beside the package in a clone, to see that they stay out.
    for name in ("modeling_gpt_scratch", "tests", "training", "configuration"):
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, tree / name, ignore=ignore)
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--no-index"]
    process = subprocess.run(
        [*command, "--wheel-dir", str(tmp_path)], cwd=tree, capture_output=True, text=True, timeout=120, check=False
    )
    assert process.returncode == 0, process.stdout + process.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"modeling_gpt_scratch"}
    package = REPOSITORY / "modeling_gpt_scratch"
    expected = {path.relative_to(REPOSITORY).as_posix() for path in package.rglob("*.py")}
    assert {name for name in names if ".dist-info/" not in name} == expected
