"""The command line that every program has: its recipe, and what it does with a run that has begun."""

import argparse

from transformers import logging

from configuration.command_line import add_recipe_arguments, parse_recipe_arguments
from configuration.recipe import Recipe

from .fingerprint import Groups
from .program import Program


def program_parser(program_class: type[Program], command: str, description: str) -> argparse.ArgumentParser:
    """A parser of `COMMAND [RECIPE.yaml] [--field value ...]`; a program may add options of its own.

    Args:
        program_class: whose recipe it reads, also for a command that only prepares a run of it.
    """
    parser = argparse.ArgumentParser(
        prog=command,
        usage="%(prog)s [RECIPE.yaml] [--field value ...]",  # a list of all fields would hide an error's last line
        description=description,
        allow_abbrev=False,
    )
    add_recipe_arguments(parser, program_class.recipe_class)
    add_resume_arguments(parser, program_class.groups())
    return parser


def add_resume_arguments(parser: argparse.ArgumentParser, groups: Groups) -> None:
    parser.add_argument(
        "--resume",
        default="auto",
        metavar="auto|never|CHECKPOINT",
        help="auto: go on from the newest whole checkpoint, if there is one; never: refuse to; or a checkpoint's path "
        "(default: auto)",
    )
    parser.add_argument(
        "--allow_changed",
        default="",
        metavar="GROUP,...",
        help=f"let a run go on although its recipe has changed in these groups: {', '.join(groups.allowable)}",
    )


def read_command(
    parser: argparse.ArgumentParser, program_class: type[Program], argv: list[str]
) -> tuple[Recipe, list[str], argparse.Namespace]:
    """Parses a command line made by [`program_parser`].

    Returns:
        The recipe; the groups in which a run may differ from what it began with; and all options.

    Raises:
        InputError, RecipeError: something in it is no option, or has a value that it cannot have.
    """
    logging.disable_progress_bar()  # a bar for each checkpoint's file would tear the run's own
    recipe, options = parse_recipe_arguments(parser, program_class.recipe_class, argv)
    return recipe, program_class.groups().allowed(options.allow_changed), options
