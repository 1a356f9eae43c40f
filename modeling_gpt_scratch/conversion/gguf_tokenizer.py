"""
A tokenizer as a GGUF file holds it, for llama.cpp's rules named "gpt-2".

llama.cpp knows no tokenizer.json. It has a list of ways to cut text into words, and recognises which one a model needs
by a hash of what its tokenizer makes of a text, so that its own converter refuses every vocabulary that it has not
seen. The way "gpt-2" is that of every byte-level BPE without further rules, whatever its vocabulary.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase

from .byte_level import HARD_TEXTS, other_rules
from .checks import ConversionError

# What to do about a tokenizer of another kind.
_ADVICE = (
    "so llama.cpp would cut text in another way than the model has learned: train with a byte-level tokenizer (the "
    "default of pretrain), or use an engine that reads tokenizer.json (vLLM, `python -m training serve`)"
)


def tokenizer_problems(tokenizer: PreTrainedTokenizerBase | None, vocab_size: int) -> Iterator[str]:
    """Why llama.cpp would cut text in another way, and what to do."""
    if tokenizer is None:
        yield "it has no tokenizer, which the file must hold: add one with --tokenizer FOLDER_OR_NAME"
        return
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        yield f"its tokenizer {type(tokenizer).__name__} is no byte-level BPE of the tokenizers library, {_ADVICE}"
        return
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    rules = list(other_rules(core))
    if rules:
        yield f"its tokenizer is no plain byte-level BPE as GPT-2's is ({', '.join(rules)}), {_ADVICE}"
        return
    if tokenizer.eos_token_id is None:
        yield (
            "its tokenizer has no end-of-text token, for which llama.cpp then takes the token 11: name one, "
            "tokenizer.eos_token = ..., and save it"
        )
    greedy = [repr(token["content"]) for token in core["added_tokens"] if _takes_neighbours(token)]
    if greedy:
        yield (
            f"its added tokens {', '.join(greedy[:3])} swallow spaces or stand as whole words alone, which llama.cpp "
            "does not know: add them without lstrip, rstrip and single_word"
        )
    highest = max(tokenizer.get_vocab().values())
    if highest >= vocab_size:
        yield (
            f"its tokenizer has the id {highest}, but the model's vocabulary is {vocab_size}: name the one that it was "
            "trained with by --tokenizer"
        )
    start, end = _added(tokenizer)
    if start not in ([], [tokenizer.bos_token_id]) or end not in ([], [tokenizer.eos_token_id]):
        yield (
            f"its tokenizer puts the ids {start} before a text and {end} after it, but llama.cpp at most bos and eos: "
            "take that out of its post_processor"
        )


def _takes_neighbours(token: dict) -> bool:
    return token["lstrip"] or token["rstrip"] or token["single_word"]


def _encode(core: Tokenizer, text: str, whole: bool = True) -> list[int]:
    return core.encode(text, add_special_tokens=whole).ids


def _core(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """A copy of the tokenizer without a limit on the length."""
    core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    core.no_truncation()
    core.no_padding()
    return core


def _added(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The ids that it puts before and after a text."""
    core = _core(tokenizer)
    plain, whole = _encode(core, "a", whole=False), _encode(core, "a")
    start = next(i for i in range(len(whole)) if whole[i : i + len(plain)] == plain)
    return whole[:start], whole[start + len(plain) :]


def write_tokenizer(writer: "gguf.GGUFWriter", tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> None:  # noqa: F821
    """Adds the tokenizer to a file; tokens that only the model has become unused ones."""
    from gguf import TokenType

    by_id = {token_id: token for token, token_id in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder

    def kind_of(token_id: int) -> int:
        if token_id in added:
            return TokenType.CONTROL if added[token_id].special else TokenType.USER_DEFINED
        return TokenType.NORMAL if token_id in by_id else TokenType.UNUSED

    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([by_id.get(token_id, f"[PAD{token_id}]") for token_id in range(vocab_size)])
    writer.add_token_types([kind_of(token_id) for token_id in range(vocab_size)])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    start, end = _added(tokenizer)
    writer.add_add_bos_token(bool(start))
    writer.add_add_eos_token(bool(end))
    # Where a file names none, llama.cpp takes the token 11.
    writer.add_bos_token_id(tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = [{"name": name, "template": text} for name, text in template.items()]
    if template:
        writer.add_chat_template(template)


def check_tokens(file: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Compares the tokens of `HARD_TEXTS`, by what the file holds and llama.cpp's rules, with the tokenizer's own.

    Raises:
        `ConversionError`: they differ.
    """
    ours, theirs = _core(tokenizer), _read_tokenizer(file)
    added = [token.content for token in tokenizer.added_tokens_decoder.values()]
    start, end = _added(tokenizer)
    for text in (*HARD_TEXTS, *(f"Read{token} {token}\n{token}{token}" for token in added)):
        expected, found = _encode(ours, text), [*start, *_encode(theirs, text), *end]
        if expected != found:
            raise ConversionError(
                f"{file.name}, read back, cuts {text!r} into the tokens {found}, expected {expected}: llama.cpp has no "
                "rules for this tokenizer, so the model cannot go there. Nothing was written"
            )


def _read_tokenizer(file: Path) -> Tokenizer:
    """What llama.cpp makes of the file: its tokens and merges under the rules "gpt-2"."""
    from gguf import GGUFReader, TokenType

    fields = GGUFReader(file).fields
    tokens, kinds, merges = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "token_type", "merges"))
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    core = Tokenizer(models.BPE(vocabulary, [tuple(merge.split(" ")) for merge in merges]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    for token, kind in zip(tokens, kinds, strict=True):
        if kind in (TokenType.CONTROL, TokenType.USER_DEFINED):
            core.add_tokens([AddedToken(token, special=kind == TokenType.CONTROL, normalized=False)])
    return core
