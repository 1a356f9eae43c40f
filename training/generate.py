"""`python -m training generate MODEL --prompt "..."`: continue prompts, printed as they are written."""

import argparse
import sys
from collections.abc import Iterator

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TextStreamer, logging, set_seed

from .errors import InputError
from .loading import first_token, load_for_generation

DEFAULT_NEW_TOKENS = 200


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training generate",
        usage="%(prog)s MODEL [--prompt TEXT ...] [--option value ...]",
        description=__doc__,
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="MODEL", help="a model folder or a Hub name")
    parser.add_argument(
        "--prompt", action="append", help="text to continue; may be given again; without it, lines of standard input"
    )
    parser.add_argument(
        "--temperature", type=_number(0), default=0.8, help="0: always the likeliest token (default 0.8)"
    )
    parser.add_argument("--top_k", type=_count, default=0, help="sample among so many likeliest tokens (default: all)")
    parser.add_argument(
        "--top_p", type=_number(0, 1), default=1.0, help="sample among the likeliest tokens of this total probability"
    )
    parser.add_argument(
        "--max_new_tokens", type=_count, help=f"default {DEFAULT_NEW_TOKENS}, or what the model has room for"
    )
    parser.add_argument("--seed", type=_seed, help="for the same text again; counts for each prompt anew")
    arguments = parser.parse_args(argv)

    logging.disable_progress_bar()
    model, tokenizer = load_for_generation(arguments.model)
    sampling = {"do_sample": False}
    if arguments.temperature > 0:
        sampling = {name: getattr(arguments, name) for name in ("temperature", "top_k", "top_p")} | {"do_sample": True}
    for prompt in _prompts(arguments.prompt):
        continue_prompt(model, tokenizer, prompt, arguments.max_new_tokens, arguments.seed, sampling)
    return 0


def _prompts(given: list[str] | None) -> Iterator[str]:
    """Those given, else lines of standard input. Raises InputError at one that is in another encoding."""
    try:
        for prompt in given or (line.rstrip("\n") for line in sys.stdin):
            prompt.encode()  # what the shell could not read as text would be no text for a tokenizer either
            yield prompt
    except UnicodeError:
        raise InputError("a prompt has bytes that are no text in this terminal's encoding: write it in UTF-8") from None


def _number(low: float, high: float = float("inf")):
    def number(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not between {low} and {high}")
        return value

    return number


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 2^32 - 1")
    return value


def continue_prompt(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    max_new_tokens: int | None,
    seed: int | None,
    sampling: dict,
) -> None:
    """Prints a prompt and its continuation, word by word.

    Raises:
        InputError: there is nothing to continue, or prompt and new tokens together are longer than the model.
    """
    ids = tokenizer(prompt)["input_ids"] or [first_token(tokenizer, prompt)]
    inputs = {"input_ids": torch.tensor([ids], device=model.device)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    length = len(ids)
    limit = model.config.max_position_embeddings
    room = limit - length
    if room < 1:
        raise InputError(f"the prompt has {length} tokens, but the model holds {limit}, the new ones included")
    if max_new_tokens is not None and max_new_tokens > room:
        raise InputError(f"max_new_tokens is {max_new_tokens}, but after {length} tokens of prompt {room} are left")
    if seed is not None:
        set_seed(seed)
    streamer = TextStreamer(tokenizer, skip_special_tokens=True)
    max_length = length + (max_new_tokens or min(DEFAULT_NEW_TOKENS, room))
    model.generate(**inputs, max_length=max_length, streamer=streamer, **sampling)
