"""Recipes: one loader, everything checked, nothing guessed."""

import argparse

import pytest
import yaml

from configuration.command_line import add_recipe_arguments, parse_recipe_arguments
from configuration.pretraining import MODELS, PretrainingRecipe
from configuration.recipe_file import RecipeError

CONFIGURATION = MODELS.parent
SIZES = ", ".join(sorted(path.stem for path in MODELS.glob("*.json")))
MINIMAL = {"model": "demo", "corpus": "stdlib", "tokens_per_step": "4096", "output_dir": "runs/x"}


def parse(*argv: str):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_recipe_arguments(parser, PretrainingRecipe)
    return parse_recipe_arguments(parser, PretrainingRecipe, list(argv))[0]


def problems(overrides: dict[str, str]) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        PretrainingRecipe.load(None, MINIMAL | overrides)
    return str(caught.value).splitlines()


@pytest.mark.parametrize("path", sorted(CONFIGURATION.glob("recipes/*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_loads(path):
    assert PretrainingRecipe.load(path, {}).training["output_dir"] == f"runs/{path.stem}"


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.json")), ids=lambda path: path.stem)
def test_every_named_size_loads_with_its_own_values(path):
    model = PretrainingRecipe.load(None, MINIMAL | {"model": path.stem}).model
    assert {name: getattr(model, name) for name in yaml.safe_load(path.read_text())} == yaml.safe_load(path.read_text())


def test_file_and_command_line_give_the_same_recipe(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("model: demo\ncorpus: stdlib\ntokens_per_step: 4096\noutput_dir: runs/x\nlearning_rate: 3e-4\n")
    assert (
        PretrainingRecipe.load(file, {}).as_dict()
        == PretrainingRecipe.load(None, MINIMAL | {"learning_rate": "3e-4"}).as_dict()
    )


def test_command_line_overrides_the_file():
    recipe = parse(str(CONFIGURATION / "recipes/demo.yaml"), "--max_steps", "60", "--embedding_dropout=0.1")
    assert (recipe.training["max_steps"], recipe.model.embedding_dropout) == (60, 0.1)
    assert PretrainingRecipe.load(CONFIGURATION / "recipes/demo.yaml", {}).training["max_steps"] != 60


def test_every_default_is_written_out_and_reads_back_to_the_same_recipe(tmp_path):
    recipe = PretrainingRecipe.load(CONFIGURATION / "recipes/demo.yaml", {"split_fractions": "[0.8, 0.1, 0.1]"})
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe.dump())
    assert PretrainingRecipe.load(file, {}).as_dict() == recipe.as_dict()
    assert recipe.differences(file) == ({}, [])
    assert {"adam_beta1", "text_field", "layer_norm_eps"} <= yaml.safe_load(file.read_text()).keys()


def test_absolute_paths_are_not_recorded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = PretrainingRecipe.load(None, MINIMAL | {"corpus": f"{tmp_path}/a/b", "output_dir": "/elsewhere/x"})
    assert (recipe.data.corpus, recipe.training["output_dir"]) == (f"{tmp_path}/a/b", "/elsewhere/x")
    assert (recipe.as_dict()["corpus"], recipe.as_dict()["output_dir"]) == ("a/b", "x")


def test_paths_that_lead_out_of_the_folder_are_not_recorded():
    for path in ("../../jane/texts", "~/texts", "a/../../texts"):
        assert PretrainingRecipe.load(None, MINIMAL | {"corpus": path}).as_dict()["corpus"] == "texts"


def test_differences_name_the_fields(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(PretrainingRecipe.load(None, MINIMAL).dump())
    other = PretrainingRecipe.load(None, MINIMAL | {"seed": "7", "shuffle": "false"})
    assert other.differences(file) == ({"shuffle": (True, False), "seed": (42, 7)}, [])


def test_what_another_version_of_the_library_saved_is_named_and_left_out(tmp_path):
    file = tmp_path / "recipe.yaml"
    recipe = PretrainingRecipe.load(None, MINIMAL)
    saved = recipe.as_dict() | {"field_of_the_future": 3, "eval_delay": [1]}  # a name and a value that are not known
    del saved["seed"]
    file.write_text(yaml.safe_dump(saved, sort_keys=False))
    assert recipe.differences(file) == ({}, ["eval_delay", "field_of_the_future"])
    with pytest.raises(RecipeError, match="field_of_the_future is no setting"):  # a user's own recipe stays strict
        PretrainingRecipe.load(file, {})


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("learning_rate", "3e-4", 3e-4),
        ("learning_rate", "1", 1.0),
        ("warmup_steps", "0.05", 0.05),
        ("run_name", "12", "12"),
        ("run_name", "2024-13-01", "2024-13-01"),
        ("max_steps", "-1", -1),
        ("run_name", "null", None),
        ("gradient_checkpointing", "true", True),
        ("optim_args", "{a: 1}", "{a: 1}"),
        ("gradient_checkpointing_kwargs", "{use_reentrant: false}", {"use_reentrant": False}),
        ("per_device_train_batch_size", "auto", "auto"),
        ("per_device_train_batch_size", "4", 4),
        ("decay_steps", "300", 300),
        ("decay_steps", "0.2", 0.2),
        ("report_to", "[tensorboard]", ["tensorboard"]),
        ("report_to", "tensorboard", "tensorboard"),
        ("split", "hash", "hash"),
        ("muon_learning_rate", "2e-2", 0.02),
    ],
)
def test_values_get_the_fields_type(field, text, value):
    found = PretrainingRecipe.load(None, MINIMAL | {field: text}).as_dict()[field]
    assert found == value
    assert type(found) is type(value)


def test_a_boolean_option_alone_means_true():
    argv = [text for name, value in MINIMAL.items() for text in (f"--{name}", value)]
    assert parse(*argv, "--qkv_bias", "false").model.qkv_bias is False
    assert parse(*argv, "--torch_compile").training["torch_compile"] is True


@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        ("seed", "abc", "seed is 'abc' (str), but must be int"),
        ("seed", "1.5", "seed is '1.5' (str), but must be int"),
        ("seed", "true", "seed is 'true' (str), but must be int"),
        ("shuffle", "3", "shuffle is '3' (str), but must be bool"),
        ("learning_rate", "nan", "learning_rate is 'nan' (str), but must be float"),
        ("learning_rate", "fast", "learning_rate is 'fast' (str), but must be float"),
        ("split", "random", "split is 'random' (str), but must be auto or hash or contiguous"),
        ("eval_strategy", "often", "eval_strategy is 'often' (str), but must be one of no, steps, epoch"),
        ("seed", "-1", "seed is -1, but must be between 0 and 4294967295"),
        ("max_steps", "0", "max_steps is 0, but must be between 1 and 1099511627776"),
        ("num_train_epochs", "0", "num_train_epochs is 0.0, but must be between 1e-06 and 1000000.0"),
        (
            "save_strategy",
            "epoch",
            "save_strategy is epoch, but a run counts in steps: set it to steps, and save_steps",
        ),
        ("learning_rate", "1" * 400, f"learning_rate is {'1' * 400!r} (str), but must be float"),
        ("corpus", " ", "corpus is empty"),
        ("output_dir", "", "output_dir is missing"),
        (
            "model",
            "huge",
            f"model is 'huge', but the sizes in configuration/models are: {SIZES}",
        ),
        (
            "model",
            "../models/demo",
            f"model is '../models/demo', but the sizes in configuration/models are: {SIZES}",
        ),
        ("tokens_per_step", "0", "tokens_per_step is 0, but must be between 1 and 1099511627776"),
        ("muon_learning_rate", "0", "muon_learning_rate is 0.0, but must be positive"),
        (
            "split_fractions",
            "[0.5, 0.5]",
            "split_fractions is [0.5, 0.5], but must be three positive numbers that add up to 1",
        ),
        (
            "num_attention_heads",
            "3",
            "hidden_size is 256, not a multiple of num_attention_heads, which is 3: each head gets an equal share of "
            "the width",
        ),
    ],
)
def test_bad_values_are_refused_with_what_was_found_and_expected(field, text, message):
    assert problems({field: text}) == [message]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("learning_rat", "learning_rat is no setting: did you mean learning_rate?"),
        ("hiden_size", "hiden_size is no setting: did you mean hidden_size?"),
        ("zzzz", "zzzz is no setting; --help lists them all"),
        ("bf16", "bf16 is derived from the device: set `precision` instead"),
        ("hub_token", "hub_token belongs to publishing, which is hub_upload.py's work"),
        (
            "gradient_accumulation_steps",
            "gradient_accumulation_steps follows from `tokens_per_step`, per_device_train_batch_size and the device "
            "count",
        ),
        (
            "lr_scheduler_type",
            "lr_scheduler_type spends step 0 at a rate of 0: set `schedule`, warmup_steps, decay_steps and "
            "learning_rate_floor instead",
        ),
        ("eos_token_id", "eos_token_id comes from the tokenizer"),
        ("remove_unused_columns", "remove_unused_columns is fixed by the program"),
    ],
)
def test_unknown_and_refused_keys_are_named(key, message, tmp_path):
    assert problems({key: "1"}) == [message]
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(MINIMAL | {"tokens_per_step": 4096, key: 1}))
    with pytest.raises(RecipeError, match=message.split(":")[0]):
        PretrainingRecipe.load(file, {})
    with pytest.raises(RecipeError, match=message.split(":")[0]):
        parse(f"--{key}", "1")


def test_all_problems_are_reported_together():
    assert len(problems({"seed": "x", "learning_rat": "1", "split": "y"})) == 3
    assert len(problems({"num_attention_heads": "3", "embedding_dropout": "2", "text_field": ""})) == 3
    with pytest.raises(RecipeError) as caught:
        PretrainingRecipe.load(None, {})
    assert str(caught.value).splitlines() == [
        *(f"{name} is missing" for name in ("tokens_per_step", "corpus", "output_dir")),
        "model is missing: name a size, or by init_from a model to continue",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"a: [1", "is not YAML"),
        (b"a: !!timestamp 2024-13-01", "is not YAML"),
        (b"shuffle: !!bool abc", "is not YAML: a tag .* does not fit its value"),
        (b"run_name: !!timestamp abc", "is not YAML: a tag .* does not fit its value"),
        (b"seed: " + b"[" * 5_000, "is not YAML: it is nested too deeply"),
        (b"- a", "must hold `key: value` lines, but holds list"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"learning_rate: '5'\nseed: '5'", "seed is '5' \\(str\\), but must be int"),
    ],
)
def test_unreadable_recipes_are_refused(content, message, tmp_path):
    file = tmp_path / "recipe.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(RecipeError, match=message):
        PretrainingRecipe.load(file, {})


def write_recipes(folder, **contents):
    for name, content in contents.items():
        (folder / f"{name}.yaml").write_text(content)
    return folder / f"{next(iter(contents))}.yaml"


MINIMAL_TEXT = "model: demo\ncorpus: stdlib\ntokens_per_step: 4096\noutput_dir: runs/x\n"


def test_a_recipe_starts_from_its_base_and_wins_over_it(tmp_path):
    file = write_recipes(
        tmp_path,
        c="base: b.yaml\nseed: 3\n",
        b="seed: 2\nlearning_rate: 2e-4\nbase: a.yaml\n",
        a=MINIMAL_TEXT + "seed: 1\nlearning_rate: 1e-4\nweight_decay: 0.5\n",
    )
    settings = PretrainingRecipe.load(file, {"weight_decay": "0.25"}).as_dict()
    assert [settings[name] for name in ("seed", "learning_rate", "weight_decay")] == [3, 2e-4, 0.25]
    assert "base" not in settings


def test_a_setting_of_the_base_can_be_set_back_to_null(tmp_path):
    file = write_recipes(
        tmp_path, b="base: a.yaml\nmuon_learning_rate: null\n", a=MINIMAL_TEXT + "muon_learning_rate: 0.1\n"
    )
    assert PretrainingRecipe.load(file, {}).optimization.muon_learning_rate is None


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"a": "base: a.yaml"}, "recipes start from each other: a.yaml -> a.yaml$"),
        ({"a": "base: b.yaml", "b": "base: a.yaml"}, "recipes start from each other: a.yaml -> b.yaml -> a.yaml$"),
        ({"a": "base: c.yaml", "b": ""}, "a.yaml has base c.yaml, but the recipes beside it are: a.yaml, b.yaml$"),
        ({"a": "base: ../a.yaml"}, "has base '../a.yaml', but must name a file of the same folder"),
        ({"a": 'base: ""'}, "has base '', but must name a file of the same folder"),
        ({"a": "base: [b.yaml]"}, "has base \\['b.yaml'\\], but must name a file of the same folder"),
        ({"a": "base: b.yaml", "b": "- a"}, "recipe .*b.yaml must hold `key: value` lines"),
        ({"a": "base: b.yaml", "b": "learning_rat: 1"}, "learning_rat is no setting"),
    ],
)
def test_a_base_that_cannot_be_used_is_refused(contents, message, tmp_path):
    with pytest.raises(RecipeError, match=message):
        PretrainingRecipe.load(write_recipes(tmp_path, **contents), {})


def test_base_is_no_option():
    assert problems({"base": "demo.yaml"})[0].startswith("base is no setting")


def test_every_setting_of_ours_has_a_help_text():
    ours = [part for part in PretrainingRecipe.parts() if part not in ("model", "training")]
    assert ours == ["pretraining", "data", "optimization"]
    for part in ours:
        assert all(PretrainingRecipe.declarations()[name].metadata["help"] for name in PretrainingRecipe.parts()[part])
