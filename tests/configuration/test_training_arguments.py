"""Settings of the library that make no sense: refused when the recipe is read, before there is any data."""

import pytest

from configuration.pretraining import PretrainingRecipe
from configuration.recipe_file import RecipeError

MINIMAL = {"model": "demo", "corpus": "stdlib", "tokens_per_step": "4096", "output_dir": "runs/x"}


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("weight_decay", "-1", "-1.0"),
        ("learning_rate", "0", "0.0"),
        ("learning_rate", "-1e-3", "-0.001"),
        ("adam_beta1", "1", "1.0"),
        ("adam_beta2", "2", "2.0"),
        ("adam_epsilon", "0", "0.0"),
        ("max_grad_norm", "-1", "-1.0"),
        ("warmup_steps", "-5", "-5.0"),
        ("logging_steps", "0", "0.0"),
        ("save_steps", "0", "0.0"),
        ("save_steps", "-2", "-2.0"),
        ("eval_steps", "0", "0.0"),
        ("eval_delay", "-1", "-1.0"),
        ("save_total_limit", "0", "0"),
        ("dataloader_prefetch_factor", "0", "0"),
        ("ddp_timeout", "0", "0"),
    ],
)
def test_a_value_out_of_its_range_is_refused(name, text, found):
    with pytest.raises(RecipeError, match=f"^{name} is {found}, but must be between "):
        PretrainingRecipe.load(None, MINIMAL | {name: text})


@pytest.mark.parametrize(
    ("name", "text"), [("weight_decay", "0"), ("max_grad_norm", "0"), ("adam_beta1", "0"), ("save_total_limit", "null")]
)
def test_values_that_switch_something_off_stay_allowed(name, text):
    PretrainingRecipe.load(None, MINIMAL | {name: text})


@pytest.mark.parametrize("name", ["eval_steps", "logging_steps", "save_steps", "warmup_steps"])
def test_a_number_of_steps_is_whole_or_a_share(name):
    for text in ("0.5", "1", "1.0", "30"):
        PretrainingRecipe.load(None, MINIMAL | {name: text})
    with pytest.raises(RecipeError, match=f"{name} is 1.5, but must be a share below 1 or a whole number of steps"):
        PretrainingRecipe.load(None, MINIMAL | {name: "1.5"})


def test_saving_the_best_alone_is_refused_and_the_advice_can_be_followed():
    with pytest.raises(RecipeError, match=r"save_strategy is best, .* set it to steps, and save_steps"):
        PretrainingRecipe.load(None, MINIMAL | {"save_strategy": "best"})
    PretrainingRecipe.load(None, MINIMAL | {"save_strategy": "steps", "save_steps": "5"})


@pytest.fixture
def write(tmp_path):
    def write(text: str, base: str = ""):
        (tmp_path / "base.yaml").write_text("".join(f"{key}: {value}\n" for key, value in MINIMAL.items()) + base)
        (tmp_path / "recipe.yaml").write_text(f"base: base.yaml\n{text}")
        return tmp_path / "recipe.yaml"

    return write


@pytest.mark.parametrize(
    ("text", "base", "overrides"),
    [
        ("max_steps: 30\nnum_train_epochs: 2\n", "", {}),
        ("num_train_epochs: 2\n", "max_steps: 30\n", {}),
        ("max_steps: 30\n", "", {"num_train_epochs": "2"}),
        ("", "max_steps: 30\n", {"num_train_epochs": "2"}),
        ("", "", {"num_train_epochs": "2", "max_steps": "30"}),
    ],
)
def test_epochs_that_would_not_count_are_refused_and_the_advice_can_be_followed(text, base, overrides, write):
    file = write(text, base)
    with pytest.raises(RecipeError) as caught:
        PretrainingRecipe.load(file, overrides)
    assert str(caught.value) == (
        "num_train_epochs is 2.0, but max_steps is 30 and would count alone: leave one of them out, or set max_steps "
        "to -1"
    )
    training = PretrainingRecipe.load(file, overrides | {"max_steps": "-1"}).training
    assert (training["num_train_epochs"], training["max_steps"]) == (2, -1)


def test_steps_that_are_asked_for_later_win_over_epochs(write, tmp_path):
    file = write("", "num_train_epochs: 2\n")
    shorter = PretrainingRecipe.load(file, {"max_steps": "30"})
    assert PretrainingRecipe.load(write("max_steps: 30\n", "num_train_epochs: 2\n"), {}).as_dict() == shorter.as_dict()
    saved = tmp_path / "saved.yaml"
    saved.write_text(shorter.dump())
    assert "num_train_epochs" not in saved.read_text()
    assert PretrainingRecipe.load(saved, {}).as_dict() == shorter.as_dict()
    saved.write_text(shorter.dump() + "num_train_epochs: 2.0\n")  # as older versions have written it
    assert shorter.differences(saved) == ({}, [])
