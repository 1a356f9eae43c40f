"""
A byte-level BPE tokenizer as GPT-2's class.

The library's own name for a tokenizer without a class of its own (`TokenizersBackend`) is unknown to releases before 5
and to engines such as CTranslate2. They all know `GPT2Tokenizer`, which is the same code around the same files.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import AutoTokenizer, GPT2Tokenizer, PreTrainedTokenizerBase

from .byte_level import HARD_TEXTS, other_rules

SPECIAL = ("bos_token", "eos_token", "pad_token")
SETTINGS = (*SPECIAL, "padding_side", "truncation_side", "model_max_length", "chat_template")


def as_gpt2_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase | None:
    """The same tokenizer in GPT-2's class; `None` where that class would not be the same."""
    if not tokenizer.is_fast or any(other_rules(json.loads(tokenizer.backend_tokenizer.to_str()))):
        return None
    with TemporaryDirectory() as before, TemporaryDirectory() as after:
        tokenizer.save_pretrained(before)
        # Said one by one: the class takes its own <|endoftext|> for those that are not. Bytes are never unknown, but
        # CTranslate2 wants a name for what would be; GPT-2's is its end of text.
        named = {name: getattr(tokenizer, name) for name in SPECIAL}
        named["unk_token"] = tokenizer.unk_token or tokenizer.eos_token
        changed = GPT2Tokenizer.from_pretrained(before, **named)
        changed.save_pretrained(after)
        return changed if _same(tokenizer, AutoTokenizer.from_pretrained(Path(after))) else None


def _same(first: PreTrainedTokenizerBase, second: PreTrainedTokenizerBase) -> bool:
    texts = ["", *HARD_TEXTS, *(f"a{token} {token}" for token in first.all_special_tokens)]
    encoded, again = first(texts)["input_ids"], second(texts)["input_ids"]
    return (
        all(getattr(first, name) == getattr(second, name) for name in SETTINGS)
        and encoded == again
        and first.batch_decode(encoded) == second.batch_decode(again)
        and first.get_vocab() == second.get_vocab()
    )
