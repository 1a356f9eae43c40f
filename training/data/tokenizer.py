"""
The tokenizer of a run: a byte-level BPE trained on its text (Sennrich et al., 2016; bytes as in GPT-2, 2019), the
characters of that text, or any existing one.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from modeling_gpt_scratch.conversion.characters import END_OF_TEXT, PAD, character_tokenizer, read_characters
from modeling_gpt_scratch.conversion.checks import ConversionError
from modeling_gpt_scratch.conversion.tokenizer import vocabulary_size

from ..errors import InputError, UnavailableError
from ..loading import check_name
from .adoption import adopt

BYTE_VALUES = 256


def train_tokenizer(texts: Iterator[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE, which encodes any text and decodes to the same text.

    Args:
        texts: the training text, in pieces.
        vocab_size: number of tokens, the 256 bytes and 2 special ones among them. Text that is too short for so many
            merges gives fewer.

    Raises:
        InputError: `vocab_size` leaves no room for the bytes and the special tokens.
    """
    smallest = BYTE_VALUES + 2
    if vocab_size < smallest:
        raise InputError(f"vocab_size is {vocab_size}, but a byte-level tokenizer has at least {smallest} tokens")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=PAD,
        padding_side="left",  # prompts of a batch must end where they are continued
        clean_up_tokenization_spaces=False,
    )


def tokenizer_of_characters(texts: Iterator[str]) -> PreTrainedTokenizerFast:
    """A token for each character of the training text, in the order of Unicode."""
    return character_tokenizer(sorted(set().union(*texts)), special_tokens=True)


def load_tokenizer(
    name: str, eos_token: str | None = None, say: Callable[[str], None] = lambda line: None
) -> PreTrainedTokenizerFast:
    """An existing tokenizer by folder or Hub name, or the characters of nanoGPT's `meta.pkl`, as training uses it.

    Args:
        eos_token: the token that separates documents; `None` means the tokenizer's own.
        say: told what the tokenizer did otherwise (`adoption`), in lines.

    Raises:
        UnavailableError: nothing loads under that name.
        InputError: it has no end-of-text token or no fast implementation.
    """
    check_name(name)
    tokenizer = _load_characters(Path(name)) if Path(name).is_file() else _load_library_tokenizer(name)
    return adopt(tokenizer, name, eos_token, say)


def _load_characters(file: Path) -> PreTrainedTokenizerFast:
    try:
        return character_tokenizer(read_characters(file), special_tokens=True)
    except ConversionError as error:
        raise InputError(str(error)) from None


def _load_library_tokenizer(name: str) -> PreTrainedTokenizerFast:
    try:
        # False, so that the library does not ask at the terminal: our own model type is registered, and a tokenizer
        # needs no other code.
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UnavailableError(f"tokenizer {name} cannot be loaded: {str(error).strip().splitlines()[0]}") from None
    if not tokenizer.is_fast:
        raise InputError(f"tokenizer {name} has no fast (tokenizers library) implementation")
    return tokenizer


def encoder(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """A copy of the tokenizer's core for plain text: what spells a special token is text, and nothing is added."""
    core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    core.encode_special_tokens = True
    core.no_truncation()
    core.no_padding()
    return core


def tokenizer_sha256(tokenizer: PreTrainedTokenizerFast) -> str:
    """Identifies what a tokenizer does to text. Settings of the wrapper, such as its maximum length, do not count."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()


def tokenizer_identity(tokenizer: PreTrainedTokenizerFast) -> list[str | int | None]:
    """What prepared data takes over from a tokenizer: what it does to text, and its special tokens."""
    return [tokenizer_sha256(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]


def ids_dtype(tokenizer: PreTrainedTokenizerFast) -> str:
    """The smaller of the two types that token ids are stored in, if it holds them all."""
    return "uint16" if vocabulary_size(tokenizer) <= 2**16 else "uint32"
