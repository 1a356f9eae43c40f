"""`python -m training tokenize RECIPE.yaml [--field value ...]`: the token shards of a run, prepared beforehand."""

import argparse
import time
from collections.abc import Collection
from typing import Any

from configuration.recipe import Recipe, add_recipe_arguments, parse_recipe_arguments

from .data.preparation import add_verify_argument, prepare_shards
from .data.shards import TokenShards
from .errors import InputError
from .run.folder import RunFolder, add_resume_arguments, allowed_changes


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training tokenize",
        usage="%(prog)s [RECIPE.yaml] [--field value ...] [--verify_data]",
        description=__doc__,
        allow_abbrev=False,
    )
    add_verify_argument(parser)
    add_recipe_arguments(parser)
    add_resume_arguments(parser)  # to take the command line of a run, although the data is the same for every --resume
    recipe, options = parse_recipe_arguments(parser, argv)
    tokenize(recipe, options.verify_data, allowed_changes(options))
    return 0


def tokenize(recipe: Recipe, verify: bool, allowed: Collection[str] = ()) -> TokenShards:
    """Prepares what `pretrain` would with the same recipe, and says what there is.

    Args:
        verify: whether to compare the prepared data's sha256 with what was written.
        allowed: groups of the recipe that may differ from what a run in its `output_dir` began with.

    Raises:
        InputError: the corpus, the tokenizer or the prepared data cannot be used.
    """
    started_at = time.perf_counter()
    window = recipe.model.max_position_embeddings
    begun_on = _begun_on(recipe, allowed)
    prepared = prepare_shards(recipe.run, recipe.model.vocab_size, window, print, verify, begun_on)
    seconds = time.perf_counter() - started_at
    for part, counts in prepared.manifest["parts"].items():
        print(
            f"{part}: {counts['tokens']:,} tokens, {counts['utf8_bytes']:,} bytes of text, "
            f"{len(counts['shards'])} shards"
        )
    print(f"{prepared.folder}, after {seconds:,.1f} s")
    return prepared


def _begun_on(recipe: Recipe, allowed: Collection[str]) -> dict[str, Any] | None:
    """The data of the run in `output_dir`; `None` where there is no run of this recipe."""
    try:
        return RunFolder(recipe, allowed).begun_on()
    except InputError:
        return None
