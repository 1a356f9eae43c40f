"""Paths in a recipe: what a person types, and what the records say."""

import pytest

from configuration.pretraining import PretrainingRecipe
from configuration.recipe_file import RecipeError

MINIMAL = {"model": "demo", "corpus": "stdlib", "tokens_per_step": "4096", "output_dir": "runs/x"}


def test_a_tilde_is_the_home_folder_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "jane"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "jane"))
    file = tmp_path / "recipe.yaml"
    file.write_text("data_dir: ~/data\ntokenizer: ~/gpt2\noutput_dir: runs/~a\ntext_field: ~/x\n")
    recipe = PretrainingRecipe.load(file, MINIMAL | {"corpus": "~/books/*.txt", "output_dir": "~/run"})
    home = f"{tmp_path}/jane"
    assert (recipe.data.corpus, recipe.data.data_dir) == (f"{home}/books/*.txt", f"{home}/data")
    assert (recipe.data.tokenizer, recipe.training["output_dir"]) == (f"{home}/gpt2", f"{home}/run")
    assert recipe.data.text_field == "~/x"
    assert (recipe.as_dict()["output_dir"], recipe.as_dict()["data_dir"]) == ("run", "data")
    assert PretrainingRecipe.load(file, MINIMAL | {"output_dir": "runs/~a"}).training["output_dir"] == "runs/~a"
    monkeypatch.chdir(tmp_path)
    assert recipe.as_dict()["corpus"] == "jane/books/*.txt"


@pytest.mark.parametrize(
    ("name", "text"), [("corpus", "a\udcff.txt"), ("corpus", "[a, b\udcff]"), ("output_dir", "\udcff")]
)
def test_a_name_that_is_no_text_is_refused_at_once(name, text):
    with pytest.raises(RecipeError, match=f"{name} is .*udcff.*, which is no text in UTF-8"):
        PretrainingRecipe.load(None, MINIMAL | {name: text})
