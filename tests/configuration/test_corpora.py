"""One corpus or several in a recipe: how they are written, and what they must agree on."""

import pytest
import yaml

from configuration.pretraining import PretrainingRecipe
from configuration.recipe_file import RecipeError

MINIMAL = {"model": "demo", "corpus": "stdlib", "tokens_per_step": "4096", "output_dir": "runs/x"}


def test_several_corpora_are_a_list_in_yaml_and_on_the_command_line(tmp_path):
    recipe = PretrainingRecipe.load(
        None, MINIMAL | {"corpus": "[/x/en/texts, /x/de/texts]", "corpus_weights": "[3, 1]"}
    )
    assert recipe.data.corpora == ["/x/en/texts", "/x/de/texts"]
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe.dump())
    assert yaml.safe_load(file.read_text())["corpus"] == ["texts", "texts"]  # no absolute path
    assert recipe.differences(file) == ({}, [])
    assert PretrainingRecipe.load(None, MINIMAL).data.corpora == ["stdlib"]


@pytest.mark.parametrize(
    ("fields", "problems"),
    [
        ({"corpus": "[]"}, ["corpus is empty"]),
        ({"corpus": "[a, ' ']"}, ["corpus has an empty name in it"]),
        ({"corpus": "[a, 5]"}, ["corpus is '[a, 5]' (str), but must be str or list[str]"]),
        ({"corpus_weights": "[1, 0]"}, ["corpus_weights is [1.0, 0.0], but must be positive numbers"]),
        ({"corpus_weights": "[]"}, ["corpus_weights is [], but must be positive numbers"]),
        (
            {"corpus": "[hf:a/b, hf:c/d, e]", "dataset_revision": "main", "corpus_weights": "[1, 2]"},
            [
                "dataset_revision is main, but corpus names several datasets on the Hub, which do not share one",
                "corpus_weights has 2 numbers, but corpus names 3",
            ],
        ),
    ],
    ids=str,
)
def test_what_does_not_fit_together_is_refused(fields, problems):
    with pytest.raises(RecipeError) as raised:
        PretrainingRecipe.load(None, MINIMAL | fields)
    assert str(raised.value).splitlines() == problems
