"""Values as they are written in a recipe file and on a command line: read alike, and as people mean them."""

import pytest

from configuration.pretraining import PretrainingRecipe
from configuration.recipe_file import RecipeError
from training.record import read_recipe

MINIMAL = {"model": "demo", "corpus": "stdlib", "tokens_per_step": "4096", "output_dir": "runs/x"}


@pytest.fixture
def load(tmp_path):
    """Loads a recipe that consists of some text beside what every recipe needs."""

    def load(text: str, **overrides: str) -> PretrainingRecipe:
        file = tmp_path / "recipe.yaml"
        file.write_text("".join(f"{key}: {value}\n" for key, value in MINIMAL.items()) + text)
        return PretrainingRecipe.load(file, overrides)

    return load


VALUES = [
    ("seed", "010", 10),
    ("seed", "0x1f", 31),
    ("seed", "0o17", 15),
    ("max_steps", "10_000", 10_000),
    ("max_steps", "+5", 5),
    ("learning_rate", "3e-4", 3e-4),
    ("learning_rate", "1E-2", 1e-2),
    ("learning_rate", ".5", 0.5),
    ("learning_rate", "1.", 1.0),
    ("run_name", "1:30", "1:30"),
    ("run_name", "010", "010"),
    ("run_name", "3e-4", "3e-4"),
    ("run_name", "2024-01-02", "2024-01-02"),
    ("run_name", "2024-13-01", "2024-13-01"),
    ("run_name", "off", "off"),
    ("save_strategy", "no", "no"),
    ("eval_strategy", "no", "no"),
    ("shuffle", "no", False),
    ("shuffle", "off", False),
    ("qkv_bias", "Yes", True),
    ("qkv_bias", "on", True),
    ("gradient_checkpointing_kwargs", "{use_reentrant: no, at: 1:30}", {"use_reentrant": False, "at": "1:30"}),
    ("split_fractions", "[0.8, 1e-1, .1]", [0.8, 0.1, 0.1]),
]


@pytest.mark.parametrize(("name", "text", "value"), VALUES)
def test_a_value_means_the_same_in_a_file_and_on_the_command_line(name, text, value, load, tmp_path):
    recipe = load(f"{name}: {text}\n")
    found = recipe.as_dict()[name]
    assert (type(found), found) == (type(value), value)
    assert load("", **{name: text}).as_dict() == recipe.as_dict()
    (tmp_path / "recipe.yaml").write_text(
        recipe.dump()
    )  # whatever is written down is read back, by charts and page too
    assert PretrainingRecipe.load(tmp_path / "recipe.yaml", {}).as_dict()[name] == value
    assert str(read_recipe(tmp_path)[name]) == str(value)


@pytest.mark.parametrize(
    ("name", "text"), [("seed", "1:30"), ("seed", "08x"), ("seed", "1__0"), ("learning_rate", "1:30"), ("seed", "0b1")]
)
def test_what_is_no_number_is_refused_in_both_places(name, text, load):
    for arguments in ((f"{name}: {text}\n", {}), ("", {name: text})):
        with pytest.raises(RecipeError, match=f"{name} is '{text}' \\(str\\), but must be"):
            load(arguments[0], **arguments[1])


def test_quotes_make_text_of_a_number(load):
    assert load("run_name: '12'\n").as_dict()["run_name"] == "12"
    with pytest.raises(RecipeError, match="learning_rate is '5' \\(str\\), but must be float"):
        load("learning_rate: '5'\n")


def test_a_key_given_twice_is_refused_with_both_lines(load):
    with pytest.raises(RecipeError, match=r"recipe\.yaml has seed in lines 5 and 7: keep one of them$"):
        load("seed: 1\nlearning_rate: 1e-3\nseed: 1\n")
    with pytest.raises(RecipeError, match=r"recipe\.yaml has a in lines 5 and 5"):
        load("gradient_checkpointing_kwargs: {a: 1, a: 2}\n")
    with pytest.raises(RecipeError, match=r"gradient_checkpointing_kwargs is .* but must be dict"):
        load("", gradient_checkpointing_kwargs="{a: 1, a: 2}")


def test_tags_make_no_objects(load):
    with pytest.raises(RecipeError, match="is not YAML: could not determine a constructor"):
        load("run_name: !!python/name:os.system\n")


@pytest.mark.parametrize("null", ["null", "~", ""])
def test_a_base_of_null_is_none(load, null):
    assert load(f"base: {null}\n") == load("")
