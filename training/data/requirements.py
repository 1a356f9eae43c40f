"""What a recipe and its prepared data must agree on, checked before anything is made of either."""

from collections.abc import Callable
from typing import Any

from transformers import PreTrainedTokenizerFast

from configuration.data import DataConfig

from ..errors import InputError, UnavailableError
from .shards import TokenShards
from .split import SPLITS
from .tokenizer import load_tokenizer, tokenizer_sha256


def check_vocabulary(tokenizer: PreTrainedTokenizerFast, vocab_size: int) -> None:
    """Raises InputError where the tokenizer has ids that the model has not."""
    if len(tokenizer) > vocab_size:
        raise InputError(
            f"the tokenizer has {len(tokenizer):,} tokens, but vocab_size is {vocab_size:,}: "
            f"set vocab_size to {len(tokenizer)} or more"
        )


def check_parts(parts: dict[str, Any], window: int) -> None:
    """Raises InputError where a part is too short to train or measure on."""
    if parts["train"]["tokens"] <= window:
        raise InputError(
            f"the training part has {parts['train']['tokens']} tokens, less than one window of {window + 1}: "
            "use more text, or a smaller max_position_embeddings"
        )
    for part in SPLITS[1:]:
        if parts[part]["tokens"] < 2:  # the end of text that each part begins with, and something to predict
            raise InputError(f"the {part} part of the corpus is empty: use more text or other split_fractions")


def check_settings(config: DataConfig, prepared: TokenShards, vocab_size: int, say: Callable[[str], None]) -> None:
    """Raises InputError where a recipe names prepared data as its corpus, and asks for something else than that is."""
    manifest = prepared.manifest
    then = {
        "split": manifest["split"]["kind"],
        "split_fractions": manifest["split"].get("fractions"),
        "deduplicate": "duplicates_left_out" in manifest["corpus"],
    }
    problems = [
        f"{name} is {getattr(config, name)}, but was {value}"
        for name, value in then.items()
        if getattr(config, name) not in ("auto", None, False, value)
    ]
    tokens = len(prepared.tokenizer)
    if config.tokenizer == "train":
        if tokens < vocab_size:  # more are refused for any corpus
            say(f"vocab_size is {vocab_size:,}, but the tokenizer in {prepared.folder} has {tokens:,} tokens")
    else:
        try:
            if tokenizer_sha256(load_tokenizer(config.tokenizer)) != manifest["tokenizer"]["sha256"]:
                problems.append(f"tokenizer is {config.tokenizer}, but was another one")
        except UnavailableError as error:
            say(f"{error}: going on with the one in {prepared.folder}")
    if problems:
        raise InputError(
            f"corpus {config.corpus} was prepared otherwise: {'; '.join(problems)}: leave that out of the recipe, or "
            "name the text itself as corpus, to prepare it anew"
        )
