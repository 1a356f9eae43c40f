"""`python -m training tokenize RECIPE.yaml [--field value ...]`: the token shards of a run, prepared beforehand."""

import argparse
import time

from configuration.recipe import Recipe, add_recipe_arguments, parse_recipe_arguments

from .preparation import add_verify_argument, prepare_shards
from .shards import TokenShards


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training tokenize",
        usage="%(prog)s [RECIPE.yaml] [--field value ...] [--verify_data]",
        description=__doc__,
        allow_abbrev=False,
    )
    add_verify_argument(parser)
    add_recipe_arguments(parser)
    recipe, options = parse_recipe_arguments(parser, argv)
    tokenize(recipe, verify=options.verify_data)
    return 0


def tokenize(recipe: Recipe, verify: bool) -> TokenShards:
    """Prepares what `pretrain` would with the same recipe, and says what there is.

    Raises:
        InputError: the corpus, the tokenizer or the prepared data cannot be used.
    """
    started_at = time.perf_counter()
    window = recipe.model.max_position_embeddings
    prepared = prepare_shards(recipe.run, recipe.model.vocab_size, window, say=print, verify=verify)
    seconds = time.perf_counter() - started_at
    for part, counts in prepared.manifest["parts"].items():
        print(
            f"{part}: {counts['tokens']:,} tokens, {counts['utf8_bytes']:,} bytes of text, "
            f"{len(counts['shards'])} shards"
        )
    print(f"{prepared.folder}, after {seconds:,.1f} s")
    return prepared
