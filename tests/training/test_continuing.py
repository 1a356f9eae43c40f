"""`pretrain --init_from MODEL`: what comes from the model, what a recipe may say beside it, and how such a run ends."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import constants
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2LMHeadModel

from benchmarks import faults
from configuration.pretraining import PretrainingRecipe
from tests.conversion.test_conversion_sources import write_cache
from tests.strangers import run_as_stranger
from tests.training.continuing import command, error_of, record_of
from tests.training.run.disturbances import interrupt_at
from training.__main__ import main
from training.files import weights_sha256

pytestmark = pytest.mark.usefixtures("here")
OPEN = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
ids = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)("Seven ships", return_tensors="pt").input_ids
print(json.dumps(model(ids).logits[0, -1].tolist()))
"""


def logits_of(folder: str | Path, length: int = 32) -> torch.Tensor:
    ids = torch.randint(400, (1, length), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits


@pytest.mark.slow
def test_a_run_that_learns_nothing_leaves_the_librarys_gpt2_as_it_was_and_a_stranger_opens_it(here):
    assert main(command("still", "gpt2", learning_rate="1e-12", residual_dropout=0.25, max_steps=2)) == 0
    logits = logits_of("gpt2")
    torch.testing.assert_close(logits_of("still/model"), logits, atol=1e-5, rtol=0)  # fp32, another order of sums
    settings = json.loads(Path("still/model/config.json").read_text())
    assert (settings["model_type"], settings["residual_dropout"]) == ("gpt_scratch", 0.25)
    result = record_of("still")["result"]
    assert result["eval_loss"] == result["initial"]["eval_loss"]
    found, _ = run_as_stranger(OPEN, str(here / "first" / "model"), workplace=here)
    assert len(found) == 400


def test_the_first_validation_is_the_last_one_of_what_it_continues():
    assert main(command("second", "first/checkpoint-4")) == 0
    first, second = record_of("first")["result"], record_of("second")["result"]
    assert second["initial"]["eval_loss"] == pytest.approx(first["eval_loss"], abs=1e-6)
    assert second["eval_loss"] < first["eval_loss"] < first["initial"]["eval_loss"]


def test_its_record_names_what_it_continues_and_what_that_was_trained_on(here):
    assert main(command("second", str(here / "first" / "model"))) == 0
    parent = record_of("second")["parent"]
    assert parent == {
        "name": "first/model",
        "revision": None,
        "weights": weights_sha256(Path("first/model")),
        "tokens": 4 * 256,
        "parent": {"name": "gpt2", "revision": None, "weights": weights_sha256(Path("gpt2"))},
    }
    recipe = yaml.safe_load(Path("second/recipe.yaml").read_text())
    assert (recipe["init_from"], recipe["tokenizer"], recipe["hidden_size"]) == ("first/model", "first/model", 32)
    assert record_of("second")["result"]["tokens"] == 4 * 256  # its own


def test_whatever_type_its_weights_are_stored_in_and_in_however_many_files_they_are_trained_in_fp32():
    model = GPT2LMHeadModel.from_pretrained("gpt2", dtype=torch.bfloat16)
    model.save_pretrained("halves", max_shard_size="50KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(f"gpt2/{name}", "halves")
    assert main(command("whole", "halves", learning_rate="1e-12", max_steps=1)) == 0
    assert {tensor.dtype for tensor in load_file("whole/model/model.safetensors").values()} == {torch.float32}
    torch.testing.assert_close(logits_of("whole/model"), logits_of("halves"), atol=1e-5, rtol=0)
    assert len(record_of("whole")["parent"]["weights"]) > 1


def test_more_positions_are_interpolated_or_begin_anew_and_fewer_are_the_first(capsys):
    name = "model.embed_positions.weight"
    trained = load_file("first/model/model.safetensors")[name]
    frozen = {"learning_rate": "1e-12", "max_steps": 1, "initializer_range": 0.01}
    found = {}
    for positions, new in ((127, "interpolate"), (128, "begin"), (32, None)):
        size = {"max_position_embeddings": positions, "new_positions": new, "tokens_per_step": 2 * positions}
        assert main(command(f"to-{positions}", "first/model", **size, **frozen)) == 0
        found[positions] = load_file(f"to-{positions}/model/model.safetensors")[name]
        assert record_of(f"to-{positions}")["parent"]["positions"] == {"trained": 64, "now": positions, "new": new}
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("continuing")]
    assert said == [
        "continuing first/model, whose 64 positions are interpolated to 127",
        "continuing first/model, whose 64 positions stay; 64 more begin anew",
        "continuing first/model, of whose 64 positions the first 32 stay",
    ]
    torch.testing.assert_close(found[127][::2], trained, atol=1e-6, rtol=0)
    torch.testing.assert_close(found[127][1::2], (trained[1:] + trained[:-1]) / 2, atol=1e-6, rtol=0)
    assert torch.equal(found[128][:64], trained)
    assert found[128][64:].std().item() == pytest.approx(0.01, rel=0.05)
    assert torch.equal(found[32], trained[:32])
    torch.testing.assert_close(logits_of("to-32/model"), logits_of("first/model"), atol=1e-5, rtol=0)


@pytest.mark.parametrize("step", [1, 3])
def test_a_run_that_was_cut_off_ends_bit_for_bit_like_an_undisturbed_one(step, monkeypatch, capsys):
    assert main(command("calm", "first/model")) == 0
    argv = command("run", "first/model")
    with monkeypatch.context() as patch:
        interrupt_at(patch, step)
        assert main(argv) == 130
    if step == 1:  # no checkpoint yet: the weights are needed, and no others will do
        shutil.move("first/model", "away")
        shutil.copytree("first/checkpoint-2", "first/model")
        assert "first/model has other weights now than the run began with" in error_of(capsys, argv)
        shutil.rmtree("first/model")
        shutil.move("away", "first/model")
    else:  # its own checkpoint suffices
        shutil.rmtree("first")
    assert main(argv) == 0
    assert faults.ending(Path("run")) == faults.ending(Path("calm"))


def test_the_model_may_move_but_not_become_another_one(here, capsys):
    parent = record_of("first")["parent"]
    Path("elsewhere").mkdir()
    shutil.move("gpt2", "elsewhere/gpt2")
    longer = {"max_steps": 6}
    assert main([*command("first", str(here / "elsewhere/gpt2"), **longer), "--allow_changed", "horizon"]) == 0
    assert record_of("first")["parent"] == parent
    error = error_of(capsys, command("first", "first/checkpoint-2", **longer))
    assert "another model and tokenizer (init_from was 'elsewhere/gpt2', now 'first/checkpoint-2';" in error
    assert "another model" in error_of(capsys, command("first", model="demo", **longer))


def test_a_path_from_the_root_that_ends_alike_is_not_taken_for_the_same_model(here, tmp_path_factory, capsys):
    outside = tmp_path_factory.mktemp("outside")
    for name in ("a", "b"):
        shutil.copytree("first/checkpoint-4" if name == "a" else "first/checkpoint-2", outside / name / "model")
    assert main(command("run", str(outside / "a/model"))) == 0
    assert yaml.safe_load(Path("run/recipe.yaml").read_text())["init_from"] == "model"
    assert main(command("run", str(outside / "a/model"))) == 0
    error = error_of(capsys, command("run", str(outside / "b/model")))
    assert f"another model (init_from was 'model', now '{outside}/b/model'" in error


def test_beginning_with_a_model_and_going_on_from_a_run_are_not_mixed_up(capsys):
    error = error_of(capsys, [*command("x", "first/model"), "--resume", "first/checkpoint-2"])
    assert "first/checkpoint-2 belongs to a run that began with another model's weights, while init_from says" in error
    sizes = {"model": "demo", "hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 400, "tokenizer": "gpt2"}
    argv = command("x", max_position_embeddings=64, **sizes)
    error = error_of(capsys, [*argv, "--resume", "first/checkpoint-2"])
    assert "and this one to begin with random ones: name that model by init_from" in error
    assert not Path("x").exists()
    # What begins alike may branch off.
    assert main([*command("branch", "gpt2"), "--resume", "first/checkpoint-2"]) == 0
    assert torch.equal(logits_of("branch/model"), logits_of("first/model"))
    error = error_of(capsys, [*command("first", "gpt2"), "--resume", "never"])
    assert "choose another output_dir, which --init_from first/model begins with this model" in error


def test_the_plan_has_the_models_sizes(capsys):
    capsys.readouterr()
    size = {"max_position_embeddings": 128, "new_positions": "interpolate"}
    assert main([*command("x", "first/model", **size), "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert "# parent:     first/model, whose 64 positions are interpolated to 128; tokenizer: its own\n" in printed
    assert "= 2 windows of 128 =" in printed
    assert yaml.safe_load(printed)["num_attention_heads"] == 4


def test_a_runs_recipe_reads_back_where_the_model_is_gone():
    shutil.rmtree("gpt2")
    recipe = PretrainingRecipe.load(Path("first/recipe.yaml"), {})
    assert (recipe.model.hidden_size, recipe.data.tokenizer) == (32, "gpt2")
    assert recipe.differences(Path("first/recipe.yaml")) == ({}, [])


def test_a_run_keeps_to_the_commit_on_the_hub_that_it_began_with(here, monkeypatch, capsys):
    hub = write_cache(here / "cache", "bob/base", {"main": "a" * 40, "old": "b" * 40})
    shutil.copytree("first/model", hub / ("a" * 40))
    shutil.copytree("first/checkpoint-2", hub / ("b" * 40))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(here / "cache"))
    assert main(command("calm", "first/model")) == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1)
        assert main(command("run", "bob/base")) == 130
    (hub.parent / "refs" / "main").write_text("b" * 40)
    assert main(command("run", "bob/base")) == 0
    assert faults.ending(Path("run"))[0] == faults.ending(Path("calm"))[0]
    parent = record_of("run")["parent"]
    assert (parent["name"], parent["revision"]) == ("bob/base", "a" * 40)
    assert "init_from_revision was None, now 'old'" in error_of(
        capsys, command("run", "bob/base", init_from_revision="old", max_steps=6)
    )
