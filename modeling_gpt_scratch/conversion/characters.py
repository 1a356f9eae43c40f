"""
Tokenizers whose tokens are characters: of a text, or of the `meta.pkl` that nanoGPT writes beside its data.

They are a byte-pair encoding without a single merge, which any version of the library opens.
"""

import io
import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from .checks import ConversionError

END_OF_TEXT = "<|endoftext|>"
# A token of its own: with padding = end of text the library's collator would hide every end from the loss, and a
# fine-tuned model would never stop.
PAD = "<|pad|>"
UNKNOWN = "<|unknown|>"
LARGEST_META = 2**24  # bytes; there are a million characters


def character_tokenizer(characters: Sequence[str], *, special_tokens: bool) -> PreTrainedTokenizerFast:
    """A tokenizer with a token for each character, which decodes to the same text.

    Args:
        characters: their ids are their places.
        special_tokens: whether the end of text, padding and whatever is none of the characters get ids after them. A
            trained model whose vocabulary has no such tokens must do without: other characters are left out then.
    """
    special = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "pad_token": PAD, "unk_token": UNKNOWN}
    tokens = [*characters, *(dict.fromkeys(special.values()) if special_tokens else ())]
    ids = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(ids, [], unk_token=UNKNOWN if special_tokens else None, fuse_unk=False))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        padding_side="left",  # prompts of a batch must end where they are continued
        clean_up_tokenization_spaces=False,
        **(special if special_tokens else {}),
    )


def is_character_tokenizer(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether its tokens are characters, but for the special ones."""
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return all(len(token) == 1 for token in tokenizer.get_vocab().keys() - special)


def read_characters(file: Path) -> list[str]:
    """The characters of nanoGPT's `meta.pkl`, or of the same as JSON, in the order of their ids.

    Raises:
        `ConversionError`: it is no such file, or holds anything but plain strings, numbers and dictionaries; nothing
            in it runs.
    """
    expected = "expected nanoGPT's meta.pkl, or the same as JSON: `stoi`, which numbers single characters from 0"
    try:
        if file.stat().st_size > LARGEST_META:
            raise ValueError(f"it is larger than {LARGEST_META:,} bytes")
        content = file.read_bytes()
        is_json = content.lstrip().startswith(b"{")
        meta = json.loads(content) if is_json else _PlainUnpickler(io.BytesIO(content)).load()
    except Exception as error:  # a damaged pickle raises almost anything
        raise ConversionError(f"{file} holds no characters ({error}): {expected}") from error
    ids = meta.get("stoi") if isinstance(meta, dict) else None
    if not isinstance(ids, dict) or not ids:
        raise ConversionError(f"{file} holds no characters (it has no `stoi`): {expected}")
    if any(type(character) is not str or not _is_character(character) for character in ids) or any(
        type(index) is not int for index in ids.values()
    ):
        raise ConversionError(f"{file} numbers something else than single characters: {expected}")
    characters = sorted(ids, key=ids.get)
    if [ids[character] for character in characters] != list(range(len(ids))):
        raise ConversionError(f"{file} has numbers twice, or leaves some out: {expected}")
    back = meta.get("itos", dict(enumerate(characters)))
    if not isinstance(back, dict) or (
        [back.get(index, back.get(str(index))) for index in range(len(back))] != characters  # JSON has no other keys
    ):
        raise ConversionError(f"{file} contradicts itself: `itos` is not `stoi` the other way round")
    return characters


def _is_character(text: str) -> bool:
    """Whether it is one, and no half of a surrogate pair."""
    return len(text) == 1 and not "\ud800" <= text <= "\udfff"


class _PlainUnpickler(pickle.Unpickler):
    """Reads strings, numbers and containers of them. All else in a pickle begins with something that is looked up."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it wants to call {module}.{name}, which is not done")

    def persistent_load(self, reference: Any) -> NoReturn:
        raise pickle.UnpicklingError("it points to something outside of it")
