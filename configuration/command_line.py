"""Recipes on a command line: RECIPE.yaml and `--field value`."""

import argparse
from pathlib import Path
from typing import TypeVar

from .fields import members
from .recipe import TRAINING, Recipe
from .recipe_file import RecipeError

AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)
EXPLAINED_IN = {
    "model": "modeling_gpt_scratch/configuration_gpt_scratch.py explains these",
    TRAINING: "transformers.TrainingArguments",
}


def add_recipe_arguments(parser: argparse.ArgumentParser, recipe_class: type[Recipe]) -> None:
    """Adds RECIPE and one `--field` for each setting; [`parse_recipe_arguments`] reads them back."""
    parser.add_argument("recipe", nargs="?", type=Path, metavar="RECIPE.yaml", help="the run's settings")
    declarations = recipe_class.declarations()
    for part, fields in recipe_class.parts().items():
        group = parser.add_argument_group(f"{part} ({EXPLAINED_IN[part]})" if part in EXPLAINED_IN else part)
        for name, annotation in fields.items():
            group.add_argument(
                f"--{name}",
                # `--shuffle` alone means true.
                **({"nargs": "?", "const": "true"} if bool in members(annotation) else {}),
                default=argparse.SUPPRESS,
                metavar="VALUE",
                help=" ".join(declarations[name].metadata.get("help", "").split()).replace("%", "%%"),
            )


def parse_recipe_arguments(
    parser: argparse.ArgumentParser, recipe_class: type[AnyRecipe], argv: list[str]
) -> tuple[AnyRecipe, argparse.Namespace]:
    """Parses a command line made by [`add_recipe_arguments`] and loads its recipe.

    Returns:
        The recipe, and all that was parsed, for the options that a program has beside it.

    Raises:
        RecipeError: also for options that are no setting, with a suggestion.
    """
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        options = [text.removeprefix("--").split("=")[0] for text in unknown if text.startswith("-")]
        problems = "\n".join(map(recipe_class.problem_of_unknown, options))
        raise RecipeError(problems or f"{unknown[0]} is neither a recipe nor an option")
    overrides = {name: text for name, text in vars(arguments).items() if name in recipe_class.settings()}
    return recipe_class.load(arguments.recipe, overrides), arguments
