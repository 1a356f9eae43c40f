"""`python -m training tokenize RECIPE.yaml [--field value ...]`: the token shards of a run, prepared beforehand."""

import time
from collections.abc import Collection
from typing import Any

from configuration.pretraining import PretrainingRecipe

from .data.preparation import add_verify_argument, prepare_shards
from .data.shards import TokenShards
from .errors import InputError
from .pretrain import Pretraining
from .run.command import program_parser, read_command
from .run.folder import RunFolder


def main(argv: list[str]) -> int:
    # It takes the command line of a run, although the data is the same for every --resume.
    parser = program_parser(Pretraining, "python -m training tokenize", __doc__)
    add_verify_argument(parser)
    recipe, allowed, options = read_command(parser, Pretraining, argv)
    tokenize(recipe, options.verify_data, allowed)
    return 0


def tokenize(recipe: PretrainingRecipe, verify: bool, allowed: Collection[str] = ()) -> TokenShards:
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
    prepared = prepare_shards(recipe.data, recipe.model.vocab_size, window, print, verify, begun_on)
    seconds = time.perf_counter() - started_at
    names = [corpus["corpus"] for corpus in prepared.manifest["corpus"].get("corpora", [])]
    for part, counts in prepared.manifest["parts"].items():
        of_each = zip(names, counts.get("corpora", []), strict=True)
        each = ", ".join(f"{name} {part_of_it['tokens']:,}" for name, part_of_it in of_each)
        print(
            f"{part}: {counts['tokens']:,} tokens{f' ({each})' if each else ''}, "
            f"{counts['utf8_bytes']:,} bytes of text, {len(counts['shards'])} shards"
        )
    print(f"{prepared.folder}, after {seconds:,.1f} s")
    return prepared


def _begun_on(recipe: PretrainingRecipe, allowed: Collection[str]) -> dict[str, Any] | None:
    """The data of the run in `output_dir`; `None` where there is no run of this recipe."""
    try:
        return RunFolder(Pretraining(recipe), allowed).begun_on()
    except InputError:
        return None
