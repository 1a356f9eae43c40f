"""
An existing tokenizer, as training uses it: documents are encoded without anything around them and joined by the end of
text. Whoever opens the saved model gets a tokenizer that does the same, not one that begins or ends a prompt otherwise.
"""

import re
from collections.abc import Callable

from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from ..errors import InputError

KEPT = ("model_max_length", "padding_side", "truncation_side", "clean_up_tokenization_spaces", "chat_template")
CANDIDATES = 8
PROBE = "aA0."  # of which every vocabulary has something


def adopt(
    tokenizer: PreTrainedTokenizerFast, name: str, eos_token: str | None, say: Callable[[str], None]
) -> PreTrainedTokenizerFast:
    """The tokenizer itself where a prompt is already encoded as training encodes, else one that does so.

    What it adds to a text is left out, except for an end of text before it, with which documents begin; and the end of
    text is what begins one (`bos_token`).

    Args:
        name: as the recipe calls it.
        eos_token: the token that is to separate documents; `None` means the tokenizer's own.
        say: told of each change, in a line.

    Raises:
        InputError: there is no such token, or `eos_token` would be found in text.
    """
    end = _end_of_text(tokenizer, name, eos_token)
    core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    before, after = _added(core)
    adds_more = bool(after) or before not in ([], [end])
    if not adds_more and tokenizer.eos_token == tokenizer.bos_token == end:
        return tokenizer
    if adds_more:
        say(
            f"tokenizer {name} makes {' '.join([*before, 'TEXT', *after])} of a text, but training reads plain text "
            f"between {end} and {end}: the saved tokenizer adds nothing, and its bos_token is {end}"
        )
        core.post_processor = TemplateProcessing(single="$A", pair="$A $B")
    elif tokenizer.bos_token not in (None, end):
        say(
            f"tokenizer {name} has the bos_token {tokenizer.bos_token}, but documents begin with {end} here: so does "
            "the saved one"
        )
    if tokenizer.chat_template is not None:
        say(f"tokenizer {name} has a chat template, which is saved with the model, though training does not use it")
    # Of the general class: others make their template anew when they are loaded.
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        **{setting: getattr(tokenizer, setting) for setting in KEPT},
        **{**tokenizer.special_tokens_map, "bos_token": end, "eos_token": end},
    )


def _end_of_text(tokenizer: PreTrainedTokenizerFast, name: str, asked: str | None) -> str:
    if asked is None:
        if tokenizer.eos_token_id is None:
            raise InputError(
                f"tokenizer {name} has no end-of-text token, which separates documents: name one of its tokens with "
                f"eos_token{_candidates(tokenizer)}"
            )
        return tokenizer.eos_token
    if asked not in tokenizer.get_vocab():
        raise InputError(f"eos_token is {asked!r}, which tokenizer {name} does not have{_candidates(tokenizer)}")
    if not _stands_outside_text(tokenizer, asked):
        raise InputError(
            f"eos_token is {asked!r}, which tokenizer {name} makes of such text too, where the text would seem to end: "
            f"name another, or make it a special token{_candidates(tokenizer)}"
        )
    return asked


def _stands_outside_text(tokenizer: PreTrainedTokenizerFast, token: str) -> bool:
    return token in _special(tokenizer) or token not in tokenizer.tokenize(token)


def _special(tokenizer: PreTrainedTokenizerFast) -> set[str]:
    return {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}


def _candidates(tokenizer: PreTrainedTokenizerFast) -> str:
    """The tokens that could end a text, in words: special ones and such as look so, likely ones first."""
    looks_special = re.compile(r"<(?!0x)[^<>\s]+>|\[[A-Z]+\]")
    found = _special(tokenizer) | {token for token in tokenizer.get_vocab() if looks_special.fullmatch(token)}
    found = {token for token in found if _stands_outside_text(tokenizer, token)}
    likely = re.compile(r"/s|end|eo[st]|sep", re.IGNORECASE)
    ordered = sorted(found, key=lambda token: (likely.search(token) is None, token))[:CANDIDATES]
    return f" (likely ones: {', '.join(ordered)})" if ordered else " (none of its tokens looks like one)"


def _added(core: Tokenizer) -> tuple[list[str], list[str]]:
    """The tokens that are put before and after a text."""
    encoding = core.encode(PROBE, add_special_tokens=True)
    is_added = [bool(added) for added in encoding.special_tokens_mask]
    start = is_added.index(False) if False in is_added else len(is_added)
    rest = zip(encoding.tokens[start:], is_added[start:], strict=True)
    return encoding.tokens[:start], [token for token, added in rest if added]
