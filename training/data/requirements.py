"""What a recipe and its prepared data must agree on, checked before anything is made of either."""

from collections.abc import Callable
from typing import Any

from transformers import PreTrainedTokenizerFast

from configuration.data import DataConfig
from modeling_gpt_scratch.conversion.characters import is_character_tokenizer
from modeling_gpt_scratch.conversion.tokenizer import vocabulary_size

from ..errors import InputError, UnavailableError
from .shards import TokenShards
from .split import SPLITS
from .tokenizer import load_tokenizer, tokenizer_sha256


def check_vocabulary(
    config: DataConfig, tokenizer: PreTrainedTokenizerFast, vocab_size: int, say: Callable[[str], None]
) -> None:
    """Raises InputError where the tokenizer has ids that the model has not; says where the model has its size.

    Args:
        vocab_size: the recipe's, which is the model's only where the recipe names an existing tokenizer.
    """
    tokens = vocabulary_size(tokenizer)
    if config.tokenizer == "characters":  # of which there are as many as the text has
        say(f"the tokenizer has {tokens:,} tokens, special ones and one for each character: so has the model")
    elif tokens > vocab_size:
        gaps = "" if tokens == len(tokenizer) else f", whose ids go up to {tokens - 1:,}"
        raise InputError(
            f"the tokenizer has {len(tokenizer):,} tokens{gaps}, but vocab_size is {vocab_size:,}: "
            f"set vocab_size to {tokens} or more"
        )
    elif config.makes_tokenizer and tokens < vocab_size:
        say(
            f"vocab_size is {vocab_size:,}, but the tokenizer has {tokens:,} tokens: so has the model "
            "(pad_vocab_to_multiple_of makes it larger)"
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


def check_settings(config: DataConfig, prepared: TokenShards, say: Callable[[str], None]) -> None:
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
    if config.tokenizer == "characters":
        if not is_character_tokenizer(prepared.tokenizer):
            problems.append("tokenizer is characters, but was another one")
    elif config.tokenizer != "train":  # which is what a recipe says that says nothing
        try:
            tokenizer = load_tokenizer(config.tokenizer, config.eos_token, say)
            if tokenizer_sha256(tokenizer) != manifest["tokenizer"]["sha256"]:
                problems.append(f"tokenizer is {config.tokenizer}, but was another one")
            elif tokenizer.eos_token != prepared.tokenizer.eos_token:
                problems.append(f"eos_token is {tokenizer.eos_token}, but was {prepared.tokenizer.eos_token}")
        except UnavailableError as error:
            say(f"{error}: going on with the one in {prepared.folder}")
    if problems:
        raise InputError(
            f"corpus {config.corpus} was prepared otherwise: {'; '.join(problems)}: leave that out of the recipe, or "
            "name the text itself as corpus, to prepare it anew"
        )
